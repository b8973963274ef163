"""One process carries a flow run out, and puts away what an earlier one left open.

A run that has crashed is started again by an automation and by whoever presses Retry, and nothing
in Prefect stops both: the automation may set the state of a run that a worker has just taken up, so
that another worker takes it up as well. Both processes would compute side by side to the end. So
each takes a lease of the flow run, in the store, which sees dead owners and clocks that differ
(``engine.lease``); a process that finds a living owner ends, and says nothing to Prefect.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.exceptions import Abort
from prefect.states import Crashed

from engine.claims import run_name
from engine.config import DescentRecipe
from engine.errors import StoreError
from engine.lease import acquire, newest_token
from engine.location import join, remove_folder
from engine.records import read_record
from engine.runs import run_folder

logger = logging.getLogger(__name__)

FOLDER = "at-work"
"""In the folder of a run: the leases of the flow runs that carry it out."""


@contextmanager
def one_process(recipe: DescentRecipe, store: str) -> Iterator[None]:
    """Carry out a flow run inside the block, unless another process does so already.

    Only runs of deployments are started by others than the person who waits for them.

    Raises:
        Abort: If another process does; Prefect then ends this one and leaves the state as it is.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if context is None or run is None or run.deployment_id is None:
        yield
        return
    folder = join(run_folder(store, run_name(recipe.descent)), FOLDER, run.id.hex)
    lease = acquire(folder, _Owner(folder).lives)
    if lease is None:
        get_run_logger().warning(
            "Another process is at work on this flow run; this one ends and leaves it to that one."
        )
        raise Abort("Another process is at work on this flow run.")
    with lease:
        if run.run_count > 1:
            _close(run.id, before=context.start_time)
        yield
        if run.run_count > 1:  # by now the server has heard of the last ones
            _close(run.id, before=context.start_time)
    with suppress(Exception):  # nothing depends on it
        remove_folder(folder)


class _Owner:
    """Whoever holds a lease, seen from outside: it renews the lease while it lives.

    Args:
        folder: URL of what the lease is of.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._seen: tuple[int, int] | None = None

    def lives(self) -> bool:
        """Say whether the lease was renewed, or taken by another one, since the first look."""
        token = newest_token(self.folder)
        try:
            content = read_record(join(self.folder, "leases", f"{token:08d}.json"))
        except StoreError:
            return False  # given up in between, or about to be written again
        found = (token, content.get("renewed", 0))
        self._seen = self._seen or found
        return found != self._seen and not content.get("released")


def _close(run: UUID, before: datetime) -> None:
    """Set task runs that an earlier process of a flow run left open to ``Crashed``.

    They stay ``Running`` otherwise: the process that would have ended them is no more.

    Args:
        run: The flow run.
        before: The start of this process; what started later is at work.
    """
    still_open = [StateType.RUNNING, StateType.PENDING]
    try:
        with get_client(sync_client=True) as client:
            found = client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])),
                task_run_filter=TaskRunFilter(
                    state=TaskRunFilterState(type=TaskRunFilterStateType(any_=still_open))
                ),
            )
            state = Crashed(message="Its process has ended; the stage was done again.")
            for each in found:
                started = each.start_time or each.expected_start_time or each.created
                if started is not None and started < before:
                    client.set_task_run_state(each.id, state, force=True)
    except Exception as error:  # a list that looks nicer is not worth a run
        logger.warning("Task runs of the process before were left open: %s", error)
