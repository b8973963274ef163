"""What commands and notebooks read of a store besides the oldest ones, for the fuzzer.

``mgd compare``, ``open``, ``send``, ``export`` and completion, a run as an object, and how far
stages on other machines are; see ``tests.faults.store_reads``.
"""

import contextlib
import tempfile
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import cycle
from types import SimpleNamespace
from typing import Any
from unittest import mock

from engine.applications import trackers
from engine.applications.descent import export
from engine.applications.open_run import OpenRun, open_run
from engine.problems.segments import segments
from engine.recipes.descent import DescentRecipe
from engine.runs import run as stored
from engine.runs.run import begin_run
from engine.runs.stored_places import check_places
from engine.stages import training as stages
from engine.stages.claims import claim
from engine.stages.run import Run
from engine.storage.location import join
from engine.storage.names import label
from engine.storage.places import PROGRESS
from engine.storage.records import write_record
from flows.cli import comparing, opening
from flows.cli.completing import complete_change, complete_run
from flows.cli.sending import Sender
from tasks.running.elsewhere import Elsewhere

NOWHERE = "nowhere"

_turns = cycle(range(10))


class Nowhere:
    """A tracker that keeps nothing."""

    def settings(self, values: Mapping[str, str]) -> None:
        """See ``engine.applications.trackers.Tracker``."""
        assert all(isinstance(each, str) for pair in values.items() for each in pair)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See ``engine.applications.trackers.Tracker``."""
        assert all(isinstance(each, float | int) for each in (*values.values(), step))

    def close(self) -> None:
        """See ``engine.applications.trackers.Tracker``."""


def unfinished(recipe: DescentRecipe, store: str) -> str:
    """Leave a run in a store that was stopped after its first scores; return its name."""
    begin_run(recipe, store)
    run = Run(recipe, store)
    value = stages.initial_value(run)
    made, state = [value], None
    for part in segments(recipe):
        state = stages.train_segment(run, part, value, state)
        made.append(state)
    assert state is not None
    scores = stages.evaluate(run, state)
    for each in (*made, scores):
        claim(store, run.name, each.stage, each.key, f"{each.stage}[0]", cached=False)
    told = {"stage": scores.stage, "name": "train[0]", "step": 1, "num_steps": 4}
    more = {"forward": 1, "reverse": 0, "is_reversed": False}
    write_record(join(run.file(PROGRESS), f"{label(scores.stage, scores.key)}.json"), told | more)
    return run.name


def opened_reads(store: str, runs: list[str]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Name what is read of a store.

    Args:
        store: The store.
        runs: Names of its runs, a finished one first, and last one that was stopped.
    """
    yield "compare", partial(comparing.compare, runs, store, None, as_json=True)
    if next(_turns) == 0:  # drawing the curves takes longer than all the rest
        yield "compare", partial(comparing.compare, runs, store, "/dev/null", as_json=False)
    yield "completion", partial(_complete, store)
    yield "export", partial(_export, store, runs[0])
    yield "progress", partial(_look, store, runs[-1])
    for run in (runs[0], runs[-1]):
        yield f"open {run}", partial(_open, store, run)
        yield f"send {run}", partial(_send, store, run)
        for name, use in USES.items():
            yield f"{name} of {run}", partial(_use, store, run, use)


def _complete(store: str) -> None:
    context: Any = SimpleNamespace(params={"store": store}, args=["digits-selection"])
    found = complete_run(context, "digits")
    assert all(name.isprintable() for name, _ in found)
    complete_change(context, "training.")


def _export(store: str, run: str) -> None:
    """Do what ``mgd export`` does before it builds the problem."""
    name = stored.find_run(store, run)
    assert stored.read_recipe(store, name).kind == "descent"
    record = export.read_run(store, name)
    check_places(record.recipe, name, store)
    export._state(store, name, export._iterate(record, None))


def _look(store: str, run: str) -> None:
    recipe = stored.read_recipe(store, run)
    with mock.patch("tasks.running.elsewhere.remove_file"):  # the next read finds it again
        Elsewhere(Run(recipe, store), mock.MagicMock()).look()


def _open(store: str, run: str) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="mgd-fuzz-pages-") as folder,
        mock.patch.object(tempfile, "tempdir", folder),
        mock.patch.object(webbrowser, "open", return_value=True),
    ):
        opening.open_report(run, store)


def _send(store: str, run: str) -> None:
    with mock.patch.dict(trackers.TRACKERS, {NOWHERE: lambda place, run: Nowhere()}):
        Sender(NOWHERE).finish(run, store)


def _use(store: str, run: str, use: Callable[[OpenRun], object]) -> None:
    use(open_run(store, run))


def _files(run: OpenRun) -> list[bytes]:
    return [run.read(file) for file in run.files]


def _arrays(run: OpenRun) -> None:
    for stage in list(run.stages)[:3]:
        for array in run.arrays(stage).values():
            with contextlib.suppress(ValueError):  # they are zarr's, and raise what zarr raises
                array[0, :3]


USES: dict[str, Callable[[OpenRun], object]] = {
    "the object": lambda run: (repr(run), len(run._repr_html_())),
    "the result": lambda run: (run.rows, run.table, run.quantities, run.headline, run.standing),
    "the selection": lambda run: run.selection,
    "the settings": lambda run: run.settings,
    "the curves": lambda run: (run.curves, run.losses()),
    "the tensors": lambda run: (run.z(), run.metagradient()),
    "the figures": lambda run: (run.report, [each._repr_html_() for each in run.figures]),
    "the files": lambda run: len(_files(run)),
    "the arrays": _arrays,
}
"""What a notebook asks a run for."""
