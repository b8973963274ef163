"""The end of a run: choose an iterate, write the record and the report beside the checkpoints."""

import hashlib
from datetime import UTC, datetime

from engine.claims import run_name
from engine.commits import lineage, read_rows, read_scalars
from engine.config import DescentRecipe
from engine.keys import Ref, engine_version, run_environment
from engine.location import join
from engine.problem import build_problem
from engine.records import write_bytes, write_record
from engine.report import Curves, figures, render
from engine.runs import (
    Iterate,
    RunRecord,
    Stages,
    choose,
    run_folder,
    summarize_selection,
)


def conclude(
    recipe: DescentRecipe, store: str, iterates: list[Iterate], counts: Stages, started: str
) -> RunRecord:
    """Choose the iterate by the validation split and write ``run.json`` and ``report.html``.

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        iterates: z_0, ..., z_N.
        counts: How the stages were done.
        started: UTC time of the start, ISO 8601.
    """
    chosen = choose(iterates, maximize=recipe.outer.maximize)
    first, best = iterates[0], iterates[chosen]
    if first.gradient is None:
        raise ValueError("A descent has at least one outer step.")
    gradient = read_rows(store, first.gradient)
    (first_gradient,) = (row for name, row in gradient.items() if name.startswith("metagradient_"))
    problem = build_problem(recipe)
    kind = problem.kind
    curves = Curves(
        initial_value=read_rows(store, first.value)["value"].reshape(kind.value.shape),
        value=read_rows(store, best.value)["value"].reshape(kind.value.shape),
        corrupted=problem.data.corrupted,
        losses_before=_losses(store, first.final),
        losses_after=_losses(store, best.final),
        adjoint_norms=_adjoint_norms(store, first.gradient),
    )
    last = read_rows(store, iterates[-1].value)["value"]
    record = RunRecord(
        run=run_name(recipe),
        recipe=recipe,
        started=started,
        seconds=(datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds(),
        iterates=iterates,
        chosen=chosen,
        selection=summarize_selection(recipe, curves.value, first_gradient, curves.corrupted),
        stages=counts,
        digest=hashlib.sha256(last.numpy().tobytes()).hexdigest(),
        environment={"engine": engine_version(), **run_environment(recipe)},
    )
    page = render(record, figures(record, curves))
    write_bytes(report_url(store, record.run), page.encode())
    write_record(join(run_folder(store, record.run), "run.json"), record.model_dump(mode="json"))
    return record


def report_url(store: str, run: str) -> str:
    """Return the URL of a run's report."""
    return join(run_folder(store, run), "report.html")


def _losses(store: str, final: Ref) -> list[float]:
    """Return the batch loss of every step that led to a state."""
    parts = [read_scalars(store, ref)["losses"] for ref in lineage(store, final, "start")]
    return [loss for part in reversed(parts) for loss in part]


def _adjoint_norms(store: str, gradient: Ref) -> dict[int, float]:
    """Return the norm of the adjoint by step."""
    parts = [
        read_scalars(store, ref)["adjoint_norms"] for ref in lineage(store, gradient, "adjoint")
    ]
    return {int(step): norm for part in parts for step, norm in part.items()}
