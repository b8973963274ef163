"""The kinds of runs: what of each is found by the kind of its recipe, in one table.

Nothing of a kind is loaded until somebody asks for it, so that looking at the table costs nothing.
What lists, shows and cleans a store asks no kind at all; see ``engine.runs.endings``.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from engine.preflight.verdict import CheckReport, Verdict
from engine.problems.problem import check_repeats, check_scores
from engine.recipes.descent import DescentRecipe
from engine.runs.finished import FinishedRun, read_finished_as
from engine.runs.run import find_run, read_recipe
from engine.stages.commits import read_scalars_as
from engine.stages.run import Run
from engine.stages.training import preflight
from engine.storage.location import check_writable


@dataclass(frozen=True)
class Kind:
    """Where to find what one kind of run has of its own, each as ``module:name``.

    Attributes:
        record: Its class of ``FinishedRun``.
        check: What ``mgd check`` makes: a function of a recipe and a store that returns a
            ``CheckReport``.
    """

    record: str
    check: str = f"{__name__}:check_twins"


_HERE = "engine.applications"

KINDS = {
    "descent": Kind(f"{_HERE}.descent.record:RunRecord"),
    "metasmoothness": Kind(f"{_HERE}.smoothness.record:SmoothnessRecord"),
    "smooth-search": Kind(f"{_HERE}.smoothness.search:SearchRecord"),
    "attribution": Kind(
        f"{_HERE}.attribution.record:AttributionRecord",
        check=f"{_HERE}.attribution.stages:preflight",
    ),
    "canaries": Kind(f"{_HERE}.canaries.record:CanariesRecord"),
}
"""Kind of recipe to what belongs to it; a test holds that every kind is here."""


def read_finished(store: str, run: str) -> FinishedRun:
    """Read a finished run of any kind.

    Args:
        store: fsspec URL of the store.
        run: Its name, or the beginning of it.

    Raises:
        ConfigurationError: If there is no such run, or it has not finished.
        CheckpointCorruptError: If its record is damaged, or that of another version or run.
    """
    name = find_run(store, run)
    return read_finished_as(store, name, _of(KINDS[read_recipe(store, name).kind].record))


def check_recipe(recipe: DescentRecipe, store: str) -> CheckReport:
    """Try a recipe of any kind before it is run; what was tried stays in the store.

    Raises:
        ConfigurationError: If the store cannot be written, its problem is another one each time,
            or cannot score or show.
    """
    check_writable(store)
    check_repeats(recipe.descent)
    report = _of(KINDS[recipe.kind].check)(recipe, store)
    if report.verdict is not Verdict.REFUSE:  # else a loss that fails would be said twice
        check_scores(recipe.descent)
    return report


def check_twins(recipe: DescentRecipe, store: str) -> CheckReport:
    """Try the training of a recipe on short twins."""
    return read_scalars_as(store, preflight(Run(recipe.descent, store)), CheckReport)


def _of(place: str) -> Any:  # noqa: ANN401 (whatever the table names)
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
