"""Progress of a run, reported to Prefect's UI, to its log, and to a terminal.

Where the run stands is on a board (``engine.progress.board``), which a terminal looks at by itself.
In the UI an artifact says it in a sentence, written anew in its place every few seconds, also by a
process that goes on with the flow run of another.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from prefect import get_run_logger
from prefect.context import FlowRunContext

from engine.planning.expected import Expected
from engine.planning.forecast import Forecast, read_forecast
from engine.progress.board import Board, Course
from engine.progress.displays import LINES, ticking
from engine.progress.meter import Meter, listening
from engine.progress.names import about, in_words
from engine.progress.snapshot import BETWEEN, Snapshot
from engine.progress.time_left import REPORT, Work
from engine.recipes.descent import DescentRecipe
from engine.recipes.names import run_name
from engine.recipes.titles import run_title
from engine.runs.run import Scores
from engine.stages.references import Ref
from engine.stages.run import Run
from tasks.running.artifacts import ui_address
from tasks.running.bars import Bar, Shown, this_part
from tasks.running.elsewhere import Elsewhere
from tasks.running.workers import Workers

logger = logging.getLogger(__name__)

UPDATE_SECONDS = 2.0
"""Time between two looks at what the UI has to be told."""


def say(level: int, line: str) -> None:
    """Say something in the log of the flow run, and in the terminal if there is one."""
    for each in (get_run_logger(), LINES):
        each.log(level, line)


class Progress:
    """Shows the progress of a run, from its first stage to its end.

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        course: What the run will do.
        workers: Who carries its stages out.
    """

    def __init__(
        self, recipe: DescentRecipe, store: str, course: Course, workers: Workers | None = None
    ) -> None:
        self.meter = listening() or Meter()
        self.board = Board(course, self.meter)
        self._elsewhere: Elsewhere | None = None
        if workers is not None and workers.runner is not None:
            self._elsewhere = Elsewhere(Run(recipe, store), self.board, workers.hear)
        part = this_part()
        if part is not None:
            part.board = self.board
        self._bar: Shown = part or Bar(f"progress-{run_name(recipe)}")
        self._given_up = ""
        self._is_stopped = False
        self._waiting: list[Callable[[], bool]] = []
        self._lock = threading.Lock()

    @property
    def num_stages(self) -> int:
        """Number of stages that the run will have."""
        return self.board.total

    def begins(self, name: str, kind: str) -> None:
        """Note that a stage begins; a stage in another process reports its beginning itself."""
        self._given_up = ""
        if self._elsewhere is None:
            self.board.begin(name, kind)
        else:
            self._elsewhere.begin(name)

    def ends(self, name: str, kind: str, ref: Ref, *, cached: bool = False) -> None:
        """Note that a stage is done, which is kept as ``ref``."""
        if self._elsewhere is not None:
            self._elsewhere.end(name, kind, ref, cached=cached)
        else:
            self.board.end(name, cached=cached)

    def begins_again(self, name: str) -> None:
        """Note that a stage is given up, and will be handed in again unless the run stops."""
        self._given_up = in_words(name)
        if self._elsewhere is not None:
            self._elsewhere.drop(name)
        else:
            self.board.drop(name)

    def scored(self, outer_step: int, scores: dict[str, Scores]) -> None:
        """Say what the model of an outer step scores, the moment that this is known."""
        place = self.board.scored(outer_step, scores)
        get_run_logger().info(self.board.snapshot().outer_sentence(place))

    def when(self, look: Callable[[], bool]) -> None:
        """Ask again and again, from a thread of its own, until something has happened.

        Args:
            look: Returns whether it has, and says so by itself.
        """
        with self._lock:
            self._waiting.append(look)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Note that record and report are written inside the block."""
        with self.board.at_work(REPORT, REPORT):
            yield

    def look(self) -> None:
        """Report news to the UI; what fails is tried again at the next call."""
        if not self._is_stopped:
            if self._elsewhere is not None:
                self._elsewhere.look()
            with self._lock:
                self._waiting = [each for each in self._waiting if not _happened(each)]
        seen = self.board.snapshot()
        sentence = self._stopped(seen) if self._is_stopped else seen.sentence()
        self._bar.show(100 * seen.share, sentence)

    def stops(self) -> None:
        """Note that the run does not come to its end; others of this process may go on."""
        self._is_stopped = True
        self.board.abandon()

    def _stopped(self, seen: Snapshot) -> str:
        where = self._given_up or seen.work
        at = "" if where == BETWEEN else "at "
        kept = "1 finished stage is" if seen.done == 1 else f"{seen.done} finished stages are"
        return f"Stopped {at}{where}; {kept} kept."


def _happened(look: Callable[[], bool]) -> bool:
    """Ask whether something has happened; if that cannot be seen, it is asked again."""
    with suppress(Exception):
        return look()
    return False


def _say_where(title: str, store: str, num_stages: int, plan: Forecast | None) -> None:
    """Report at the start what runs where, and its expected time."""
    logger, part = get_run_logger(), this_part()
    if part is not None:
        logger.info("%s: run %s, %d stages", part.name, title, num_stages)
        return
    logger.info("Run %s in %s", title, store)
    expected = f", {about(plan.seconds.run)} and a preflight by the plan" if plan else ""
    logger.info("%d stages%s", num_stages, expected)
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        link = ui_address(f"/runs/flow-run/{context.flow_run.id}")
        if link:
            LINES.info("In Prefect: %s", link)


@contextmanager
def following(
    recipe: DescentRecipe,
    store: str,
    works: Callable[[Expected], list[Work]],
    workers: Workers,
) -> Iterator[Progress]:
    """Show the progress of a run while it is carried out inside the block.

    Args:
        recipe: Recipe of the run, of any kind.
        store: fsspec URL of the store.
        works: Returns what it will do.
        workers: Who carries it out.
    """
    descent = recipe.descent
    expected = Expected(descent, read_forecast(store, run_name(descent)), recipe.num_outputs)
    part, title = this_part(), run_title(recipe)
    course = Course(
        title=title if part is None else part.name,
        works=works(expected),
        in_seconds=expected.in_seconds,
        outer=descent.outer,
    )
    progress = Progress(descent, store, course, workers)
    _say_where(title, store, progress.num_stages, expected.plan)
    with suppress(Exception):
        progress.look()
    with ticking(progress.look, UPDATE_SECONDS):
        try:
            yield progress
        except BaseException:
            progress.stops()
            raise
        progress.board.finish()
