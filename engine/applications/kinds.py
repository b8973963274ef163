"""What a run of any kind can be asked for, by the kind of its recipe (``engine.recipes.kinds``).

What lists, shows and cleans a store asks no kind at all; see ``engine.runs.endings``.
"""

from engine.preflight.verdict import CheckReport, Verdict
from engine.problems.problem import check_repeats, check_scores
from engine.recipes.descent import DescentRecipe
from engine.recipes.kinds import find, kinds
from engine.runs.finished import FinishedRun, read_finished_as
from engine.runs.run import find_run, read_recipe
from engine.stages.commits import read_scalars_as
from engine.stages.run import Run
from engine.stages.training import preflight
from engine.storage.location import check_writable


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
    return read_finished_as(store, name, find(kinds()[read_recipe(store, name).kind].record))


def check_recipe(recipe: DescentRecipe, store: str) -> CheckReport:
    """Try a recipe of any kind before it is run; what was tried stays in the store.

    Raises:
        ConfigurationError: If the store cannot be written, its problem is another one each time,
            or cannot score or show.
    """
    check_writable(store)
    check_repeats(recipe.descent, store)
    report = find(kinds()[recipe.kind].check)(recipe, store)
    if report.verdict is not Verdict.REFUSE:  # else a loss that fails would be said twice
        check_scores(recipe.descent, store)
    return report


def check_twins(recipe: DescentRecipe, store: str) -> CheckReport:
    """Try the training of a recipe on short twins."""
    return read_scalars_as(store, preflight(Run(recipe.descent, store)), CheckReport)
