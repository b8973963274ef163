"""One step in the middle of a run, and its product by autograd of the step as one piece."""

import torch

from engine.routine.module.stop_gradient import whole_derivatives
from engine.step.step import traced_step
from tests.helpers.trainings import problems

STEP = problems.INJECTION_STEP


def setting(optimizer, kind, *, shift=0.0, seed=0):
    """A routine, a state in the middle of a run, z off its point by ``shift``, a cotangent."""
    routine = problems.routine(optimizer, kind)
    drawn = torch.Generator().manual_seed(seed)

    def noise(row):
        return torch.randn(row.shape, generator=drawn, dtype=row.dtype)

    state = {
        name: row + 0.1 * noise(row).abs()  # moments away from zero, squares positive
        for name, row in routine.initial_state().items()
    }
    z = {name: row + shift * noise(row).abs() for name, row in routine.point().items()}
    return routine, state, z, {name: noise(row) for name, row in state.items()}


def autograd_vjp(routine, state, z, step, cotangent):
    """The product by backpropagation through the step as one piece; zero where nothing enters."""
    inputs = {name: row.clone().requires_grad_() for name, row in state.items()}
    leaves = {name: row.clone().requires_grad_() for name, row in z.items()}
    following = traced_step(routine, inputs, leaves, step)
    with whole_derivatives():  # through what a step holds constant
        pulled = torch.autograd.grad(
            [following[name] for name in state],
            [*inputs.values(), *leaves.values()],
            [cotangent[name] for name in state],
            materialize_grads=True,
        )
    adjoint, shares = pulled[: len(inputs)], pulled[len(inputs) :]
    return dict(zip(inputs, adjoint, strict=True)), dict(zip(leaves, shares, strict=True))


def worst_error(found, expected):
    return max(
        float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected
    )
