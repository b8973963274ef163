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
from torch.nn import functional
from torch.utils._pytree import tree_flatten, tree_unflatten

from engine.errors import ConfigurationError
from engine.models.attention import attention, let_compilers_take_it
from engine.recipes.replay import StepPath
from engine.routine.loss_terms import Term
from engine.routine.module.operations import replaced_functions
from engine.routine.routine import Routine
from engine.step.programs_folder import keep_programs, removed_damaged
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
    both = make_moving_loss(routine)
    return lambda params, inputs: both(params, inputs)[0]


def make_moving_loss(
    routine: Routine,
) -> Callable[[Tensor, Inputs], tuple[Tensor, dict[str, Tensor]]]:
    """Return the same with the buffers that the forward pass leaves, by name.

    Those of ``inputs`` whose names begin with ``buffer`` are what it finds.
    """
    module, layout, batch_size = routine.loss_module, routine.layout, routine.batch_size

    def loss(params: Tensor, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        columns = named(inputs, "column ")  # those that z sets come last, so not in order
        ordered = [columns[str(i)] for i in range(len(columns))]
        batch = tree_unflatten(ordered, inputs["structure"])
        views = {f"model.{name}": view for name, view in layout.views(params).items()}
        held = named(inputs, "buffer ")
        views |= {f"model.{name}": buffer.clone() for name, buffer in held.items()}
        losses = functional_call(module, views, (batch,), named(inputs, "argument "))
        weights = inputs.get("weights")
        total = (losses if weights is None else weights * losses).sum() / batch_size
        return total, {name: views[f"model.{name}"] for name in held}

    return loss


def compiled(
    function: Callable[..., Any], routine: Routine, *, pair: bool = False
) -> Callable[..., Any]:
    """Compile a function for the routine's device, with the eager step's random draws.

    Args:
        function: A pure function of tensors.
        routine: Its device is compiled for.
        pair: Whether what it returns is differentiated: a pair of programs is made then, of which
            the second computes again what is cheap, see ``engine.step.partition``. Else a GPU
            captures its kernels as one graph, which could not be kept for several steps.
    """
    keep_programs()
    options: dict[str, Any] = {"fallback_random": True}
    if routine.device.type == "cpu" or pair:
        # Channels last made the steps of a ResNet a third slower on a CPU (torch 2.13).
        options["layout_optimization"] = False
    if pair:
        from engine.step.partition import KeepsLittle  # loads the compiler

        options["custom_partitioner_fn"] = KeepsLittle()
    elif routine.device.type == "cuda":
        options["triton.cudagraphs"] = True
    let_compilers_take_it()
    program = torch.compile(function, fullgraph=True, dynamic=False, options=options)

    def call(*inputs: Any) -> Any:  # noqa: ANN401 (what the function takes and returns)
        with replaced_functions(_REPLACED):
            for _ in range(_REPAIRS):
                try:
                    return program(*inputs)
                except (RuntimeError, OSError, ImportError) as error:
                    if not removed_damaged(str(error)):
                        raise
            return program(*inputs)

    return call


_REPLACED = [(functional, "scaled_dot_product_attention", attention)]
"""What a compiled step calls in the place of torch's own, as an eager one does."""

_REPAIRS = 16  # the loader names one damaged library at a time


def many_programs() -> AbstractContextManager[None]:
    """Let one process hold the programs of many routines; torch's own limit is 8 in all."""
    return torch._dynamo.config.patch(recompile_limit=64)  # pyright: ignore[reportPrivateUsage]


def compiled_gradient(
    routine: Routine, params: Tensor, term: Term, z: Metaparams, step: int
) -> tuple[Tensor, Tensor]:
    """Return the gradient of a term at ``params`` and its loss, by a compiled program.

    It defines the run's states where it is used, so nothing replaces it quietly. On the path of
    graphs the compiler makes a pair of programs, the second of which is the product: its first two
    are compared with the eager ones (two, because a batch that was built in agrees once).

    Args:
        routine: The run.
        params: Parameters; on the path of graphs, they and what z sets carry one.
        term: What is differentiated.
        z: Metaparameters.
        step: t.

    Raises:
        ConfigurationError: If it cannot be compiled, or differs from the eager gradient.
    """
    has_graph = routine.path is StepPath.GRAPH
    if routine.statistics is not None and (has_graph or routine.statistics.layers):
        raise ConfigurationError(
            "compile is True, but the model keeps running statistics of batch normalization, "
            "which a compiled step does not, or path is 'graph' and its forward pass moves other "
            "buffers, whose derivative a compiled graph lacks. Use compile=False, or layers that "
            "keep none.",
            settings=("training.compile", "training.path"),
        )
    *found, left = _call_gradient(routine, params, term, z, step)
    compared = routine.programs.get("gradient, compared", 0)
    if compared < (2 if has_graph else 1):
        _compare_gradient(routine, found[0], left, params, term, z, step)
        routine.programs["gradient, compared"] = compared + 1
        if has_graph:  # the comparison has used it up
            *found, left = _call_gradient(routine, params, term, z, step)
    if routine.statistics is not None:
        routine.statistics.note(left)
    return found[0], found[1]


def _call_gradient(
    routine: Routine, params: Tensor, term: Term, z: Metaparams, step: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    has_graph = routine.path is StepPath.GRAPH
    with torch.set_grad_enabled(has_graph):
        inputs = step_inputs(routine, term, z, step)
    inputs |= {f"buffer {name}": held for name, held in routine.carried_now().items()}
    program = routine.programs.get("gradient") or compiled(
        grad_and_value(make_moving_loss(routine), has_aux=True),
        routine,
        pair=has_graph,
    )
    routine.modes.train()
    try:
        with routine.seeded(term, step), torch.set_grad_enabled(has_graph), many_programs():
            gradient, (loss, left) = program(params if has_graph else params.detach(), inputs)
    except (RuntimeError, OSError, ImportError) as error:
        raise ConfigurationError(
            f"The step cannot be compiled: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]} Use compile=False, or install what "
            "is missing.",
            settings=("training.compile",),
        ) from error
    routine.programs["gradient"] = program
    if has_graph:
        return gradient, loss.detach(), {}
    # A captured graph writes its next results in their place.
    ends = {name: end.detach().clone() for name, end in left.items()}
    return gradient.clone(), loss.clone(), ends


def _compare_gradient(  # noqa: PLR0913 (a gradient, and where it was taken)
    routine: Routine,
    gradient: Tensor,
    left: Mapping[str, Tensor],
    params: Tensor,
    term: Term,
    z: Metaparams,
    step: int,
) -> None:
    """Refuse a compiled gradient, its product, or buffers, that are not the eager ones."""
    has_graph = routine.path is StepPath.GRAPH
    leaf = params.detach().requires_grad_()
    with torch.enable_grad():
        loss = routine.term_loss(leaf, term, z, step)
        (expected,) = torch.autograd.grad(loss, leaf, create_graph=has_graph)
    pairs = [("gradient", gradient.detach(), expected.detach())]
    if left and routine.statistics is not None:
        ends = routine.statistics.last_ends()
        pairs += [(f"buffer {n!r}", end, ends[n].detach()) for n, end in left.items()]
    if has_graph:
        leaves = {name: tensor for name, tensor in z.items() if tensor.requires_grad}
        vector = expected.detach()
        pairs += [
            (f"product with respect to {name}", one, other)
            for name, one, other in zip(
                ("the parameters", *leaves),
                _products(gradient, [params, *leaves.values()], vector),
                _products(expected, [leaf, *leaves.values()], vector),
                strict=True,
            )
        ]
    for name, found, wanted in pairs:
        size = float(wanted.to(params.dtype).norm())
        error = float((found.to(params.dtype) - wanted.to(params.dtype)).norm())
        if not error <= torch.finfo(params.dtype).eps ** 0.5 * size:
            raise ConfigurationError(
                f"The compiled {name} of step {step} is off by {error:.1e}, of norm "
                f"{size:.1e}. Use compile=False.",
                settings=("training.compile",),
            )


def _products(gradient: Tensor, inputs: list[Tensor], vector: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(gradient, inputs, vector, allow_unused=True)
    # A rate has no part in a gradient, so it has no product; one that only the program lacks is
    # a zero that differs from the eager one.
    return [
        torch.zeros_like(tensor) if product is None else product
        for tensor, product in zip(inputs, found, strict=True)
    ]
