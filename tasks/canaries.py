"""The stages of privacy canaries as Prefect tasks, and what people see of the results."""

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from engine import canary_runs, canary_stages
from engine.attribution_recipes import Retraining
from engine.canary_recipes import CanariesRecipe
from engine.canary_runs import CanariesRecord
from engine.canary_stages import CanarySet
from engine.config import DescentRecipe, OuterConfig
from engine.keys import Ref
from engine.preflight import CheckReport
from engine.runs import Stages
from tasks.stage_task import stage_task


@stage_task("move-canaries")
def move_canaries(
    recipe: DescentRecipe,
    store: str,
    chosen: CanarySet,
    outer_step: int,
    before: Ref | None,
    rule: OuterConfig,
) -> Ref:
    """Carry out one outer step; see ``engine.canary_stages.move_canaries``."""
    return canary_stages.move_canaries(recipe, store, chosen, outer_step, before, rule)


@stage_task("audit-canaries")
def audit_canaries(  # noqa: PLR0913 (what a stage reads)
    recipe: DescentRecipe,
    store: str,
    chosen: CanarySet,
    images: Ref | None,
    wrong_labels: bool,
    num_audits: int,
    retraining: Retraining,
) -> Ref:
    """Audit canaries; see ``engine.canary_stages.audit_canaries``."""
    return canary_stages.audit_canaries(
        recipe, store, chosen, images, wrong_labels, num_audits, retraining
    )


@task
def check(recipe: CanariesRecipe, store: str) -> None:
    """Refuse what cannot be before anything is trained; keep the settings."""
    canary_runs.prepare(recipe, store)


@task(task_run_name="canaries of {recipe.name}")
def conclude(  # noqa: PLR0913 (what canaries are made of)
    recipe: CanariesRecipe,
    store: str,
    moved: list[Ref],
    audits: dict[str, Ref],
    counts: Stages,
    started: str,
    checks: CheckReport,
) -> CanariesRecord:
    """Compare, write record and report, and show them; see ``engine.canary_runs.conclude``."""
    record = canary_runs.conclude(recipe, store, moved, audits, counts, started, checks)
    create_table_artifact(record.table, key=f"gap-{recipe.name}", description=record.run)
    lines = "\n".join(f"- {line}" for line in record.summary)
    create_markdown_artifact(lines, key=f"canaries-{recipe.name}", description=record.run)
    return record
