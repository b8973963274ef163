"""Parts of a step as compiled programs.

A program is made once for a routine, whatever its z, so everything that changes from step to step
is an input: the batch, what z sets in it, the hyperparameters and the step's number. A number or a
tensor that a program closes over is built into it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value
from torch.utils._pytree import tree_flatten, tree_unflatten

from engine.errors import ConfigurationError
from engine.routine import Routine
from engine.terms import Term
from engine.types import Metaparams

Inputs = dict[str, Any]
"""What a step reads besides its state, by name: tensors, and the batch's structure."""


def step_inputs(routine: Routine, term: Term, z: Metaparams, step: int) -> Inputs:
    """Return everything that the step of one term reads besides its state.

    Numbers become tensors, which a program reads anew at every step.
    """
    batch, arguments = routine.loss_inputs(term, z, step)
    columns, structure = tree_flatten(batch)
    weights = term.weights(z)

    def tensor(value: float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return value
        return torch.tensor(value, dtype=torch.float64, device=routine.device)

    hyper = routine.hyperparameters(z, step)
    return {
        "structure": structure,
        "step": tensor(float(step)),
        **{f"hyper {name}": tensor(value) for name, value in hyper.items()},
        **{f"argument {name}": value for name, value in arguments.items()},
        **{f"column {i}": column for i, column in enumerate(columns)},
        **({} if weights is None else {"weights": weights}),
    }


def named(inputs: Mapping[str, Any], prefix: str) -> Inputs:
    """Return the inputs whose names begin with ``prefix``, without it."""
    return {n.removeprefix(prefix): value for n, value in inputs.items() if n.startswith(prefix)}


def make_loss(routine: Routine) -> Callable[[Tensor, Inputs], Tensor]:
    """Return the loss of a step as a function of params and ``step_inputs``, for a compiler."""
    module, layout, batch_size = routine.loss_module, routine.layout, routine.batch_size

    def loss(params: Tensor, inputs: Inputs) -> Tensor:
        columns = named(inputs, "column ")  # those that z sets come last, so not in order
        ordered = [columns[str(i)] for i in range(len(columns))]
        batch = tree_unflatten(ordered, inputs["structure"])
        views = {f"model.{name}": view for name, view in layout.views(params).items()}
        losses = functional_call(module, views, (batch,), named(inputs, "argument "))
        weights = inputs.get("weights")
        return (losses if weights is None else weights * losses).sum() / batch_size

    return loss


def compiled(function: Callable[..., Any], routine: Routine) -> Callable[..., Any]:
    """Compile a function for the routine's device, with the eager step's random draws."""
    options: dict[str, Any] = {"fallback_random": True}
    if routine.device.type == "cuda":
        options["triton.cudagraphs"] = True
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)


def many_programs() -> AbstractContextManager[None]:
    """Let one process hold the programs of many routines; torch's own limit is 8 in all."""
    return torch._dynamo.config.patch(recompile_limit=64)  # pyright: ignore[reportPrivateUsage]


def compiled_gradient(
    routine: Routine, params: Tensor, term: Term, z: Metaparams, step: int
) -> tuple[Tensor, Tensor]:
    """Return the gradient of a term at ``params`` and its loss, by a compiled program.

    It defines the run's states where it is used, so nothing replaces it quietly.

    Raises:
        ConfigurationError: If it cannot be compiled, or differs from the eager gradient.
    """
    if routine.statistics is not None:
        raise ConfigurationError(
            "training.compile is true, but the model keeps running statistics of batch "
            "normalization, which a compiled step does not move. Set it to false, or use group or "
            "layer normalization."
        )
    inputs = step_inputs(routine, term, z, step)
    made = routine.programs.get("gradient")
    program = made or compiled(grad_and_value(make_loss(routine)), routine)
    routine.model.train()
    try:
        with routine.seeded(term, step), torch.no_grad(), many_programs():
            gradient, loss = program(params.detach(), inputs)
    except (RuntimeError, OSError, ImportError) as error:
        raise ConfigurationError(
            f"The step cannot be compiled: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]} Set training.compile to false, or install what "
            "is missing."
        ) from error
    if made is None:
        with torch.enable_grad():
            leaf = params.detach().requires_grad_()
            (expected,) = torch.autograd.grad(routine.term_loss(leaf, term, z, step), leaf)
        error = float((gradient - expected).norm())
        if not error <= torch.finfo(params.dtype).eps ** 0.5 * float(expected.norm()):
            raise ConfigurationError(
                f"The compiled gradient of step {step} is off by {error:.1e}, of norm "
                f"{float(expected.norm()):.1e}. Set training.compile to false."
            )
        routine.programs["gradient"] = program
    # A captured graph writes its next results in the place of these.
    return gradient.clone(), loss.clone()
