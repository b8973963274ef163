"""The end of a descent: an iterate chosen, and its report in the order that is written here.

A section is one file of ``engine.applications.descent.figures``, and one name in ``ORDER``.
"""

import hashlib

import torch
from torch import Tensor

from engine.applications.comparisons.damage import measure_damage
from engine.applications.comparisons.results import Comparisons, Damage
from engine.applications.descent.figures import (
    classes,
    comparison,
    damage,
    examples,
    groups,
    held_out,
    losses,
    metaparameters,
    schedules,
    sources,
    sweep,
    training,
)
from engine.applications.descent.iterates import Iterate, choose
from engine.applications.descent.material import Curves, Material
from engine.applications.descent.record import RunRecord, summarize_selection
from engine.applications.descent.selection_file import selection_files
from engine.applications.descent.source_shares import measure_sources
from engine.metaparameters.inputs import Inputs
from engine.preflight.verdict import CheckReport
from engine.problems.built import BuiltProblem, build_problem
from engine.recipes.descent import DescentRecipe
from engine.reports.sections import Section, Table
from engine.routine.coupled_loss import CoupledLoss
from engine.routine.outputs import batches_of
from engine.runs.finished import how_made
from engine.runs.finishing import finish
from engine.runs.report import Report
from engine.runs.run import Stages
from engine.stages.commits import read_rows
from engine.stages.metagradient_rows import only_metagradient
from engine.stages.monitoring import Monitored, read_sweep, training_losses
from engine.stages.references import Ref

ORDER = (
    losses.section,
    comparison.section,
    comparison.reruns,
    examples.section,
    classes.section,
    held_out.section,
    damage.section,
    metaparameters.section,
    groups.section,
    sources.section,
    schedules.section,
    training.section,
    sweep.section,
)
"""The sections of a descent's report; each returns none where it has nothing to show."""


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

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        iterates: z_0, ..., z_N.
        counts: How the stages were done.
        started: UTC time of the start, ISO 8601.
        checks: What the preflight found.
        compared: What the run is compared with.
    """
    chosen = choose(iterates, recipe.outer)
    problem = build_problem(recipe, store)
    gradients = [each.gradient for each in iterates if each.gradient is not None]
    if not gradients:
        raise ValueError("A descent has at least one outer step.")
    first_gradient = only_metagradient(read_rows(store, gradients[0]))
    sweeps = [read_sweep(store, gradient) for gradient in gradients]
    curves = _curves(problem, store, (iterates[0], iterates[chosen]), sweeps[0])
    files = selection_files(recipe, curves.value, first_gradient, problem.data)
    last = read_rows(store, iterates[-1].value)["value"]
    record = RunRecord(
        **how_made(recipe, started),
        stages=counts,
        checks=checks,
        unread=sorted(problem.unread),
        iterates=iterates,
        chosen=chosen,
        selection=summarize_selection(recipe, curves.value, first_gradient, curves.corrupted),
        digest=hashlib.sha256(last.numpy().tobytes()).hexdigest(),
        **(compared or Comparisons()).model_dump(),
        damage=_damage(recipe, store, problem, iterates[: chosen + 1]),
        sources=measure_sources(
            recipe.metaparameters, problem.data.texts, curves.initial_value, curves.value
        ),
        files=list(files),
        growth=[sweep.growth for sweep in sweeps],
        uncompared=sorted({t for sweep in sweeps for t in sweep.uncompared}),
    )

    def report(record: RunRecord) -> Report:
        changed = None
        if isinstance(problem.kind, Inputs):
            changed = problem.kind.chosen.tolist()
        groups = problem.kind.computed()
        finals = (iterates[0].final, iterates[chosen].final)
        tested = _test_losses(recipe, store, problem, finals)
        material = Material(record, curves, problem.data, first_gradient, changed, groups, tested)
        return report_of(material, files)

    return finish(store, record, report)


def report_of(run: Material, files: dict[str, bytes]) -> Report:
    """Return the sections of a descent's report, and the files beside it."""
    sections = [each for make in ORDER if (each := make(run)) is not None]
    folded = [each for each in (losses.all_steps(run), _stages(run.record)) if each is not None]
    return Report(f"Metagradient descent: {run.record.recipe.name}", sections, folded, files)


def _stages(record: RunRecord) -> Section:
    """Return the stages of each outer step."""
    rows = [
        {"Outer step": each.outer_step}
        | {
            words: "none" if ref is None else f"{ref.stage}/{ref.key}"
            for words, ref in (
                ("z (metaparameters)", each.value),
                ("Trained model", each.final),
                ("Metagradient", each.gradient),
            )
        }
        for each in record.iterates
    ]
    return Section(
        "Stages in the store",
        notes=[
            "Each is the folder stages/<stage>/<key> of the store; equal keys hold equal bits.",
            f"Digest of the last z: {record.digest}",
        ],
        tables=[Table(rows, code=frozenset(rows[0]) - {"Outer step"})],
        folded=True,
    )


def _curves(
    problem: BuiltProblem, store: str, compared: tuple[Iterate, Iterate], sweep: Monitored
) -> Curves:
    """Read what figures show of the first and the chosen iterate, and of the first sweep."""
    first, best = compared
    shape = problem.kind.value.shape
    return Curves(
        initial_value=read_rows(store, first.value)["value"].reshape(shape),
        value=read_rows(store, best.value)["value"].reshape(shape),
        corrupted=problem.data.corrupted,
        losses_before=training_losses(store, first.final),
        losses_after=training_losses(store, best.final),
        adjoint_norms=sweep.adjoint,
        layers=list(problem.routine.layout.shapes),
        layer_norms=sweep.layers,
        share_norms=sweep.shares,
    )


def _test_losses(
    recipe: DescentRecipe, store: str, problem: BuiltProblem, finals: tuple[Ref, Ref]
) -> tuple[Tensor, Tensor] | None:
    """Return the losses of the first test examples at two states, where the report shows them."""
    about = recipe.metaparameters.about
    if about.selects_examples or about.changes_inputs or about.weighs_groups:
        return None
    if isinstance(problem.loss, CoupledLoss) or problem.routine.own is not None:
        return None
    test = problem.held_out["test"]
    few = test.first(min(len(test), _TESTED)).batches(problem.routine.device)

    def losses(final: Ref) -> Tensor:
        state = read_rows(store, final, problem.routine.device)
        parts = [
            problem.routine.evaluate(lambda model, part=part: problem.loss(model, part), state)
            for part in batches_of(few, _TOGETHER)
        ]
        return torch.cat(parts).cpu()

    with torch.no_grad():
        first, last = finals
        before = losses(first)
        return before, before if first == last else losses(last)


_TESTED, _TOGETHER = 512, 64
"""Test examples whose losses are compared one by one, and how many are in memory at once."""


def _damage(
    recipe: DescentRecipe, store: str, problem: BuiltProblem, iterates: list[Iterate]
) -> Damage | None:
    """Attribute the damage of changed inputs; None for anything else, or if none was chosen."""
    first, last = iterates[0], iterates[-1]
    if not recipe.metaparameters.about.changes_inputs or first is last:
        return None
    rise = last.scores["objective"]["loss"] - first.scores["objective"]["loss"]
    path = [(each.value, each.gradient) for each in iterates]
    return measure_damage(problem, store, path, (first.final, last.final), rise)
