"""The stages of metasmoothness as Prefect tasks, and what people see of the results."""

from prefect import task

from engine.applications.smoothness import record as smoothness_runs
from engine.applications.smoothness import report as smoothness_reports
from engine.applications.smoothness import search as smooth_search
from engine.applications.smoothness import stages
from engine.recipes.smoothness import MetasmoothnessRecipe, SmoothSearchRecipe
from tasks.reporting import report_task
from tasks.running.stage_task import stage_task

perturb = stage_task(stages.perturb)
train_at = stage_task(stages.train_at)
output_at = stage_task(stages.output_at)
compare = stage_task(stages.compare)


@task(task_run_name="check the recipe")
def check(recipe: MetasmoothnessRecipe | SmoothSearchRecipe, store: str) -> None:
    """Refuse what cannot be measured before anything is trained; keep the settings of what can."""
    smoothness_runs.prepare(recipe, store)


conclude = report_task(smoothness_reports.conclude, "metasmoothness of {recipe.name}")
conclude_search = report_task(smooth_search.conclude, "search {recipe.name}")
