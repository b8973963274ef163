"""Operations on a run of any kind: each looks up the function of the recipe's kind.

What lists, shows and cleans a store asks no kind at all; see ``engine.runs.endings``.
"""

from engine.planning.expected import Expected
from engine.planning.forecast import (
    Alternative,
    Forecast,
    Seconds,
    keep_forecast,
    read_forecast,
)
from engine.planning.plan import keep_predicted, plan, plan_of_run
from engine.preflight.verdict import CheckReport, Verdict
from engine.problems.built import check_repeats, check_scores
from engine.progress.time_left import REPORT
from engine.recipes.descent import DescentRecipe
from engine.recipes.kinds import DESCENT, find, kinds
from engine.recipes.names import run_name
from engine.recipes.replay import ReplaySettings, VjpMode
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
        run: Name of the run, or the beginning of it.

    Raises:
        ConfigurationError: If there is no such run, or it has not finished.
        CheckpointCorruptError: If its record is damaged, or that of another version or run.
    """
    name = find_run(store, run)
    return read_finished_as(store, name, find(kinds()[read_recipe(store, name).kind].record))


def plan_recipe(recipe: DescentRecipe, store: str, price: float | None = None) -> Forecast:
    """Plan a recipe of any kind: which schedule is the fastest, and what its run takes.

    Args:
        recipe: Recipe of any kind.
        store: fsspec URL of the store.
        price: Price of an hour of the device.

    Raises:
        ConfigurationError: If nothing fits into the memory allowed.
    """
    found = plan(recipe.descent, store, price, recipe.num_outputs)
    return found if recipe.kind == DESCENT else _of_kind(recipe, found, price)


def keep_plan_of(recipe: DescentRecipe, store: str) -> None:
    """Keep the predicted cost with a run that is not a descent.

    See ``engine.planning.plan.keep_predicted``; a descent keeps what it follows, by ``keep_plan``.
    Where ``keep_product`` has kept a plan, nothing more is kept.

    Cost:
        Some steps and products of a step, at most a thousandth of the run's own steps or so.
    """
    keep_predicted(recipe.descent, store, lambda found: _of_kind(recipe, found, None))


def _of_kind(recipe: DescentRecipe, found: Forecast, price: float | None) -> Forecast:
    """Return the plan of a descent as that of a run of another kind with the same training."""
    seconds = _seconds_of_run(recipe, found)
    others = [
        each.model_copy(update={"seconds": _seconds_of_run(recipe, each), "written_bytes": None})
        for each in found.alternatives
    ]
    note = (
        f"The column run is the whole run of kind {recipe.kind} does. The others are those of a "
        "descent that reverses the same training for one output."
    )
    return found.model_copy(
        update={
            "seconds": seconds,
            "written_bytes": None,
            "alternatives": others,
            "price": None if price is None else price * seconds.run / 3600,
            "note": f"{found.note} {note}".strip(),
        }
    )


def keep_product(recipe: DescentRecipe, store: str) -> None:
    """Choose the product of a step for a run that is not a descent, and keep it in its plan.

    Where the recipe names the product, nothing is measured; a run that has a plan keeps it.

    Args:
        recipe: Recipe of any kind.
        store: fsspec URL of the store.
    """
    descent = recipe.descent
    is_open = descent.replay.vjp is VjpMode.AUTO
    if is_open and read_forecast(store, run_name(descent)) is None:
        found = plan_of_run(descent, store, recipe.num_outputs)
        seconds = _seconds_of_run(recipe, found)
        # What the stages of a descent would write says nothing of this run.
        kept = found.model_copy(update={"seconds": seconds, "written_bytes": None})
        keep_forecast(descent, store, kept)


def _seconds_of_run(recipe: DescentRecipe, planned: Alternative) -> Seconds:
    """Return the forecast, with the time of a whole run of the recipe's kind."""
    content = planned.model_dump(include=set(Alternative.model_fields))
    forecast, descent = Forecast(**content, alternatives=[]), recipe.descent
    chosen = {name.removeprefix("replay."): value for name, value in planned.settings.items()}
    replay = ReplaySettings.model_validate(descent.replay.model_dump() | chosen)
    expected = Expected(descent.model_copy(update={"replay": replay}), forecast, recipe.num_outputs)
    works = find(kinds()[recipe.kind].works)(recipe, expected)
    run = sum(each.weight for each in works if each.kind not in ("preflight", REPORT))
    return planned.seconds.model_copy(update={"run": run})


def check_recipe(recipe: DescentRecipe, store: str) -> CheckReport:
    """Check a recipe of any kind before it is run; the report is kept in the store.

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


def has_preflight(recipe: DescentRecipe) -> bool:
    """Say whether a run of a recipe, of any kind, begins with the checks on short twins."""
    expected = Expected(recipe.descent, None, recipe.num_outputs)
    works = find(kinds()[recipe.kind].works)(recipe, expected)
    return any(work.kind == "preflight" for work in works)
