"""The report of a descent while it goes on: in the store, and as one artifact of the UI.

It is drawn in a thread of its own, so that no stage waits for it, and only as often as it can be:
what came meanwhile is in the next drawing. What goes wrong there is logged, and stops nothing.
"""

import threading
from collections.abc import Sequence
from contextvars import copy_context
from functools import partial
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.runtime import flow_run

from engine.applications.descent.growing import page_so_far
from engine.applications.descent.record import Iterate
from engine.preflight.verdict import CheckReport
from engine.recipes.descent import DescentRecipe
from engine.recipes.names import run_name
from engine.reports.page import REPORT, as_markdown
from engine.runs.growing import write_so_far
from engine.storage.location import join
from engine.storage.places import run_folder

_PAUSE = 5.0
"""Shortest time in seconds between two drawings."""

_ARTIFACTS: dict[tuple[str, str, str], UUID] = {}
"""Flow run, store and name of a run to the artifact that shows it."""


def show_markdown(store: str, run: str, name: str, text: str) -> None:
    """Show a run's report in the UI: by an artifact, which is rewritten from then on.

    Args:
        store: fsspec URL of the store.
        run: Name of the run.
        name: Of its recipe.
        text: Markdown.
    """
    text += f"\n\nReport: {join(run_folder(store, run), REPORT)}"
    place = (str(flow_run.id), store, run)
    artifact = _ARTIFACTS.get(place)
    if artifact is None:
        made = create_markdown_artifact(text, key=f"report-{name}", description=f"Run {run}")
        # Prefect's artifact functions are both sync and async; outside a coroutine they are sync.
        _ARTIFACTS[place] = cast("UUID", made)
        return
    with get_client(sync_client=True) as client:
        client.update_artifact(artifact, ArtifactUpdate(data=text))


class GrowingReport:
    """Draws what a descent has found until now, whenever an iterate is there.

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        checks: What the preflight found.
        started: UTC time of the start, ISO 8601.
    """

    def __init__(
        self, recipe: DescentRecipe, store: str, checks: CheckReport, started: str
    ) -> None:
        self._recipe, self._store, self._run = recipe, store, run_name(recipe)
        self._page = partial(page_so_far, recipe, checks, started)
        self._logger = get_run_logger()
        self._waiting: list[Iterate] | None = None
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def show(self, iterates: Sequence[Iterate]) -> None:
        """Show these iterates soon, in place of any that wait to be shown."""
        with self._lock:
            self._waiting = list(iterates)
            if self._thread is None or not self._thread.is_alive():
                work = copy_context()  # it says which run and which server
                self._thread = threading.Thread(target=work.run, args=(self._draw,), daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Draw no more, and wait for a drawing that has begun: it must not come after the end."""
        self._stopped.set()
        thread = self._thread  # which forgets itself when nothing waits
        if thread is not None:
            thread.join()

    def _draw(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                iterates, self._waiting = self._waiting, None
                if iterates is None:
                    self._thread = None
                    return
            try:
                page = write_so_far(self._store, self._run, partial(self._page, iterates))
                if page is None:
                    return  # it has ended before, and its report says more than this would
                show_markdown(self._store, self._run, self._recipe.name, as_markdown(page))
            except Exception as error:  # nobody may lose a run by it
                self._logger.warning("The report so far could not be written: %s", error)
            self._stopped.wait(_PAUSE)
