"""The stages of an attribution as Prefect tasks, and what people see of the results."""

from prefect import task

from engine.applications.attribution import record as attribution_runs
from engine.applications.attribution import report as attribution_reports
from engine.applications.attribution import stages
from engine.applications.attribution.record import AttributionRecord, Found
from engine.preflight.verdict import CheckReport
from engine.recipes.attribution import AttributionRecipe
from engine.runs.run import Stages
from tasks.reporting import publish
from tasks.running.stage_task import stage_task

seed_queries = stage_task(stages.seed_queries)
trial = stage_task(stages.trial)
train_without = stage_task(stages.train_without)
final_gradients = stage_task(stages.final_gradients)
trak = stage_task(stages.trak)


@task
def check(recipe: AttributionRecipe, store: str) -> None:
    """Refuse what cannot be attributed before anything is trained; keep the settings."""
    attribution_runs.prepare(recipe, store)


@task(task_run_name="attribution of {recipe.name}")
def conclude(
    recipe: AttributionRecipe,
    store: str,
    found: Found,
    counts: Stages,
    started: str,
    checks: CheckReport,
) -> AttributionRecord:
    """Judge, write record and report, and show them.

    See ``engine.applications.attribution.report``.
    """
    return publish(
        attribution_reports.conclude(recipe, store, found, counts, started, checks), store
    )
