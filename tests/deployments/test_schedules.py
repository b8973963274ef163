"""A schedule that is switched on makes runs, and they run: on both databases, of every kind.

The scheduler is a service of the server's own. Where it fails, only the server's log says so:
the UI shows the schedule as on, and no run ever comes.
"""

from datetime import UTC, datetime

import pytest

from tests.deployments.site import DEPLOYMENT, as_settings, small
from tests.helpers.machine.servers import wait_for

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]


def runs(site, schedule):
    """Return the flow runs that the scheduler has made of a schedule."""
    deployment = {"id": {"any_": [site.api.deployment()["id"]]}}
    found = site.api.post("/flow_runs/filter", deployments=deployment, limit=200)
    keys = (f"scheduled {site.api.deployment()['id']} {schedule}",)
    return [
        each
        for each in found
        if each["auto_scheduled"] and each["idempotency_key"].startswith(keys)
    ]


@pytest.fixture
def add_schedule(site):
    """Add an active schedule to the deployment, and take it away after the test."""
    path = f"/deployments/{site.api.deployment()['id']}/schedules"
    added = []

    def add(schedule, **more):
        (made,) = site.api.post_list(path, [{"schedule": schedule, "active": True, **more}])
        added.append(made["id"])
        return made["id"]

    yield add
    for each in added:
        site.api.delete(f"{path}/{each}")


def test_scheduled_run_is_made_and_completed(site, add_schedule):
    """The whole way: the scheduler makes a run, the worker starts it, it ends well."""
    recipe = small(30, "outer.num_steps=1")
    schedule = add_schedule(
        {"interval": 20, "anchor_date": datetime.now(UTC).isoformat()},
        parameters={"settings": as_settings(recipe)},
    )

    made = wait_for("a scheduled run", lambda: runs(site, schedule))
    first = min(made, key=lambda each: each["expected_start_time"])["id"]
    site.api.ends(first)

    assert site.record(recipe).stages.total > 0


@pytest.mark.parametrize(
    "schedule",
    [
        {"cron": "* * * * *", "timezone": "UTC"},
        {"rrule": "DTSTART:20260101T000000\nFREQ=MINUTELY;INTERVAL=5", "timezone": "UTC"},
    ],
    ids=["cron", "rrule"],
)
def test_other_kinds_of_schedule_make_runs(site, add_schedule, schedule):
    """Each kind has code of its own for its next times."""
    settings = as_settings(small(31, "outer.num_steps=1"))

    schedule = add_schedule(schedule, parameters={"settings": settings})

    wait_for("scheduled runs", lambda: len(runs(site, schedule)) >= 2)


def test_schedule_of_a_deployment_makes_runs_when_it_is_switched_on(site):
    """By the command of the document, which is what people do after they have deployed."""
    name = f"descent/{DEPLOYMENT}"
    (schedule,) = site.api.deployment()["schedules"]

    site.call("prefect", "deployment", "schedule", "resume", name, schedule["id"])
    try:
        made = wait_for("scheduled runs", lambda: runs(site, schedule["id"]))
    finally:
        site.call("prefect", "deployment", "schedule", "pause", name, schedule["id"])

    assert {each["expected_start_time"][11:16] for each in made} == {"02:00"}
