"""The stages of privacy canaries as Prefect tasks, and what people see of the results."""

from prefect import task

from engine.applications.canaries import record as canary_runs
from engine.applications.canaries import report as canary_reports
from engine.applications.canaries import stages as canary_stages
from engine.applications.canaries.record import CanariesRecord
from engine.applications.canaries.stages import CanarySet
from engine.preflight.verdict import CheckReport
from engine.recipes.attribution import Retraining
from engine.recipes.canaries import CanariesRecipe
from engine.recipes.descent import DescentRecipe, OuterConfig
from engine.runs.run import Stages
from engine.stages.references import Ref
from tasks.reporting import publish
from tasks.running.stage_task import stage_task


@stage_task("move-canaries")
def move_canaries(
    recipe: DescentRecipe,
    store: str,
    chosen: CanarySet,
    outer_step: int,
    before: Ref | None,
    rule: OuterConfig,
) -> Ref:
    """Carry out one outer step; see ``engine.applications.canaries.stages.move_canaries``."""
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
    """Audit canaries; see ``engine.applications.canaries.stages.audit_canaries``."""
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
    """Compare, write record and report, and show them.

    See ``engine.applications.canaries.report.conclude``.
    """
    return publish(
        canary_reports.conclude(recipe, store, moved, audits, counts, started, checks), store
    )
