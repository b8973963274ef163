"""Display of a finished run: the record and the report, and both as Prefect artifacts."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.artifacts import create_table_artifact

from engine.applications.descent import report as conclusion
from engine.applications.descent.iterates import Iterate
from engine.preflight.verdict import CheckReport, heed_later
from engine.recipes.descent import DescentRecipe
from engine.reports.page import REPORT, as_markdown, figures_as_markdown
from engine.reports.sections import Section, Table
from engine.reports.shown_figures import figures_of
from engine.runs.finished import FinishedRun
from engine.runs.report import head
from engine.stages import commits
from engine.stages.references import Ref
from engine.storage.records import read_bytes
from tasks.growing import artifact_stem, show_markdown
from tasks.running.artifacts import say_in_ui
from tasks.running.bars import this_part
from tasks.running.progress import say

_Record = TypeVar("_Record", bound=FinishedRun)
P = ParamSpec("P")


@task(task_run_name="read scores {outer_step}")
def read_iterate(
    store: str, outer_step: int, value: Ref, final: Ref, gradient: Ref | None, scores: Ref
) -> Iterate:
    """Return the record of one iterate, from the results of its stages."""
    return Iterate(
        outer_step=outer_step,
        value=value,
        final=final,
        gradient=gradient,
        scores=commits.read_scalars(store, scores),
    )


@task(task_run_name="judge the preflight")
def judge(recipe: DescentRecipe, store: str, checks: Ref) -> CheckReport:
    """Log the result of the preflight, and stop a run that it refuses; see ``CheckReport.gate``."""
    report = commits.read_scalars_as(store, checks, CheckReport)
    report.gate(recipe.preflight)
    for sentence in report.warnings():
        say(logging.WARNING, sentence)
    return report


def heed_later_steps(recipe: DescentRecipe, store: str, gradient: Ref) -> None:
    """Stop a run whose second derivatives were found to be wrong in later steps, or only say so.

    Args:
        recipe: Says whether a refusal stops it.
        store: Where its stages lie.
        gradient: A stage that has reversed some of its steps; see
            ``engine.replay.refusals.later_steps``.

    Raises:
        UntrustworthyError: If the run heeds its preflight.
    """
    found = commits.read_scalars(store, gradient)["wrong"]
    for sentence in heed_later(found, recipe.preflight):
        say(logging.WARNING, sentence)


def publish(record: _Record, store: str) -> _Record:
    """Show a finished run as Prefect artifacts: its table, and the top of its report."""
    name, table = artifact_stem(record.recipe), record.table()
    if table and this_part() is None:  # the report of a part shows it
        create_table_artifact(table, key=f"result-{name}", description=f"Run {record.run}")
    chosen = {place: "chosen" for place, row in enumerate(table) if row.get("chosen")}
    sections = [Section("Result", tables=[Table(_narrow(table), marked=chosen)])] if table else []
    shown = as_markdown(head(record, sections=sections))
    written = read_bytes(record.url(store, REPORT)) or b""
    drawn = figures_as_markdown(figures_of(written.decode(errors="replace"), narrow=True))
    show_markdown(store, record.run, name, f"{shown}\n\n{drawn}", "The report")
    if this_part() is None:
        say_in_ui(record.headline())
    return record


def _narrow(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Say in the first column which row was chosen: a phone cuts a table with a column for it."""
    rows = [{name: value for name, value in row.items() if name != "chosen"} for row in table]
    for row, whole in zip(rows, table, strict=True):
        if whole.get("chosen"):
            first = next(iter(row))
            row[first] = f"{row[first]} (chosen)"
    return rows


def report_task(conclude: Callable[P, _Record], name: str) -> Task[P, _Record]:
    """Make a task of the engine's end of a run, which shows people what it has written as well.

    Args:
        conclude: Writes record and report; one of its parameters is ``store``.
        name: Name of the task's run; ``{recipe.name}`` stands for the recipe's.
    """
    signature = inspect.signature(conclude)

    @wraps(conclude)
    def carry_out(*args: P.args, **kwargs: P.kwargs) -> _Record:
        store = signature.bind(*args, **kwargs).arguments["store"]
        return publish(conclude(*args, **kwargs), store)

    return task(task_run_name=name)(carry_out)


conclude = report_task(conclusion.conclude, "report")
