"""The end of a run: choose an iterate, write the record and the report beside the checkpoints."""

import hashlib
from datetime import UTC, datetime

from engine.applications.comparisons.damage import measure_damage
from engine.applications.comparisons.poisons import chosen_inputs
from engine.applications.comparisons.results import Comparisons, Damage
from engine.applications.descent.comparison_figure import draw_comparison
from engine.applications.descent.damage_figures import draw_classes, draw_grid
from engine.applications.descent.figures import Curves, figures
from engine.applications.descent.rate_search_figure import draw_schedules
from engine.applications.descent.record import Iterate, RunRecord, choose, summarize_selection
from engine.applications.descent.report import render, summary
from engine.applications.descent.selection_file import write_selection
from engine.applications.descent.shown_examples import shown_examples
from engine.applications.descent.source_figure import draw_sources
from engine.applications.descent.source_shares import measure_sources
from engine.applications.descent.sweep_figure import draw_sweep
from engine.numerics.environment import machine
from engine.preflight.verdict import CheckReport
from engine.problems.problem import BuiltProblem, build_problem
from engine.recipes.descent import DescentRecipe
from engine.recipes.metaparameters import MetaparameterName
from engine.recipes.names import run_name
from engine.reports.canvas import png
from engine.runs.endings import Ending
from engine.runs.finishing import Needs, finish
from engine.runs.run import Stages
from engine.stages.commits import lineage, read_rows, read_scalars
from engine.stages.keys import engine_version, run_environment
from engine.stages.monitoring import read_sweep
from engine.stages.references import Ref
from engine.storage.location import join
from engine.storage.places import run_folder
from engine.storage.records import write_bytes

BULKY = frozenset({"train", "seed", "reverse", "replay"})
"""Kinds of stages whose states and adjoints only repeat or continue a descent."""


def conclude(  # noqa: PLR0913 (what a run is made of)
    recipe: DescentRecipe,
    store: str,
    iterates: list[Iterate],
    counts: Stages,
    started: str,
    checks: CheckReport | None = None,
    *,
    compared: Comparisons | None = None,
) -> RunRecord:
    """Choose the iterate by the validation split and write ``run.json`` and ``report.html``.

    The result needs all metaparameters, metagradients and scores, and the training of the chosen
    iterate.

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        iterates: z_0, ..., z_N.
        counts: How the stages were done.
        started: UTC time of the start, ISO 8601.
        checks: What the preflight found.
        compared: What the run is compared with.
    """
    chosen = choose(iterates, maximize=recipe.outer.maximize)
    first, best = iterates[0], iterates[chosen]
    if first.gradient is None:
        raise ValueError("A descent has at least one outer step.")
    gradient = read_rows(store, first.gradient)
    (first_gradient,) = (row for name, row in gradient.items() if name.startswith("metagradient_"))
    problem = build_problem(recipe)
    kind = problem.kind
    sweeps = [read_sweep(store, each.gradient) for each in iterates if each.gradient is not None]
    curves = Curves(
        initial_value=read_rows(store, first.value)["value"].reshape(kind.value.shape),
        value=read_rows(store, best.value)["value"].reshape(kind.value.shape),
        corrupted=problem.data.corrupted,
        losses_before=_losses(store, first.final),
        losses_after=_losses(store, best.final),
        adjoint_norms=sweeps[0].adjoint,
        layers=list(problem.routine.layout.shapes),
        layer_norms=sweeps[0].layers,
        share_norms=sweeps[0].shares,
    )
    last = read_rows(store, iterates[-1].value)["value"]
    folder = run_folder(store, run_name(recipe))
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
        environment={"engine": engine_version(), **run_environment(recipe), **machine()},
        checks=checks,
        **(compared or Comparisons()).model_dump(),
        damage=_damage(recipe, store, problem, iterates[: chosen + 1]),
        sources=measure_sources(
            recipe.metaparameters, problem.data.texts, curves.initial_value, curves.value
        ),
        files=write_selection(folder, recipe, curves.value, first_gradient, problem.data),
        growth=[sweep.growth for sweep in sweeps],
    )
    record = record.model_copy(
        update={"ending": Ending(summary=summary(record), table=_table(record), verifiable=True)}
    )

    def write_pages(record: RunRecord) -> None:
        sweep = draw_sweep(
            curves.layers, curves.layer_norms, curves.share_norms, recipe.training.num_steps
        )
        images = {**figures(record, curves), "sweep": png(sweep)}
        images |= _compared(record, curves, problem)
        page = render(record, images, shown_examples(problem.data, curves.value, first_gradient))
        write_bytes(report_url(store, record.run), page.encode())

    results = [each.gradient for each in iterates if each.gradient is not None]
    results += [each.value for each in [*iterates, *record.baselines]]
    results += lineage(store, best.final, "start")
    return finish(store, record, Needs(BULKY, results), write_pages)


def _table(record: RunRecord) -> list[dict[str, str]]:
    """Return the loss of each iterate on each split, and which was chosen."""
    return [
        {
            "outer step": str(each.outer_step),
            **{split: f"{scores['loss']:.4f}" for split, scores in each.scores.items()},
            "chosen": "*" if each.outer_step == record.chosen else "",
        }
        for each in record.iterates
    ]


def _damage(
    recipe: DescentRecipe, store: str, problem: BuiltProblem, iterates: list[Iterate]
) -> Damage | None:
    """Attribute the damage of changed inputs; None for anything else, or if none was chosen."""
    first, last = iterates[0], iterates[-1]
    if recipe.metaparameters.name is not MetaparameterName.INPUTS or first is last:
        return None
    if problem.data.num_classes == 0:  # whose victims are counted by class
        return None
    rise = last.scores["objective"]["loss"] - first.scores["objective"]["loss"]
    path = [(each.value, each.gradient) for each in iterates]
    return measure_damage(problem, store, path, (first.final, last.final), rise)


def _compared(record: RunRecord, curves: Curves, problem: BuiltProblem) -> dict[str, bytes]:
    """Draw what the applications have to show, by name."""
    drawn = {
        "comparison": draw_comparison(record),
        "schedules": draw_schedules(record, curves),
        "sources": draw_sources(record.sources),
    }
    if record.damage is not None and problem.data.ids is not None:
        ids = problem.data.ids[chosen_inputs(problem).chosen].tolist()
        drawn["metaparameters"] = draw_grid(record.damage, curves, ids)
        drawn["classes"] = draw_classes(record.damage)
    return {name: png(figure) for name, figure in drawn.items() if figure is not None}


def report_url(store: str, run: str) -> str:
    """Return the URL of a run's report."""
    return join(run_folder(store, run), "report.html")


def _losses(store: str, final: Ref) -> list[float]:
    """Return the batch loss of every step that led to a state."""
    parts = [read_scalars(store, ref)["losses"] for ref in lineage(store, final, "start")]
    return [loss for part in reversed(parts) for loss in part]
