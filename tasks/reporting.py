"""What people see of a finished run: the record and the report, and both as Prefect artifacts."""

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from engine.applications.comparisons.results import Comparisons
from engine.applications.descent import conclude as conclusion
from engine.applications.descent.record import Iterate, RunRecord
from engine.applications.descent.report import summary
from engine.preflight.verdict import CheckReport
from engine.recipes.descent import DescentRecipe
from engine.runs.run import Stages
from engine.stages import commits
from engine.stages.references import Ref
from tasks.running.progress import TERMINAL


@task(task_run_name="read scores {outer_step}")
def read_iterate(
    store: str, outer_step: int, value: Ref, final: Ref, gradient: Ref | None, scores: Ref
) -> Iterate:
    """Gather what is known of one iterate."""
    return Iterate(
        outer_step=outer_step,
        value=value,
        final=final,
        gradient=gradient,
        scores=commits.read_scalars(store, scores),
    )


@task(task_run_name="judge the preflight")
def judge(recipe: DescentRecipe, store: str, checks: Ref) -> CheckReport:
    """Say what the preflight found, and stop a run that it refuses; see ``CheckReport.gate``."""
    report = commits.read_scalars_as(store, checks, CheckReport)
    for sentence in report.gate(recipe.preflight):
        for logger in (get_run_logger(), TERMINAL):
            logger.warning("preflight, %s", sentence)
    return report


@task(task_run_name="report")
def conclude(  # noqa: PLR0913 (what a run is made of)
    recipe: DescentRecipe,
    store: str,
    iterates: list[Iterate],
    compared: Comparisons,
    counts: Stages,
    started: str,
    checks: CheckReport,
) -> RunRecord:
    """Choose the iterate, write record and report, and show them.

    See ``engine.applications.descent.conclude``.
    """
    record = conclusion.conclude(
        recipe, store, iterates, counts, started, checks, compared=compared
    )
    rows = [
        {
            "outer step": iterate.outer_step,
            **{f"{split} loss": f"{s['loss']:.4f}" for split, s in iterate.scores.items()},
            "chosen": "yes" if iterate.outer_step == record.chosen else "",
        }
        for iterate in record.iterates
    ]
    create_table_artifact(rows, key=f"history-{recipe.name}", description=f"Run {record.run}")
    lines = [*summary(record), f"Report: {conclusion.report_url(store, record.run)}"]
    create_markdown_artifact("\n".join(f"- {line}" for line in lines), key=f"summary-{recipe.name}")
    return record
