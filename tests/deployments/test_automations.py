"""The automations that find lost runs and start crashed ones again."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent

from deployments import automations
from engine.recipes.files import list_recipes
from flows import deploying
from tests.deployments.targets import target


def event(name, *, attempt=1, tags=("auto-resume",)):
    """Return what the server tells of a flow run."""
    related = [
        {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}
        for tag in tags
    ]
    return ReceivedEvent(
        id=uuid4(),
        occurred=datetime.now(UTC),
        event=f"prefect.flow-run.{name}",
        resource={
            "prefect.resource.id": f"prefect.flow-run.{uuid4()}",
            "prefect.run-count": str(attempt),
        },
        related=related,
    )


def trigger(automation):
    """Return the trigger as the server reads it, which alone can match events."""
    return EventTrigger.model_validate(automation.trigger.model_dump(mode="json"))


@pytest.mark.slow
def test_deployments_carry_the_tag():
    """The automation and the deployments agree only by a word."""
    tags = [deploying.recipe_deployment(name, target("process")).tags for name in list_recipes()]

    assert tags
    assert all(automations.RESUME_TAG in each for each in tags)


RESUME = trigger(automations.resume_crashed_runs(max_attempts=3, wait_seconds=60))


@pytest.mark.parametrize("attempt", [1, 2])
def test_crashed_run_goes_on(attempt):
    """Its finished stages are in the store: going on costs only the one that was interrupted."""
    crash = event("Crashed", attempt=attempt)

    assert RESUME.covers(crash)
    assert RESUME.starts_after(crash.event)


@pytest.mark.parametrize(
    "other",
    [
        event("Crashed", attempt=3),
        event("Crashed", tags=("mgd",)),
        event("Failed"),
        event("Cancelled"),
    ],
    ids=["crashed-too-often", "without-tag", "failed", "cancelled"],
)
def test_other_run_stays_as_it_is(other):
    """What crashes each time would crash for ever, and what failed or was stopped is told."""
    assert not (RESUME.covers(other) and RESUME.starts_after(other.event))


@pytest.mark.parametrize("name", ["AwaitingRetry", "Pending", "Running"])
def test_run_that_somebody_has_retried_is_not_started_twice(name):
    """Two processes with one run would both do what is left of it."""
    assert RESUME.expects(f"prefect.flow-run.{name}")


@pytest.mark.parametrize(
    ("name", "lives"),
    [("heartbeat", True), ("AwaitingRetry", True), ("Completed", True), ("Running", False)],
)
def test_run_that_waits_or_has_ended_is_not_lost(name, lives):
    """A run that waits for another machine sends no heartbeat; crashing it would start it twice."""
    assert trigger(automations.crash_lost_runs(180)).expects(f"prefect.flow-run.{name}") is lives


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_second_run_of_the_script_changes_the_first_ones():
    """Two automations of a kind would start one run twice; what somebody paused stays paused."""
    automations.main([])
    with get_client(sync_client=True) as client:
        (first,) = [each for each in client.read_automations() if "crashed runs" in each.name]
        client.pause_automation(first.id)
        automations.main(["--max-attempts", "3"])
        found = client.read_automations()

    assert sorted(each.name for each in found) == [
        "mgd: crashed runs go on",
        "mgd: lost runs are crashed",
    ]
    (again,) = [each for each in found if each.id == first.id]
    assert again.trigger.match["prefect.run-count"] == ["1", "2"]
    assert not again.enabled
