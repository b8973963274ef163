"""The stages of an attribution, besides those that a descent has as well.

Training, preflight and the reverse sweep are those of a descent: the adjoint that the sweep pulls
back is that of all queries at once. Trainings without some of the examples depend on nothing but
the subset, so they run at once where there are workers.
"""

from typing import Any

import torch

from engine.applications.attribution.scores import (
    final_gradient_scores,
    kept_weights,
    query_losses,
    query_outputs,
)
from engine.applications.attribution.trak import trak_scores
from engine.applications.attribution.trial import try_removals
from engine.preflight.verdict import CheckReport, Verdict
from engine.problems.problem import BuiltProblem
from engine.recipes.attribution import AttributionRecipe, Queries, Removals, Retraining
from engine.recipes.descent import DescentRecipe
from engine.recipes.settings import Settings
from engine.replay.batched import train_many
from engine.replay.interpreter import seed_adjoint
from engine.stages import training as stages
from engine.stages.commits import read_rows, read_scalars_as, run_stage
from engine.stages.references import Ref
from engine.step.products import join
from engine.types import State


class Subsets(Settings):
    """Some of the random subsets of one size, by their numbers, half-open."""

    removals: Removals
    """How they are drawn."""

    start: int
    """First subset."""

    stop: int
    """Subset after the last one."""


def seed_queries(
    recipe: DescentRecipe, store: str, value: Ref, final: Ref, queries: Queries
) -> Ref:
    """Evaluate each query's loss at s_T and commit the adjoints, one after the other.

    The record holds ``outputs``.
    """

    def compute(problem: BuiltProblem) -> tuple[State, dict[str, Any]]:
        routine = problem.routine_at(read_rows(store, value)["value"])
        state = read_rows(store, final, routine.device)
        found = [seed_adjoint(routine, state, phi) for phi in query_outputs(problem, queries)]
        adjoint = join([adjoint for _, adjoint in found])
        rows = {name: tensor.reshape(-1) for name, tensor in adjoint.items()}
        return rows, {"outputs": [float(output) for output, _ in found]}

    inputs = {"value": value, "final": final, "queries": queries}
    return run_stage("seed-queries", recipe, store, inputs, compute)


def trial(
    recipe: DescentRecipe,
    store: str,
    queries: Queries,
    removals: Removals,
    num_subsets: int,
    retraining: Retraining,
) -> Ref:
    """Try a few removals on a few queries; the record holds a ``CheckReport``."""

    def compute(problem: BuiltProblem) -> tuple[State, dict[str, Any]]:
        found = try_removals(problem, queries, removals, num_subsets, retraining, recipe.replay)
        return {}, CheckReport.of([found]).model_dump(mode="json")

    inputs = {
        "queries": queries,
        "removals": removals,
        "num_subsets": num_subsets,
        "retraining": retraining,
    }
    return run_stage("trial", recipe, store, inputs, compute)


def preflight(recipe: AttributionRecipe, store: str) -> CheckReport:
    """Try an attribution as its flow does before the sweep: on short twins, then by a few removals.

    What the twins refuse is not tried by removals.
    """
    settings, descent = recipe.attribution, recipe.descent
    twins = read_scalars_as(store, stages.preflight(descent, store), CheckReport)
    if not settings.trial_subsets or twins.verdict is Verdict.REFUSE:
        return twins
    ref = trial(descent, store, *settings.trial, settings.trial_subsets, settings.retraining)
    tried = read_scalars_as(store, ref, CheckReport)
    return CheckReport.of([*twins.checks, *tried.checks])


def retrain(
    recipe: DescentRecipe, store: str, queries: Queries, subsets: Subsets, retraining: Retraining
) -> Ref:
    """Train without each of some subsets, from the same start and in the same order.

    The row ``losses`` holds the queries' losses, subset by subset.
    """

    def compute(problem: BuiltProblem) -> tuple[State, dict[str, Any]]:
        routine = problem.routine
        ((name, kind),) = routine.metaparameters.items()
        points = [
            {name: kept_weights(subsets.removals, len(routine), number).to(kind.value)}
            for number in range(subsets.start, subsets.stop)
        ]
        states = train_many(routine, points, together=retraining.value)
        losses = torch.cat([query_losses(problem, queries, state) for state in states])
        return {"losses": losses}, {}

    inputs = {"queries": queries, "subsets": subsets, "retraining": retraining}
    return run_stage("retrain", recipe, store, inputs, compute)


def final_gradients(recipe: DescentRecipe, store: str, final: Ref, queries: Queries) -> Ref:
    """Score by gradients at the trained model; the row ``scores`` goes query by query."""

    def compute(problem: BuiltProblem) -> tuple[State, dict[str, Any]]:
        state = read_rows(store, final, problem.routine.device)
        return {"scores": final_gradient_scores(problem, queries, state).reshape(-1)}, {}

    inputs = {"final": final, "queries": queries}
    return run_stage("final-gradients", recipe, store, inputs, compute)


def trak(
    recipe: DescentRecipe, store: str, final: Ref, queries: Queries, dimension: int, seed: int
) -> Ref:
    """Score by TRAK at the trained model; the row ``scores`` goes query by query."""

    def compute(problem: BuiltProblem) -> tuple[State, dict[str, Any]]:
        state = read_rows(store, final, problem.routine.device)
        scores = trak_scores(problem, queries, state, dimension=dimension, seed=seed)
        return {"scores": scores.reshape(-1)}, {}

    inputs = {"final": final, "queries": queries, "dimension": dimension, "seed": seed}
    return run_stage("trak", recipe, store, inputs, compute)
