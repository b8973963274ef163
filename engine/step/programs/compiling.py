"""Parts of a step as compiled programs.

A program is made once for a routine, whatever its z, so everything that changes from step to step
is an input: the batch, what z sets in it, the hyperparameters and the step's number. A number or a
tensor that a program closes over is built into it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value
from torch.utils._pytree import tree_flatten, tree_unflatten

from engine.errors import ConfigurationError
from engine.recipes.replay import StepPath
from engine.routine.loss_terms import Term
from engine.routine.module.gradient_hooks import hooked
from engine.routine.module.kept_tensors import keeps_tensors
from engine.routine.routine import Routine
from engine.step.programs.captured import CapturedProgram, Part
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


def with_prefix(inputs: Mapping[str, Any], prefix: str) -> Inputs:
    """Return the inputs whose names begin with ``prefix``, without it."""
    return {n.removeprefix(prefix): value for n, value in inputs.items() if n.startswith(prefix)}


PARAMETER = "parameter "
"""What stands before the name of a parameter that the loss reads from the module."""

BUFFER = "buffer "
"""What stands before the name of a buffer that the loss finds, and leaves elsewhere."""


def make_views(routine: Routine) -> Part:
    """Return the cut of ``params`` into parameters as a part."""
    layout = routine.layout

    def views(inputs: Inputs) -> Inputs:
        return {PARAMETER + name: view for name, view in layout.views(inputs["params"]).items()}

    return views


def make_loss(routine: Routine) -> Part:
    """Return the loss of a step as a part: of ``step_inputs``, and parameters in the module.

    Buffers that the forward pass moves are inputs, and as it leaves them they are results.
    """
    module, batch_size = routine.loss_module, routine.batch_size

    def loss(inputs: Inputs) -> Inputs:
        columns = with_prefix(inputs, "column ")  # those that z sets come last, so not in order
        ordered = [columns[str(i)] for i in range(len(columns))]
        batch = tree_unflatten(ordered, inputs["structure"])
        arguments, held = with_prefix(inputs, "argument "), with_prefix(inputs, BUFFER)
        left = {f"model.{name}": buffer.clone() for name, buffer in held.items()}
        if held:
            losses = functional_call(module, left, (batch,), arguments)
        else:  # nothing is exchanged: functional_call takes long to be read
            losses = module(batch, **arguments)
        weights = inputs.get("weights")
        whole = (losses if weights is None else weights * losses).sum() / batch_size
        return {"loss": whole, **{BUFFER + name: left[f"model.{name}"] for name in held}}

    return loss


def keeps_for_itself(routine: Routine, z: Metaparams, step: int) -> bool:
    """Say whether the loss or the module keeps tensors that it makes; found out once for a routine.

    Capturing such code for the first time would leave stand-ins in the place of these tensors.
    """
    known = routine.programs
    if "keeps tensors" not in known:
        point = {**routine.point(), **z}  # z may be what enters this step alone
        params = routine.initial_state(point)["params"].detach().requires_grad_()
        term = next(routine.terms(step))

        def call() -> object:
            with torch.enable_grad(), routine.binding.keeping():
                return routine.term_loss(params, term, z, step)

        known["keeps tensors"] = keeps_tensors(call)
    return known["keeps tensors"]


def read_routine(routine: Routine) -> Routine:
    """Return the routine that is read for programs: the first of those that share them.

    One with other values of z has a module of its own, of which no part knows.
    """
    return routine.programs.setdefault("read", routine)


@contextmanager
def reading(routine: Routine, params: Tensor) -> Iterator[dict[str, Tensor]]:
    """Let the module hold parameters while a step is read; yields them by the names of parts.

    They are always leaves of the same kind, whatever was bound before; for tensors of another kind
    Dynamo would capture the step again.
    """
    read = read_routine(routine)
    views = read.layout.views(params.detach())
    held = {name: view.detach().requires_grad_() for name, view in views.items()}
    with read.binding.holding(held):
        read.modes.train()
        yield {PARAMETER + name: tensor for name, tensor in held.items()}


def loss_at(parts: Mapping[str, Part], values: Inputs, params: Tensor) -> Tensor:
    """Return the loss of a step by its parts, at other parameters."""
    return _loss_and_buffers(parts, values, params)[0]


def _loss_and_buffers(
    parts: Mapping[str, Part], values: Inputs, params: Tensor
) -> tuple[Tensor, Inputs]:
    found = parts["loss"]({**values, **parts["views"]({"params": params})})
    return found.pop("loss"), found


def make_update(routine: Routine) -> Part:
    """Return the update of a step as a part: of ``state ...``, ``gradient`` and ``step_inputs``."""
    update = routine.optimizer.update

    def following(inputs: Inputs) -> Inputs:
        gradient = inputs["gradient"]
        if routine.hooks:  # which draw nothing, so that nothing is seeded
            gradient = hooked(routine.hooks, routine.layout, gradient)
        return update(
            with_prefix(inputs, "state "), gradient, with_prefix(inputs, "hyper "), inputs["step"]
        )

    return following


def options(routine: Routine, *, pair: bool = False) -> dict[str, Any]:
    """Return the compiler's options: above all, to draw the random numbers of the eager step.

    Args:
        routine: Routine whose device the program is compiled for.
        pair: Whether what is compiled is differentiated: a pair of programs is made then, of which
            the second computes again what is cheap, see ``engine.step.programs.partition``. Else a
            GPU captures its kernels as one graph, which could not be kept for several steps.
    """
    told: dict[str, Any] = {"fallback_random": True}
    if routine.device.type == "cpu" or pair:
        # Channels last made the steps of a ResNet a third slower on a CPU (torch 2.13).
        told["layout_optimization"] = False
    if pair:
        from engine.step.programs.partition import KeepsLittle  # loads the compiler

        told["custom_partitioner_fn"] = KeepsLittle()
    elif routine.device.type == "cuda":
        told["triton.cudagraphs"] = True
    return told


def step_gradient(parts: Mapping[str, Part], values: Inputs) -> Inputs:
    """Return the gradient of a step's loss, the loss, and the buffers that it leaves.

    It is a whole of ``engine.step.programs.captured``.
    """
    loss = partial(_loss_and_buffers, parts, values)
    gradient, (value, left) = grad_and_value(loss, has_aux=True)(values["params"])
    return {"gradient": gradient, "loss": value, **left}


def compiled_gradient(
    routine: Routine, params: Tensor, term: Term, z: Metaparams, step: int
) -> tuple[Tensor, Tensor]:
    """Return the gradient of a term at ``params`` and its loss, by a compiled program.

    Where it is used it defines the states of the run, so no other gradient replaces it without an
    error. On the path of graphs the compiler makes a pair of programs, the second of which is the
    product: its first two are compared with the eager ones (two, because a batch that was built in
    agrees once).

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
    if routine.statistics is None and keeps_for_itself(routine, z, step):
        raise ConfigurationError(
            "compile is True, but the loss or the model keeps tensors of a call for itself, in "
            "whose place a compiled step leaves others. Keep numbers, or use compile=False.",
            settings=("training.compile",),
        )
    *found, left = _call_gradient(routine, params, term, z, step)
    compared = routine.programs["gradient, compared"]
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
    """Return the gradient, the loss and the buffers that it leaves, by name."""
    has_graph = routine.path is StepPath.GRAPH
    with torch.set_grad_enabled(has_graph):
        inputs = step_inputs(routine, term, z, step)
    buffers = {BUFFER + name: held for name, held in routine.carried_now().items()}
    inputs |= buffers
    try:
        program = routine.programs.get("gradient") or _gradient_program(routine)
        values = {**inputs, "params": params if has_graph else params.detach()}
        with reading(routine, params) as held, routine.seeded(term, step):
            read = {"loss": inputs, "views": {"params": params.detach().requires_grad_()}}
            with torch.set_grad_enabled(has_graph):
                results = ("gradient", "loss", *buffers)
                found, used = program(read, held, values, results)
    except (RuntimeError, OSError, ImportError) as error:
        raise ConfigurationError(
            f"The step cannot be compiled: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]} Use compile=False, or install what "
            "is missing.",
            settings=("training.compile",),
        ) from error
    routine.programs["gradient"] = program
    if used is not routine.programs.get("gradient, used"):  # the first, or other code than before
        routine.programs.update({"gradient, used": used, "gradient, compared": 0})
    gradient, loss = found["gradient"], found["loss"]
    if has_graph:
        return gradient, loss.detach(), {}
    left = {name.removeprefix(BUFFER): found[name].detach().clone() for name in buffers}
    if routine.device.type != "cuda":
        return gradient, loss, left
    return gradient.clone(), loss.clone(), left  # a captured graph writes its next in their place


def _gradient_program(routine: Routine) -> CapturedProgram:
    pair = routine.path is StepPath.GRAPH
    read = read_routine(routine)
    parts = {"loss": make_loss(read), "views": make_views(read)}
    return CapturedProgram(step_gradient, parts, options(routine, pair=pair), settled=("views",))


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
