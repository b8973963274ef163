"""Attribution of a run's outputs to its examples (MAGIC), and the score that judges it.

The weight w_i multiplies the loss of example i; ones give the run itself. With the metagradient
tau of a query's loss, leaving out the examples D is predicted to change that loss by

    f(D) = - sum_{i in D} tau_i,

and the linear datamodeling score (LDS) is Spearman's rank correlation, over random subsets D, of
f(D) with the loss of the model that was trained without D. Trained without D means with weight 0:
seed, order of examples and the size of every batch stay what they were, so that a query's loss is
a function of the weights alone.

References:
    Ilyas, Engstrom 2025, arXiv:2504.16430 (MAGIC).
    Park et al. 2023, arXiv:2303.14186 (TRAK, and the LDS).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import DataError
from engine.extras import load
from engine.numerics.determinism import generator
from engine.problems.built import BuiltProblem
from engine.problems.fits import check_single_losses
from engine.recipes.attribution import Queries, Removals
from engine.replay.seeding import seed_adjoint
from engine.routine.outputs import batches_of
from engine.routine.routine import Routine
from engine.types import Batch, State

CHUNK = 1000
"""Examples whose losses are in one graph."""


def query_batch(problem: BuiltProblem, queries: Queries) -> Any:  # noqa: ANN401 (as a routine reads it)
    """Return inputs and labels of the queries, on the device.

    Raises:
        DataError: If the split has fewer examples.
    """
    examples = problem.held_out[queries.split]
    if queries.number > len(examples):
        raise DataError(
            f"attribution.num_queries is {queries.number}, but the split {queries.split.value} has "
            f"{len(examples)} examples. Lower it, or give that split more."
        )
    check_single_losses(problem.loss, "attribution")
    return examples.first(queries.number).batches(problem.routine.device)


def query_outputs(problem: BuiltProblem, queries: Queries) -> list[Callable[[nn.Module], Tensor]]:
    """Return one output for each query: its loss."""
    singles = list(batches_of(query_batch(problem, queries), 1))

    def output(number: int) -> Callable[[nn.Module], Tensor]:
        return lambda model: problem.loss(model, singles[number]).sum()

    return [output(number) for number in range(queries.number)]


@torch.no_grad()
def query_losses(problem: BuiltProblem, queries: Queries, state: State) -> Tensor:
    """Return the loss of each query at a state, shape (queries,)."""
    (batch,) = batches_of(query_batch(problem, queries), queries.number)
    return problem.routine.evaluate(lambda model: problem.loss(model, batch), state)


def kept_weights(removals: Removals, num_examples: int, subset: int) -> Tensor:
    """Return the weights of one training, shape (examples,): 0 for a random subset, else 1.

    Raises:
        DataError: If the share is less than one example, or all.
    """
    number = round(removals.percent / 100 * num_examples)
    if not 0 < number < num_examples:
        raise DataError(
            f"attribution.drops has {removals.percent:g} %, which is {number} of {num_examples} "
            "training examples. Use a larger share, or give more training examples."
        )
    drawn = generator(removals.seed, "removals", f"{removals.percent:g}", subset)
    weights = torch.ones(num_examples)
    weights[torch.randperm(num_examples, generator=drawn)[:number]] = 0
    return weights


def predicted_effects(scores: Tensor, weights: Tensor) -> Tensor:
    """Return the predicted change of each query's loss, shape (subsets, queries).

    Args:
        scores: tau, shape (queries, examples).
        weights: Weights of each training, shape (subsets, examples).
    """
    return (weights.to(scores) - 1) @ scores.T


def datamodeling_scores(predicted: Tensor, actual: Tensor) -> list[float]:
    """Return the LDS of each query, in [-1, 1]; 0 where all predictions, or all losses, are equal.

    Args:
        predicted: Shape (subsets, queries).
        actual: Losses of the trained models, or their changes, likewise.
    """
    statistics = load("scipy.stats", "A rank correlation")
    found = []
    for one, other in zip(predicted.T.double(), actual.T.double(), strict=True):
        constant = bool((one == one[0]).all() or (other == other[0]).all())
        result: Any = 0.0 if constant else statistics.spearmanr(one.numpy(), other.numpy())[0]
        found.append(float(result))
    return found


def final_gradient_scores(problem: BuiltProblem, queries: Queries, state: State) -> Tensor:
    """Return minus the dot product of each query's and each example's gradient at ``state``.

    It is what the last step of plain gradient descent would say, up to the learning rate: an
    example with a gradient like the query's lowers the query's loss.

    Returns:
        Shape (queries, examples).
    """
    routine = problem.routine
    evaluated = routine.optimizer.evaluated
    directions = [
        seed_adjoint(routine, state, phi)[1][evaluated] for phi in query_outputs(problem, queries)
    ]
    columns = [
        _dot_products(routine, state, directions, batch)
        for batch in batches_of(routine.examples, CHUNK)
    ]
    return -torch.cat(columns, dim=1)


def _dot_products(
    routine: Routine, state: State, directions: Sequence[Tensor], batch: Batch
) -> Tensor:
    """Differentiate <sum_i w_i grad l_i, d> by w, for each direction d."""
    evaluated = routine.optimizer.evaluated
    params = state[evaluated].detach().requires_grad_()
    with torch.enable_grad(), routine.binding.keeping():
        losses = routine.evaluate(
            lambda model: routine.loss(model, batch), {**state, evaluated: params}
        )
        weights = torch.ones_like(losses).requires_grad_()
        total = torch.autograd.grad((weights * losses).sum(), params, create_graph=True)[0]
        rows = [
            torch.autograd.grad(total @ direction, weights, retain_graph=True)[0]
            for direction in directions
        ]
    return torch.stack(rows)
