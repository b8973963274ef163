"""Baselines: set-ups made without a metagradient.

Each maps a problem, the model of the initial set-up and the number of examples to keep to a value
of the metaparameter: counts of 0 and 1 for a selection, logits for a mixture. They are trained and
scored by the same stages as the iterates of a descent, so that a report compares like with like.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap

from engine.comparison import BaselineName
from engine.determinism import generator
from engine.metaparameters import GroupWeights
from engine.poison_baselines import gradient_cancelling, random_pixels
from engine.problem import Problem
from engine.routine import Routine
from engine.types import State

CHUNK = 128
"""Examples whose gradients are alive at a time: each is as large as the model."""

Baseline = Callable[[Problem, State, int, int], Tensor]
"""Maps (problem, s_T of z_0, number to keep, seed) to a value of the metaparameter."""


def all_data(
    problem: Problem, final: State, num_kept: int, seed: int
) -> Float[Tensor, " examples"]:
    """Keep every candidate once."""
    del final, num_kept, seed
    return torch.ones_like(problem.kind.value)


def random_subset(
    problem: Problem, final: State, num_kept: int, seed: int
) -> Float[Tensor, " examples"]:
    """Keep candidates drawn uniformly, without replacement."""
    del final
    drawn = torch.rand(len(problem.kind.value), generator=generator(seed, "random subset"))
    return _keep_highest(drawn, problem, num_kept)


def low_loss(
    problem: Problem, final: State, num_kept: int, seed: int
) -> Float[Tensor, " examples"]:
    """Keep the candidates that the trained model finds easiest: loss-based pruning."""
    del seed
    return _keep_highest(-example_losses(problem.routine, final), problem, num_kept)


def gradient_similarity(
    problem: Problem, final: State, num_kept: int, seed: int
) -> Float[Tensor, " examples"]:
    """Keep the candidates whose gradient points most along that of the objective.

    The score of candidate i is the cosine of grad l_i and grad phi at the trained model. LESS
    averages it over the checkpoints of a warm-up training and preconditions by Adam's moments;
    this takes the last checkpoint and the plain gradient.

    References:
        Xia et al. 2024, arXiv:2402.04333 (LESS).
    """
    del seed
    return _keep_highest(gradient_cosines(problem, final), problem, num_kept)


def uniform(problem: Problem, final: State, num_kept: int, seed: int) -> Float[Tensor, " groups"]:
    """Give every group the same share of the loss, whatever its size."""
    del final, num_kept, seed
    return torch.zeros_like(problem.kind.value)


def proportional(
    problem: Problem, final: State, num_kept: int, seed: int
) -> Float[Tensor, " groups"]:
    """Give every example the same weight, so that a group counts by its size."""
    del final, num_kept, seed
    assert isinstance(problem.kind, GroupWeights)  # the recipe's validation sees to it
    return problem.kind.proportional()


BASELINES: dict[BaselineName, Baseline] = {
    BaselineName.ALL_DATA: all_data,
    BaselineName.RANDOM: random_subset,
    BaselineName.LOW_LOSS: low_loss,
    BaselineName.GRADIENT_SIMILARITY: gradient_similarity,
    BaselineName.UNIFORM: uniform,
    BaselineName.PROPORTIONAL: proportional,
    BaselineName.RANDOM_PIXELS: random_pixels,
    BaselineName.GRADIENT_CANCELLING: gradient_cancelling,
}
"""How each is made that is a value of the metaparameter; flipped labels are none."""


def example_losses(routine: Routine, final: State) -> Float[Tensor, " examples"]:
    """Return the loss of each candidate at a trained state, in evaluation mode, on the CPU."""
    parts = []
    for start in range(0, len(routine), CHUNK):
        batch = tuple(column[start : start + CHUNK] for column in routine.examples)
        with torch.no_grad():
            losses = routine.evaluate(lambda model, batch=batch: routine.loss(model, batch), final)
        parts.append(losses.cpu())
    return torch.cat(parts)


def gradient_cosines(problem: Problem, final: State) -> Float[Tensor, " examples"]:
    """Return the cosine of each candidate's gradient with the objective's, on the CPU.

    Cost:
        A forward and a backward pass over all candidates; memory for ``CHUNK`` gradients.
    """
    routine, params = problem.routine, final["params"].detach()

    def objective(params: Tensor) -> Tensor:
        return routine.evaluate(problem.output, {**final, "params": params})

    def example_loss(params: Tensor, *example: Tensor) -> Tensor:
        batch = tuple(column.unsqueeze(0) for column in example)
        return routine.evaluate(
            lambda model: routine.loss(model, batch), {**final, "params": params}
        )[0]

    target = grad(objective)(params)
    each = vmap(grad(example_loss), in_dims=(None, *[0] * len(routine.examples)))
    parts = []
    for start in range(0, len(routine), CHUNK):
        batch = tuple(column[start : start + CHUNK] for column in routine.examples)
        parts.append(torch.cosine_similarity(each(params, *batch), target[None], dim=1).cpu())
    return torch.cat(parts)


def _keep_highest(scores: Tensor, problem: Problem, num_kept: int) -> Tensor:
    counts = torch.zeros_like(problem.kind.value)
    # Stable, so that ties fall the same way on every machine.
    counts[torch.argsort(scores, descending=True, stable=True)[:num_kept]] = 1
    return counts
