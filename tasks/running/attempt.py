"""Makes sure that one process carries a flow run out, and closes what an earlier one left open.

A run that has crashed is started again by an automation and by whoever presses Retry, and nothing
in Prefect stops both: the automation may set the state of a run that a worker has just taken up, so
that a worker takes it up once more. Both processes would compute side by side, until Prefect found
that the first one has lost its place in the limit of its deployment, and let the run crash.

So a process that starts writes its name into the store, in place of the one before, and each looks
every few seconds whether its name is still there. The newest goes on: it is the one that Prefect
counts, cancels and watches. The older one ends, gives up the stage at work, and says nothing to
Prefect; what it has committed is found by the other.
"""

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
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

from engine.recipes.descent import DescentRecipe
from engine.stages.run import Run
from engine.storage.location import join, remove_file
from engine.storage.places import AT_WORK
from engine.storage.records import read_record, write_record

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Time between two looks; a second process that is started needs longer to begin."""


class Attempt:
    """This process, as the one that carries out a flow run.

    Args:
        url: URL of the record that names the process.
    """

    def __init__(self, url: str) -> None:
        self.url, self.name = url, uuid.uuid4().hex
        write_record(url, {"process": self.name})
        self._looked = time.monotonic()

    def is_the_newest(self) -> bool:
        """Say whether no other process has taken the flow run over; a store that is away: yes."""
        self._looked = time.monotonic()
        try:
            return read_record(self.url).get("process") == self.name
        except Exception as error:  # of a store that does not answer the stages tell
            logger.warning("It cannot be seen whether this is the only process: %s", error)
            return True

    def go_on(self) -> None:
        """End this process if another one has taken the flow run over.

        Raises:
            Abort: Ends the flow without a word to Prefect about its state.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS or self.is_the_newest():
            return
        words = "Another process is at work on this flow run; this one ends and leaves it to that."
        get_run_logger().warning(words)
        raise Abort(words)

    def end(self) -> None:
        """Delete the record if it is still this process's; nothing depends on it."""
        with suppress(Exception):
            if self.is_the_newest():
                remove_file(self.url)


_current: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


def go_on() -> None:
    """End this process if another one carries out its flow run; see ``Attempt.go_on``."""
    attempt = _current.get()
    if attempt is not None:
        attempt.go_on()


@contextmanager
def one_process(recipe: DescentRecipe, store: str) -> Iterator[None]:
    """Carry out a flow run inside the block, in place of any process that has begun to.

    Only runs of deployments are started by others than the person who waits for them.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if context is None or run is None or run.deployment_id is None:
        yield
        return
    folder = Run(recipe.descent, store).file(AT_WORK)
    attempt = Attempt(join(folder, f"{run.id.hex}.json"))
    token = _current.set(attempt)
    try:
        if run.run_count > 1:
            _close(run.id, before=context.start_time)
        yield
        if run.run_count > 1:  # by now the server has heard of the last ones
            _close(run.id, before=context.start_time)
    finally:
        _current.reset(token)
        attempt.end()


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
