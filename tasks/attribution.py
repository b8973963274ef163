"""The stages of an attribution as Prefect tasks, and what people see of the results."""

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from engine import attribution_runs, attribution_stages
from engine.attribution_recipes import AttributionRecipe, Queries, Removals, Retraining
from engine.attribution_runs import AttributionRecord, Found
from engine.attribution_stages import Subsets
from engine.config import DescentRecipe
from engine.keys import Ref
from engine.preflight import CheckReport
from engine.runs import Stages
from tasks.stage_task import stage_task


@stage_task("seed-queries")
def seed_queries(
    recipe: DescentRecipe, store: str, value: Ref, final: Ref, queries: Queries
) -> Ref:
    """Seed all queries' adjoints; see ``engine.attribution_stages.seed_queries``."""
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
    """Try a few removals; see ``engine.attribution_stages.trial``."""
    return attribution_stages.trial(recipe, store, queries, removals, num_subsets, retraining)


@stage_task("retrain")
def retrain(
    recipe: DescentRecipe, store: str, queries: Queries, subsets: Subsets, retraining: Retraining
) -> Ref:
    """Train without some examples; see ``engine.attribution_stages.retrain``."""
    return attribution_stages.retrain(recipe, store, queries, subsets, retraining)


@stage_task("final-gradients")
def final_gradients(recipe: DescentRecipe, store: str, final: Ref, queries: Queries) -> Ref:
    """Score by final gradients; see ``engine.attribution_stages.final_gradients``."""
    return attribution_stages.final_gradients(recipe, store, final, queries)


@stage_task("trak")
def trak(
    recipe: DescentRecipe, store: str, final: Ref, queries: Queries, dimension: int, seed: int
) -> Ref:
    """Score by TRAK; see ``engine.attribution_stages.trak``."""
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
    """Judge, write record and report, and show them; see ``engine.attribution_runs``."""
    record = attribution_runs.conclude(recipe, store, found, counts, started, checks)
    if record.table:
        create_table_artifact(record.table, key=f"lds-{recipe.name}", description=record.run)
    lines = "\n".join(f"- {line}" for line in record.summary)
    create_markdown_artifact(lines, key=f"attribution-{recipe.name}", description=record.run)
    return record
