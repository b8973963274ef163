"""The stages of an attribution, besides those that a descent has as well.

Training, preflight and the reverse sweep are those of a descent: the adjoint that the sweep pulls
back is that of all queries at once. Trainings without some of the examples depend on nothing but
the subset, so they run at once where there are workers.
"""

import torch

from engine.applications.attribution.scores import (
    final_gradient_scores,
    kept_weights,
    query_losses,
    query_outputs,
)
from engine.applications.attribution.trak import trak_scores
from engine.applications.attribution.trial import check_batched, try_removals
from engine.preflight.verdict import CheckReport, Verdict
from engine.recipes.attribution import AttributionRecipe, Queries, Removals
from engine.recipes.settings import Document
from engine.recipes.training import Retraining
from engine.replay.batched import train_many
from engine.replay.seeding import seed_adjoint
from engine.stages import training as stages
from engine.stages.commits import Made, read_rows, read_scalars_as
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.stage import stage
from engine.step.products import join


class Subsets(Document):
    """Some of the random subsets of one size, by their numbers, half-open."""

    removals: Removals
    """How they are drawn."""

    start: int
    """First subset."""

    stop: int
    """Subset after the last one."""


@stage("seed-queries")
def seed_queries(run: Run, value: Ref, final: Ref, queries: Queries) -> Made:
    """Evaluate each query's loss at s_T and commit the adjoints, one after the other.

    The record holds ``outputs``.
    """
    problem = run.problem
    routine = problem.routine.at(read_rows(run.store, value)["value"])
    state = read_rows(run.store, final, routine.device)
    found = [seed_adjoint(routine, state, phi) for phi in query_outputs(problem, queries)]
    adjoint = join([adjoint for _, adjoint in found])
    rows = {name: tensor.reshape(-1) for name, tensor in adjoint.items()}
    return rows, {"outputs": [float(output) for output, _ in found]}


@stage("trial", reverses=True)
def trial(
    run: Run, queries: Queries, removals: Removals, num_subsets: int, retraining: Retraining
) -> Made:
    """Try a few removals on a few queries; the record holds a ``CheckReport``."""
    replay = run.settled.replay
    found = try_removals(run.problem, queries, removals, num_subsets, retraining, replay)
    return {}, CheckReport.of([found]).model_dump(mode="json")


def preflight(recipe: AttributionRecipe, store: str) -> CheckReport:
    """Try an attribution as its flow does before the sweep: on short twins, then by a few removals.

    What the twins refuse is not tried by removals.
    """
    settings, run = recipe.attribution, Run(recipe.descent, store)
    twins = read_scalars_as(store, stages.preflight(run), CheckReport)
    if twins.verdict is Verdict.REFUSE:
        return twins
    check_batched(settings, run.problem)
    if not settings.trial_subsets:
        return twins
    ref = trial(run, *settings.trial, settings.trial_subsets, settings.retraining)
    tried = read_scalars_as(store, ref, CheckReport)
    return CheckReport.of([*twins.checks, *tried.checks])


@stage("train-without")
def train_without(run: Run, queries: Queries, subsets: Subsets, retraining: Retraining) -> Made:
    """Train without each of some subsets, from the same start and in the same order.

    The row ``losses`` holds the queries' losses, subset by subset.
    """
    problem = run.problem
    routine = problem.routine
    ((name, kind),) = routine.metaparameters.items()
    points = [
        {name: kept_weights(subsets.removals, len(routine), number).to(kind.value)}
        for number in range(subsets.start, subsets.stop)
    ]
    states = train_many(routine, points, together=retraining.value)
    return {"losses": torch.cat([query_losses(problem, queries, state) for state in states])}, {}


@stage("final-gradients")
def final_gradients(run: Run, final: Ref, queries: Queries) -> Made:
    """Score by gradients at the trained model; the row ``scores`` goes query by query."""
    state = read_rows(run.store, final, run.problem.routine.device)
    return {"scores": final_gradient_scores(run.problem, queries, state).reshape(-1)}, {}


@stage("trak")
def trak(run: Run, final: Ref, queries: Queries, dimension: int, seed: int) -> Made:
    """Score by TRAK at the trained model; the row ``scores`` goes query by query."""
    state = read_rows(run.store, final, run.problem.routine.device)
    scores = trak_scores(run.problem, queries, state, dimension=dimension, seed=seed)
    return {"scores": scores.reshape(-1)}, {}
