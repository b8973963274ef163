"""The stages of metasmoothness as Prefect tasks, and what people see of the results."""

from prefect import task

from engine.applications.smoothness import record as smoothness_runs
from engine.applications.smoothness import report as smoothness_reports
from engine.applications.smoothness import search as smooth_search
from engine.applications.smoothness import stages
from engine.applications.smoothness.record import SmoothnessRecord
from engine.applications.smoothness.search import SearchRecord, Trial
from engine.recipes.smoothness import MetasmoothnessRecipe, SmoothSearchRecipe
from engine.runs.run import Stages
from engine.stages.references import Ref
from tasks.reporting import publish
from tasks.running.stage_task import stage_task

perturb = stage_task(stages.perturb)
train_at = stage_task(stages.train_at)
output_at = stage_task(stages.output_at)
compare = stage_task(stages.compare)


@task
def check(recipe: MetasmoothnessRecipe | SmoothSearchRecipe, store: str) -> None:
    """Refuse what cannot be measured before anything is trained; keep the settings of what can."""
    smoothness_runs.prepare(recipe, store)


@task(task_run_name="metasmoothness of {recipe.name}")
def conclude(  # noqa: PLR0913 (what a measurement is made of)
    recipe: MetasmoothnessRecipe,
    store: str,
    comparisons: list[Ref],
    landscape: dict[float, Ref],
    scores: Ref,
    counts: Stages,
    started: str,
) -> SmoothnessRecord:
    """Write record, report and figure, and show them.

    See ``engine.applications.smoothness.report.conclude``.
    """
    record = smoothness_reports.conclude(
        recipe, store, comparisons, landscape, scores, counts, started
    )
    return publish(record, store)


@task(task_run_name="search {recipe.name}")
def conclude_search(
    recipe: SmoothSearchRecipe, store: str, trials: list[Trial], started: str
) -> SearchRecord:
    """Choose the routine, write record, figure and recipe.

    See ``engine.applications.smoothness.search``.
    """
    return publish(smooth_search.conclude(recipe, store, trials, started), store)
