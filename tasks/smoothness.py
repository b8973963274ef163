"""The stages of metasmoothness as Prefect tasks, and what people see of the results."""

from prefect import task

from engine.applications.smoothness import record as smoothness_runs
from engine.applications.smoothness import report as smoothness_reports
from engine.applications.smoothness import search as smooth_search
from engine.applications.smoothness import stages as smoothness_stages
from engine.applications.smoothness.record import SmoothnessRecord
from engine.applications.smoothness.search import SearchRecord, Trial
from engine.applications.smoothness.stages import Shift
from engine.recipes.descent import DescentRecipe
from engine.recipes.smoothness import MetasmoothnessRecipe, SmoothSearchRecipe
from engine.runs.run import Stages
from engine.schedules.segments import Segment
from engine.stages.references import Ref
from tasks.reporting import publish
from tasks.running.stage_task import stage_task


@stage_task("perturb")
def perturb(recipe: DescentRecipe, store: str, value: Ref, shift: Shift) -> Ref:
    """Commit a perturbed point; see ``engine.applications.smoothness.stages.perturb``."""
    return smoothness_stages.perturb(recipe, store, value, shift)


@stage_task("train-at")
def train_at(
    recipe: DescentRecipe, store: str, segment: Segment, value: Ref, point: Ref, start: Ref | None
) -> Ref:
    """Train one segment at a perturbed point.

    See ``engine.applications.smoothness.stages.train_at``.
    """
    return smoothness_stages.train_at(recipe, store, segment, value, point, start)


@stage_task("output")
def output_at(recipe: DescentRecipe, store: str, final: Ref) -> Ref:
    """Evaluate the output at a final state.

    See ``engine.applications.smoothness.stages.output_at``.
    """
    return smoothness_stages.output_at(recipe, store, final)


@stage_task("compare")
def compare(
    recipe: DescentRecipe, store: str, at_0: Ref, at_h: Ref, at_2h: Ref, step: float
) -> Ref:
    """Compare three trainings; see ``engine.applications.smoothness.stages.compare``."""
    return smoothness_stages.compare(recipe, store, at_0, at_h, at_2h, step)


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
