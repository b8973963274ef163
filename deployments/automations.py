"""Makes the automations that let a run survive its machine; run again, it makes no second ones.

A process that is killed, or a machine that is lost, cannot say so. Workers report the first as
``Crashed``. The second leaves a run ``Running`` for ever, unless somebody misses its heartbeat.

Usage: ``python -m deployments.automations``, with ``PREFECT_API_URL`` set.
"""

import argparse
from collections.abc import Sequence
from datetime import timedelta

from prefect.automations import AutomationCore, EventTrigger, Posture, ResourceSpecification
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState

from flows.cli.terminal.screen import say

RESUME_TAG = "auto-resume"
"""Runs with this tag go on by themselves after a crash."""

_RUN = {"prefect.resource.id": "prefect.flow-run.*"}

_WAITS = {
    f"prefect.flow-run.{state}"
    for state in (
        *("Scheduled", "AwaitingRetry", "Late", "Pending", "AwaitingConcurrencySlot"),
        *("Paused", "Suspended", "Resuming"),
    )
}
_ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled")}


def crash_lost_runs(heartbeat_seconds: int) -> AutomationCore:
    """Return the automation that marks a run ``Crashed`` when its heartbeat stops.

    Args:
        heartbeat_seconds: ``PREFECT_FLOWS_HEARTBEAT_FREQUENCY`` of the runs. Three beats must be
            missing, because a busy server delivers some late.
    """
    return AutomationCore(
        name="mgd: lost runs are crashed",
        description="A run without a heartbeat has lost its machine.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            # A run that waits, for a place or for a person, sends no heartbeat and is not lost.
            expect={"prefect.flow-run.heartbeat"} | _WAITS | _ENDS,
            match=ResourceSpecification(_RUN),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=3 * heartbeat_seconds),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message="No heartbeat: its process or machine is lost."
            )
        ],
    )


def resume_crashed_runs(max_attempts: int, wait_seconds: int) -> AutomationCore:
    """Return the automation that schedules a crashed run again; its finished stages are cached.

    Args:
        max_attempts: Starts of one run after which it stays ``Crashed``: what kills a run each
            time, such as too little memory, would otherwise kill it for ever.
        wait_seconds: Time between the crash and the new start, at least 10. A worker reports a
            crash twice, the second time up to 10 s later, and that would crash a run which by
            then goes on.
    """
    attempts = [str(attempt) for attempt in range(1, max_attempts)]
    return AutomationCore(
        name="mgd: crashed runs go on",
        description=f"Runs tagged {RESUME_TAG} are started {max_attempts} times at most.",
        trigger=EventTrigger(
            after={"prefect.flow-run.Crashed"},
            expect=_WAITS | {"prefect.flow-run.Running"},
            match=ResourceSpecification({**_RUN, "prefect.run-count": attempts}),
            match_related=ResourceSpecification(
                {
                    "prefect.resource.id": f"prefect.tag.{RESUME_TAG}",
                    "prefect.resource.role": "tag",
                }
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=wait_seconds),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.SCHEDULED,
                name="AwaitingRetry",  # the only kind of schedule that a finished run may go to
                message="Goes on from its finished stages.",
            )
        ],
    )


def put(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create an automation, or update the one of that name; a paused one stays paused."""
    found, *doubles = client.read_automations_by_name(automation.name) or [None]
    for double in doubles:
        client.delete_automation(double.id)
    if found is None:
        client.create_automation(automation)
    else:
        client.update_automation(found.id, automation.model_copy(update={"enabled": found.enabled}))
    say(f"automation {automation.name!r} is there")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make both automations."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.automations", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--heartbeat-seconds", type=int, default=180, help="default 180, Prefect's")
    parser.add_argument("--max-attempts", type=int, default=10, help="of one run; default 10")
    parser.add_argument("--wait-seconds", type=int, default=60, help="after a crash; default 60")
    options = parser.parse_args(arguments)
    with get_client(sync_client=True) as client:
        put(client, crash_lost_runs(options.heartbeat_seconds))
        put(client, resume_crashed_runs(options.max_attempts, options.wait_seconds))


if __name__ == "__main__":
    main()
