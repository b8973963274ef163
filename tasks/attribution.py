"""The stages of an attribution as Prefect tasks, and what users see of the results."""

from prefect import task

from engine.applications.attribution import basis, stages
from engine.applications.attribution import record as attribution_runs
from engine.applications.attribution import report as attribution_reports
from engine.applications.kinds import keep_plan_of, keep_product
from engine.recipes.attribution import AttributionRecipe
from tasks.reporting import report_task
from tasks.running.stage_task import stage_task

seed_queries = stage_task(stages.seed_queries)
trial = stage_task(stages.trial)
train_without = stage_task(stages.train_without)
final_gradients = stage_task(stages.final_gradients)
trak = stage_task(stages.trak)
seed_basis = stage_task(basis.seed_basis)
basis_scores = stage_task(basis.basis_scores)


@task(task_run_name="check the recipe")
def check(recipe: AttributionRecipe, store: str) -> None:
    """Refuse a recipe that cannot be attributed before anything is trained; keep settings and plan.

    The product of a step is chosen where the recipe leaves that open.
    """
    attribution_runs.prepare(recipe, store)
    keep_product(recipe, store)
    keep_plan_of(recipe, store)


conclude = report_task(attribution_reports.conclude, "attribution of {recipe.name}")
