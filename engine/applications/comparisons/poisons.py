"""Poisons made without a metagradient, with the budget of the audit: the same images.

Random pixels and gradient cancelling are values of the metaparameter. Flipped labels are none: the
inputs stay and the labels move, so the training examples are others.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from engine.metaparameters.inputs import Inputs
from engine.numerics.determinism import generator
from engine.problems.built import BuiltProblem
from engine.routine.routine import Routine
from engine.types import Batch, State

CORRUPTION = 0.15
"""How far the parameters that are aimed at lie from the trained ones, relative to their norm."""

CORRUPTION_STEPS = 20
"""Steps of gradient ascent that lead there."""

CANCELLING_STEPS = 300
"""Steps of Adam on the pixels."""


def chosen_inputs(problem: BuiltProblem) -> Inputs:
    """Return the metaparameter of an audit; the recipe's validation sees to its kind."""
    assert isinstance(problem.kind, Inputs)
    return problem.kind


def random_pixels(
    problem: BuiltProblem, _final: State, _num_kept: int, seed: int
) -> Float[Tensor, "chosen ..."]:
    """Draw every pixel of the chosen images evenly between the bounds of the data."""
    kind = chosen_inputs(problem)
    low, high = kind.bounds or (float(kind.value.min()), float(kind.value.max()))
    drawn = torch.rand(kind.value.shape, generator=generator(seed, "random pixels"))
    return (low + (high - low) * drawn).to(kind.value)


def gradient_cancelling(
    problem: BuiltProblem, final: State, _num_kept: int, _seed: int
) -> Float[Tensor, "chosen ..."]:
    """Choose pixels that make bad parameters a resting point of training.

    Bad parameters theta* are found by gradient ascent on the objective from the trained ones; then
    the pixels x minimize |sum of clean gradients + sum_j grad l(x_j, y_j)|^2 at theta*, so that a
    training which gets there has no reason to leave.

    References:
        Lu, Kamath, Yu 2023, arXiv:2303.03592 (Gradient Cancelling); theta* by gradient-based
        parameter corruption, Sun et al. 2020, arXiv:2006.05620.
    """
    kind, routine = chosen_inputs(problem), problem.routine
    params = corrupted_parameters(problem, final)
    clean = torch.ones(len(routine), dtype=torch.bool)
    clean[kind.chosen] = False

    def gradient(batch: Batch, more: Mapping[str, Tensor], *, create_graph: bool = False) -> Tensor:
        leaf = params.clone().requires_grad_()
        with routine.binding.keeping():
            losses = routine.evaluate(
                lambda model: routine.loss(model, batch, **more),
                {**final, routine.optimizer.evaluated: leaf},
            )
            return torch.autograd.grad(losses.sum(), leaf, create_graph=create_graph)[0]

    others = (routine.batch_of(part) for part in clean.nonzero().flatten().split(500))
    fixed = torch.stack([gradient(batch, {}) for batch in others]).sum(0)
    poisoned = routine.batch_of(kind.chosen)
    pixels = kind.value.to(routine.device).clone().requires_grad_()
    adam = torch.optim.Adam([pixels], lr=0.02 * _span(kind))
    for _ in range(CANCELLING_STEPS):
        with torch.enable_grad(), routine.binding.keeping():
            batch = kind.batch(pixels, poisoned, kind.chosen)
            more = kind.loss_arguments(pixels, kind.chosen)
            left = (fixed + gradient(batch, more, create_graph=True)).square().sum()
            (pixels.grad,) = torch.autograd.grad(left, [pixels])
        adam.step()
        pixels.data = kind.project(pixels.data)
    return pixels.detach().cpu()


def _span(kind: Inputs) -> float:
    """Return how far apart values are; shifts begin at zero, and have only what is allowed."""
    found = float(kind.value.max() - kind.value.min())
    if found == 0 and kind.bounds is not None:
        low, high = map(torch.as_tensor, kind.bounds)
        return float((high - low).max())
    return found


def corrupted_parameters(problem: BuiltProblem, final: State) -> Float[Tensor, " params"]:
    """Return parameters near the trained ones at which the objective is high."""
    evaluated = problem.routine.optimizer.evaluated
    start = final[evaluated].detach()
    params = start.clone()
    length = CORRUPTION * float(start.norm()) / CORRUPTION_STEPS
    for _ in range(CORRUPTION_STEPS):
        leaf = params.clone().requires_grad_()
        with torch.enable_grad(), problem.routine.binding.keeping():
            loss = problem.routine.evaluate(problem.output, {**final, evaluated: leaf})
            (slope,) = torch.autograd.grad(loss, leaf)
        params = params + length * slope / slope.norm()
    return params


def with_flipped_labels(problem: BuiltProblem, routine: Routine, seed: int) -> Routine:
    """Return a routine whose chosen examples have another label, drawn evenly."""
    kind, classes = chosen_inputs(problem), problem.data.num_classes
    drawn = torch.randint(1, classes, kind.chosen.shape, generator=generator(seed, "flips"))
    inputs, labels = routine.examples
    labels = labels.clone()
    chosen = kind.chosen.to(labels.device)
    labels[chosen] = (labels[chosen] + drawn.to(labels)) % classes
    return replace(routine, examples=(inputs, labels))
