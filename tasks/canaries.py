"""The stages of privacy canaries as Prefect tasks, and what users see of the results."""

from prefect import task

from engine.applications.canaries import record as canary_runs
from engine.applications.canaries import report as canary_reports
from engine.applications.canaries import stages
from engine.applications.kinds import keep_plan_of
from engine.recipes.canaries import CanariesRecipe
from tasks.reporting import report_task
from tasks.running.stage_task import stage_task

move_canaries = stage_task(stages.move_canaries)
audit_canaries = stage_task(stages.audit_canaries)


@task(task_run_name="check the recipe")
def check(recipe: CanariesRecipe, store: str) -> None:
    """Refuse a recipe that cannot be run before anything is trained; keep settings and plan."""
    canary_runs.prepare(recipe, store)
    keep_plan_of(recipe, store)


conclude = report_task(canary_reports.conclude, "canaries of {recipe.name}")
