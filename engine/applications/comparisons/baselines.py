"""Baselines: set-ups made without a metagradient.

Each maps a problem, the model of the initial set-up and the number of examples to keep to a value
of the metaparameter: counts of 0 and 1 for a selection, logits for a mixture. They are trained and
scored by the same stages as the iterates of a descent, so that a report compares like with like.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._pytree import tree_map

from engine.applications.comparisons.poisons import gradient_cancelling, random_pixels
from engine.metaparameters.group_weights import GroupWeights
from engine.numerics.determinism import generator
from engine.problems.built import BuiltProblem
from engine.recipes.comparisons import BaselineName
from engine.routine.coupled_loss import coupled
from engine.routine.module.kept_tensors import keeps_tensors
from engine.routine.routine import Routine
from engine.types import Batch, Output, State

CHUNK = 128
"""Examples whose gradients are alive at a time: each is as large as the model."""

Baseline = Callable[[BuiltProblem, State, int, int], Tensor]
"""Maps (problem, s_T of z_0, number to keep, seed) to a value of the metaparameter."""


def all_data(
    problem: BuiltProblem, _final: State, _num_kept: int, _seed: int
) -> Float[Tensor, " examples"]:
    """Keep every candidate once."""
    return torch.ones_like(problem.kind.value)


def random_subset(
    problem: BuiltProblem, _final: State, num_kept: int, seed: int
) -> Float[Tensor, " examples"]:
    """Keep candidates drawn uniformly, without replacement."""
    drawn = torch.rand(len(problem.kind.value), generator=generator(seed, "random subset"))
    return _keep_highest(drawn, problem, num_kept)


def low_loss(
    problem: BuiltProblem, final: State, num_kept: int, _seed: int
) -> Float[Tensor, " examples"]:
    """Keep the candidates that the trained model finds easiest: loss-based pruning."""
    return _keep_highest(-example_losses(problem.routine, final), problem, num_kept)


def gradient_similarity(
    problem: BuiltProblem, final: State, num_kept: int, _seed: int
) -> Float[Tensor, " examples"]:
    """Keep the candidates whose gradient points most along that of the objective.

    The score of candidate i is the cosine of grad l_i and grad phi at the trained model. LESS
    averages it over the checkpoints of a warm-up training and preconditions by Adam's moments;
    this takes the last checkpoint and the plain gradient.

    References:
        Xia et al. 2024, arXiv:2402.04333 (LESS).
    """
    return _keep_highest(
        gradient_cosines(problem.routine, problem.output, final), problem, num_kept
    )


def uniform(
    problem: BuiltProblem, _final: State, _num_kept: int, _seed: int
) -> Float[Tensor, " groups"]:
    """Give every group the same share of the loss, whatever its size."""
    return torch.zeros_like(problem.kind.value)


def proportional(
    problem: BuiltProblem, _final: State, _num_kept: int, _seed: int
) -> Float[Tensor, " groups"]:
    """Give every example the same weight, so that a group counts by its size."""
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
    """Return the loss of each candidate at a trained state, in evaluation mode, on the CPU.

    A coupled loss has a value in a batch only: those of ``candidate_batches``.
    """
    found = torch.zeros(len(routine))
    for indices, num_new in candidate_batches(routine):
        batch = routine.batch_of(indices)
        with torch.no_grad():
            losses = routine.evaluate(lambda model, batch=batch: routine.loss(model, batch), final)
        found = found.to(losses.dtype)
        found[indices[:num_new]] = losses[:num_new].cpu()
    return found


def candidate_batches(routine: Routine) -> Iterator[tuple[Int64[Tensor, " batch"], int]]:
    """Yield batches in which every candidate is among the first ones exactly once, and how many.

    Where the loss couples examples these are batches of the run's size in a drawn order, the last
    one filled up by candidates that were there before: with fewer others its losses would be lower.
    """
    total = len(routine)
    if coupled(routine.loss) is None:
        for start in range(0, total, CHUNK):
            indices = torch.arange(start, min(start + CHUNK, total))
            yield indices, len(indices)
        return
    order = torch.randperm(total, generator=generator(routine.seed, "candidate batches"))
    size = min(routine.batch_size, total)
    for start in range(0, total, size):
        new = order[start : start + size]
        yield torch.cat([new, order[: size - len(new)]]), len(new)


def gradient_cosines(routine: Routine, output: Output, final: State) -> Float[Tensor, " examples"]:
    """Return the cosine of each candidate's gradient with the objective's, on the CPU.

    Where the loss couples examples, a candidate's gradient is that of its loss in a batch, taken
    through its own embedding while those of the others stay.

    Cost:
        A forward and a backward pass over all candidates; memory for ``CHUNK`` gradients.
    """
    evaluated = routine.optimizer.evaluated
    params = final[evaluated].detach()

    leaf = params.clone().requires_grad_()
    with torch.enable_grad(), routine.binding.keeping():
        (target,) = torch.autograd.grad(routine.evaluate(output, {**final, evaluated: leaf}), leaf)
    found = torch.zeros(len(routine), dtype=params.dtype)
    for indices, num_new in candidate_batches(routine):
        batch = routine.batch_of(indices)
        losses = _of_each(_loss_of_one(routine, final, batch), params, batch)
        for start in range(0, num_new, CHUNK):
            stop = min(start + CHUNK, num_new)
            few = tree_map(lambda column, a=start, b=stop: column[a:b], batch)
            places = torch.arange(start, stop, device=params.device)
            # The loss alone is mapped, each over parameters of its own, and the gradient of the sum
            # has one row for each. ``torch.func.grad`` would load torch's compiler for that.
            leaf = params.expand(stop - start, -1).detach().requires_grad_()
            with torch.enable_grad(), routine.binding.keeping():
                (gradients,) = torch.autograd.grad(losses(leaf, places, few).sum(), leaf)
            cosines = torch.cosine_similarity(gradients, target[None], dim=1)
            found[indices[start:stop]] = cosines.cpu()
    return found


def _of_each(
    loss_of_one: Callable[..., Tensor], params: Tensor, batch: Batch
) -> Callable[..., Tensor]:
    """Map the loss of one example over several, in one call where the code allows that."""
    first = tree_map(lambda column: column[0], batch)
    place = torch.zeros((), dtype=torch.int64, device=params.device)
    with torch.no_grad():
        if not keeps_tensors(lambda: loss_of_one(params, place, first)):
            return vmap(loss_of_one)

    def one_by_one(rows: Tensor, places: Tensor, few: Batch) -> Tensor:
        each = (tree_map(lambda column, i=i: column[i], few) for i in range(len(places)))
        pairs = zip(rows, places, each, strict=True)
        return torch.stack([loss_of_one(*one) for one in pairs])

    return one_by_one


def _loss_of_one(routine: Routine, final: State, batch: Batch) -> Callable[..., Tensor]:
    """Return a function of (params, place, example): the loss of the example at a place."""
    joined = coupled(routine.loss)
    known = torch.zeros(0)
    if joined is not None:
        with torch.no_grad():
            known = routine.evaluate(lambda model: joined.embed(model, batch), final)

    def loss_of_one(params: Tensor, place: Tensor, example: Batch) -> Tensor:
        alone = tree_map(lambda column: column.unsqueeze(0), example)

        def loss(model: nn.Module) -> Tensor:
            if joined is None:
                return routine.loss(model, alone)[0]
            is_here = torch.arange(len(known), device=known.device) == place
            here = is_here.reshape(-1, *[1] * (known.ndim - 1))
            moved = torch.where(here, joined.embed(model, alone), known)
            return torch.where(is_here, joined.couple(model, moved), 0).sum()

        return routine.evaluate(loss, {**final, routine.optimizer.evaluated: params})

    return loss_of_one


def _keep_highest(scores: Tensor, problem: BuiltProblem, num_kept: int) -> Tensor:
    counts = torch.zeros_like(problem.kind.value)
    # Stable, so that ties fall the same way on every machine.
    counts[torch.argsort(scores, descending=True, stable=True)[:num_kept]] = 1
    return counts
