"""The stages of an attribution as Prefect tasks, and what people see of the results."""

from prefect import task

from engine.applications.attribution import record as attribution_runs
from engine.applications.attribution import report as attribution_reports
from engine.applications.attribution import stages as attribution_stages
from engine.applications.attribution.record import AttributionRecord, Found
from engine.applications.attribution.stages import Subsets
from engine.preflight.verdict import CheckReport
from engine.recipes.attribution import AttributionRecipe, Queries, Removals, Retraining
from engine.recipes.descent import DescentRecipe
from engine.runs.run import Stages
from engine.stages.references import Ref
from tasks.reporting import publish
from tasks.running.stage_task import stage_task


@stage_task("seed-queries")
def seed_queries(
    recipe: DescentRecipe, store: str, value: Ref, final: Ref, queries: Queries
) -> Ref:
    """Seed all queries' adjoints; see ``engine.applications.attribution.stages.seed_queries``."""
    return attribution_stages.seed_queries(recipe, store, value, final, queries)


@stage_task("trial")
def trial(
    recipe: DescentRecipe,
    store: str,
    queries: Queries,
    removals: Removals,
    num_subsets: int,
    retraining: Retraining,
) -> Ref:
    """Try a few removals; see ``engine.applications.attribution.stages.trial``."""
    return attribution_stages.trial(recipe, store, queries, removals, num_subsets, retraining)


@stage_task("retrain")
def retrain(
    recipe: DescentRecipe, store: str, queries: Queries, subsets: Subsets, retraining: Retraining
) -> Ref:
    """Train without some examples; see ``engine.applications.attribution.stages.retrain``."""
    return attribution_stages.retrain(recipe, store, queries, subsets, retraining)


@stage_task("final-gradients")
def final_gradients(recipe: DescentRecipe, store: str, final: Ref, queries: Queries) -> Ref:
    """Score by final gradients; see ``engine.applications.attribution.stages.final_gradients``."""
    return attribution_stages.final_gradients(recipe, store, final, queries)


@stage_task("trak")
def trak(
    recipe: DescentRecipe, store: str, final: Ref, queries: Queries, dimension: int, seed: int
) -> Ref:
    """Score by TRAK; see ``engine.applications.attribution.stages.trak``."""
    return attribution_stages.trak(recipe, store, final, queries, dimension, seed)


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
