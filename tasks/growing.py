"""The report of a run while it goes on: in the store, and as one artifact of the UI.

It is drawn in a thread of its own, so that no stage waits for it, and only as often as it can be:
what came meanwhile is in the next drawing. What goes wrong there is logged, and stops nothing.
"""

import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import Abort
from prefect.runtime import flow_run

from engine.errors import ConfigurationError, EngineError, StoreError, with_settings
from engine.preflight.verdict import CheckReport
from engine.progress.board import Board
from engine.progress.displays import LINES, ticking
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import MEASURED
from engine.recipes.names import run_name
from engine.reports.page import REPORT, as_markdown
from engine.reports.sections import Page
from engine.runs.growing import page_of_stages, stopped, write_so_far
from engine.runs.starts import note_stop
from engine.secret_urls import redacted
from engine.storage.location import join
from engine.storage.places import RECIPE, run_file, run_folder
from engine.storage.records import read_bytes
from tasks.running.artifacts import earlier_artifact, say_in_ui, ui_address
from tasks.running.bars import this_part

_PAUSE = 5.0
"""Shortest time in seconds between two drawings."""

_GROWS = "The report, which grows while the run goes on"
_WHY = "Why it stopped, and how it goes on"

_ARTIFACTS: dict[tuple[str, str, str], UUID] = {}
"""Flow run, store and name of a run to the artifact that shows it."""


_STOPPED: set[tuple[str, str, str]] = set()
"""The same of those whose end before that of the run has been told."""


def _place(store: str, run: str) -> tuple[str, str, str]:
    return str(flow_run.id), store, run


def artifact_stem(recipe: DescentRecipe) -> str:
    """Return the stem of the names of a run's artifacts.

    A measurement has the recipe that it measures, whose own report would be under what is newer.
    """
    return f"{MEASURED}-{recipe.name}" if recipe.kind == MEASURED else recipe.name


def show_markdown(store: str, run: str, name: str, text: str, says: str = _GROWS) -> None:
    """Show a run's report in the UI: by an artifact, which is rewritten from then on.

    Args:
        store: fsspec URL of the store in which it lies too; empty if it is in none.
        run: Name of the run.
        name: Name by which its artifacts are called.
        text: Markdown.
        says: What stands before the link to it in the log.
    """
    if store:
        text += f"\n\nReport: {join(run_folder(store, run), REPORT)}"
    place = _place(store, run)
    key, description = f"report-{name}", f"Run {run}"
    artifact = _ARTIFACTS.get(place) or earlier_artifact(key, description)
    if artifact is None:
        made = create_markdown_artifact(text, key=key, description=description)
        # Prefect's artifact functions are both sync and async; outside a coroutine they are sync.
        _ARTIFACTS[place] = cast("UUID", made)
        # Both UIs make a link of an address in a log, which is the page that a run opens with.
        link = ui_address(f"/artifacts/artifact/{made}")
        if link:
            say_in_ui(f"{says}: {link}")
        return
    _ARTIFACTS[place] = artifact
    with get_client(sync_client=True) as client:
        client.update_artifact(artifact, ArtifactUpdate(data=text))


class GrowingReport:
    """Report of an unfinished run of any kind, which is drawn again now and then.

    Until it has a page of its own to show (``show``), it says which stages are done, what was
    found, and how long the run still takes.

    Args:
        recipe: The set-up, of any kind.
        store: fsspec URL of the store.
        title: Title of the report.
        board: Where the run stands; None if its parts are runs of their own.

    Attributes:
        checks: What the preflight found; set once it is known.
    """

    def __init__(
        self, recipe: DescentRecipe, store: str, title: str, board: Board | None = None
    ) -> None:
        self._recipe, self._store, self._title, self._board = recipe, store, title, board
        self._run = run_name(recipe.descent)
        self._logger, self._part = get_run_logger(), this_part()
        self.checks: CheckReport | None = None
        self._findings: list[str] = []
        self._own: Callable[[], Page] | None = None
        self._drawn: object = None
        self._is_over = False
        self._drawing = threading.Lock()

    def add_finding(self, sentence: str) -> None:
        """Add a finding to the page, from the next drawing on."""
        self._findings.append(sentence)
        self._logger.info("%s", sentence)
        if self._part is None:  # the whole says what came of a part
            LINES.info("%s", sentence)

    def show(self, make: Callable[[], Page]) -> None:
        """Show a page of its own soon, in place of any that waits to be shown.

        Args:
            make: Draws it, in another thread.
        """
        self._own = make

    def stop(self) -> None:
        """Draw no more, and wait for a drawing that has begun: it must not come after the end."""
        with self._drawing:
            self._is_over = True

    def tell_stop(self, error: BaseException) -> None:
        """Show on page, in the store and in the UI that the start ended before its run, and why.

        Only the first call shows it. Nothing is shown if the store itself failed, which would be
        waited for once more, or if another process goes on with the run. The UI is left out if the
        whole process ends, and maybe the server with it.
        """
        self.stop()
        place = _place(self._store, self._run)
        if isinstance(error, StoreError | Abort) or place in _STOPPED:
            return
        _STOPPED.add(place)
        try:
            self._tell_stop(error)
        except Exception as failed:  # what stopped the run is what users have to know
            self._logger.warning("That the run stopped is not on its page: %s", failed)

    def _tell_stop(self, error: BaseException) -> None:
        store, run = self._store, self._run
        cause, is_refused = _cause(error), isinstance(error, ConfigurationError)
        note_stop(store, run, " ".join(cause.split()), refused=is_refused)
        begun = read_bytes(run_file(store, run, RECIPE)) is not None
        command = f"mgd resume {shlex.quote(run)} --store {shlex.quote(store)}" if begun else ""
        make, _ = self._newest()
        page = stopped(make(), cause, command, tells=self._own is not None, is_refused=is_refused)
        if begun:
            write_so_far(store, run, lambda: page)
        if not isinstance(error, SystemExit | KeyboardInterrupt):
            text = as_markdown(page)
            if begun and not is_refused:
                text += "\n\nIn this UI, Retry on the page of the flow run does the same."
            show_markdown(store if begun else "", run, artifact_stem(self._recipe), text, _WHY)

    def look(self) -> None:
        """Draw the page again if something is new."""
        with self._drawing:
            make, state = self._newest()
            if self._is_over or state == self._drawn:
                return
            self._drawn = state
            try:
                page = write_so_far(self._store, self._run, make)
                if page is None:
                    self._is_over = True  # it has ended before, and its report says more than this
                    return
                show_markdown(
                    self._store, self._run, artifact_stem(self._recipe), as_markdown(page)
                )
            except Exception as error:  # nobody may lose a run by it
                self._logger.warning("The report so far could not be written: %s", error)

    def _newest(self) -> tuple[Callable[[], Page], object]:
        """Return a function that draws the page, and the data that it depends on."""
        if self._own is not None:
            return self._own, self._own
        seen = None if self._board is None else self._board.snapshot()
        findings = tuple(self._findings)
        make = partial(page_of_stages, self._recipe, self._title, seen, findings, self.checks)
        return make, (seen and (seen.done, seen.work), findings, self.checks is not None)


@contextmanager
def growing(
    recipe: DescentRecipe, store: str, title: str, board: Board | None = None
) -> Iterator[GrowingReport]:
    """Keep a report up to date inside the block; see ``GrowingReport``."""
    page = GrowingReport(recipe, store, title, board)
    with ticking(page.look, _PAUSE):
        try:
            yield page
        except BaseException as error:
            page.tell_stop(error)
            raise
        finally:
            page.stop()


@contextmanager
def told_if_stopped(recipe: DescentRecipe, store: str, title: str) -> Iterator[None]:
    """Record in the run and the UI why a start ends, if it ends inside the block.

    What ``growing`` is around has a page and says so itself; this is around all of a flow, which
    may be refused, or get no workers, before it has one.
    """
    try:
        yield
    except BaseException as error:
        GrowingReport(recipe, store, title).tell_stop(error)
        raise


def _cause(error: BaseException) -> str:
    """Return why a start ended, in the words of the command that began it."""
    if isinstance(error, EngineError):
        return redacted(with_settings(str(error), error.settings)) or type(error).__name__
    if not isinstance(error, Exception):
        return "It was stopped from outside: by Ctrl-C, by a signal, or in the UI."
    return f"{type(error).__name__}: {redacted(str(error))}"
