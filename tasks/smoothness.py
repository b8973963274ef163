"""The stages of metasmoothness as Prefect tasks, and what users see of the results."""

from prefect import task

from engine.applications.kinds import keep_plan_of
from engine.applications.smoothness import record as smoothness_runs
from engine.applications.smoothness import report as smoothness_reports
from engine.applications.smoothness import search as smooth_search
from engine.applications.smoothness import stages
from engine.applications.smoothness.works import parts_of
from engine.recipes.names import run_name
from engine.recipes.smoothness import MetasmoothnessRecipe, SmoothSearchRecipe
from engine.runs.run import note_parts
from tasks.reporting import report_task
from tasks.running.bars import this_part
from tasks.running.stage_task import stage_task

perturb = stage_task(stages.perturb)
train_at = stage_task(stages.train_at)
output_at = stage_task(stages.output_at)
compare = stage_task(stages.compare)
train_along = stage_task(stages.train_along)


@task(task_run_name="check the recipe")
def check(recipe: MetasmoothnessRecipe, store: str) -> None:
    """Refuse a recipe that cannot be measured before anything is trained; keep settings and plan.

    The parts of a search have none of their own: it costs as much as a training to make one.
    """
    smoothness_runs.prepare(recipe, store)
    if this_part() is None:
        keep_plan_of(recipe, store)


@task(task_run_name="check the recipe")
def check_search(recipe: SmoothSearchRecipe, store: str) -> None:
    """Refuse a search that cannot be before anything is trained; keep its parts and its plan."""
    smoothness_runs.prepare(recipe, store)
    keep_plan_of(recipe, store)
    note_parts(store, run_name(recipe.descent), parts_of(recipe))


conclude = report_task(smoothness_reports.conclude, "metasmoothness of {recipe.name}")
conclude_search = report_task(smooth_search.conclude, "search {recipe.name}")
