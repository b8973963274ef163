"""The stages of privacy canaries as Prefect tasks, and what people see of the results."""

from prefect import task

from engine.applications.canaries import record as canary_runs
from engine.applications.canaries import report as canary_reports
from engine.applications.canaries import stages
from engine.applications.canaries.record import CanariesRecord
from engine.preflight.verdict import CheckReport
from engine.recipes.canaries import CanariesRecipe
from engine.runs.run import Stages
from engine.stages.references import Ref
from tasks.reporting import publish
from tasks.running.stage_task import stage_task

move_canaries = stage_task(stages.move_canaries)
audit_canaries = stage_task(stages.audit_canaries)


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
