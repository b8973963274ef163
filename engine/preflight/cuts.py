"""Find the part of a step that its derivative lacks, by a central difference of each part."""

from collections.abc import Callable

import torch
from torch import Tensor

from engine.numerics.determinism import generator
from engine.routine.module.buffers.batch_norm import without_buffers
from engine.routine.module.stop_gradient import whole_derivatives
from engine.routine.routine import Routine
from engine.step.step import plain_step
from engine.types import Metaparams, State

DISTANCE, LIMIT = 1e-6, 1e-4


def find_cut(routine: Routine, metagradient: Metaparams) -> str:
    """Say which part of a step has a derivative that autograd does not see.

    Args:
        routine: A run in float64.
        metagradient: d phi / d z, for its names.
    """
    z, last = routine.point(), routine.num_steps - 1
    state = routine.initial_state(z)
    for step in range(last):
        state, _ = plain_step(routine, state, z, step)
    state = {name: row.detach() for name, row in state.items()}
    steps = [step for step in range(routine.num_steps) if _enters(routine, step)]
    found = [
        *_cut_in_update(routine, state, z, last),
        *_cut_in_gradient(routine, state, z, last),
        *_cut_in_metaparameters(routine, state, z, steps[-1] if steps else last, metagradient),
    ]
    if not found:
        return "Each part of one step agrees, so it is what happens between steps."
    return f"The cut is in {found[0]}."


def _enters(routine: Routine, step: int) -> bool:
    return any(kind.enters(step) for kind in routine.metaparameters.values())


def _gradient(routine: Routine, params: Tensor, z: Metaparams, step: int) -> Tensor:
    total = torch.zeros_like(params)
    with torch.enable_grad(), routine.binding.keeping():
        for term in routine.terms(step):
            leaf = params if params.requires_grad else params.detach().requires_grad_()
            loss = routine.term_loss(leaf, term, z, step)
            (share,) = torch.autograd.grad(loss, leaf, create_graph=True)
            total = total + routine.hooked_term(share, step, term.shard)
    return total


def _cut_in_update(routine: Routine, state: State, z: Metaparams, step: int) -> list[str]:
    gradient = _gradient(routine, state["params"], z, step).detach()
    hyper = {
        name: value.detach() if isinstance(value, Tensor) else value
        for name, value in routine.hyperparameters(z, step).items()
    }
    state = without_buffers(state)
    inputs = {**state, "the gradient": gradient}

    def update(moved: dict[str, Tensor]) -> Tensor:
        own = {name: moved[name].clone() for name in state}
        hooked = routine.hooked_sum(moved["the gradient"], step)
        following = routine.optimizer.update(own, hooked, hyper, step)
        return torch.cat([following[name] for name in state])

    name = f"the update of optimizer {routine.optimizer.name!r}"
    return [
        f"{name}, with respect to {source!r}"
        for source in inputs
        if _is_cut(lambda x, s=source: update({**inputs, s: x}), inputs[source])
    ]


def _cut_in_gradient(routine: Routine, state: State, z: Metaparams, step: int) -> list[str]:
    cut = _is_cut(lambda params: _gradient(routine, params, z, step), state["params"])
    return ["the gradient of the model or the loss, with respect to the parameters"] if cut else []


def _cut_in_metaparameters(
    routine: Routine, state: State, z: Metaparams, step: int, metagradient: Metaparams
) -> list[str]:
    def reads(name: str, value: Tensor) -> Tensor:
        moved = {**z, name: value}
        hyper = routine.hyperparameters(moved, step)
        numbers = [each.reshape(-1) for each in hyper.values() if isinstance(each, Tensor)]
        return torch.cat([_gradient(routine, state["params"], moved, step), *numbers])

    return [
        f"the way of metaparameter {name!r} into the step"
        for name in metagradient
        if routine.metaparameters[name].enters(step)
        and _is_cut(lambda value, n=name: reads(n, value), z[name])
    ]


def _is_cut(function: Callable[[Tensor], Tensor], point: Tensor) -> bool:
    """Compare a vector-Jacobian product with a central difference along one direction."""
    drawn = generator(0, "cut", point.numel())
    direction = torch.randn(point.shape, generator=drawn, dtype=point.dtype).to(point.device)
    leaf = point.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = function(leaf)
        weights = torch.randn(value.shape, generator=drawn, dtype=value.dtype).to(value.device)
        product = (value * weights).sum()
        with whole_derivatives():
            (pulled,) = (
                torch.autograd.grad(product, leaf, allow_unused=True)
                if product.requires_grad
                else (None,)
            )
    predicted = 0.0 if pulled is None else float((pulled * direction).sum())
    above, below = (
        function((point + shift * direction).detach()).detach() for shift in (DISTANCE, -DISTANCE)
    )
    change = (above - below) / (2 * DISTANCE)
    found = float((change * weights).sum())
    scale = float(change.norm() * weights.norm()) + abs(predicted)
    return abs(found - predicted) > LIMIT * scale
