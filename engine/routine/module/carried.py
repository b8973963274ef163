"""Buffers that a module moves by rules of its own, as a part of the state.

The forward pass of some modules writes buffers, mostly under ``no_grad()``, that later steps read:
a centre, an average of activations, singular vectors, a codebook, a counter that anneals. Within
one step such a value is a constant; in the derivative of the whole run it is not. So while a step
is run with its graph, what the module cuts out of the graph is held by ``stop_gradient`` instead of
``detach()``.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from engine.errors import WitnessError
from engine.routine.module.calls import refuse_rounding
from engine.routine.module.norm_arguments import BATCH_NORM, INSTANCE_NORM, bound, normalized
from engine.routine.module.saved_copies import PARTS, SavedCopies, is_alike, numbers_set, parts
from engine.routine.module.seen_graph import (
    ASKS,
    SeenGraph,
    answer,
    copied_values,
    functions_stopped,
)
from engine.routine.module.stop_gradient import stop_gradient
from engine.torch_modes import FunctionMode

if TYPE_CHECKING:
    from engine.routine.module.held_module import HeldModule
    from engine.routine.routine import Routine

MOVING = "moving buffers"
"""Where a routine notes them, among what was measured of its step."""

_MOST_FROZEN = 1 << 24
"""Numbers of frozen parameters that are copied to see whether a forward pass moves them."""


@dataclass(frozen=True)
class Moving:
    """Tensors of a module that a step moves and that no optimizer does, by name.

    Attributes:
        quantities: They follow parameters or examples; their first values.
        clocks: Whole numbers, and those that go the same way whatever the parameters and examples
            are, so that they have no derivative; their first values.
    """

    quantities: dict[str, Tensor] = field(default_factory=dict)
    clocks: dict[str, Tensor] = field(default_factory=dict)

    @property
    def all(self) -> dict[str, Tensor]:
        """Both kinds; the clocks come last."""
        return self.quantities | self.clocks


def moving(routine: "HeldModule", skipped: frozenset[str]) -> Moving:
    """Find what the first step of a run moves besides its parameters.

    Args:
        routine: The run.
        skipped: Names that are not looked at: running statistics, which a state holds anyway.

    Raises:
        WitnessError: If what moves has more digits than the numbers of a state.

    Cost:
        Nothing if the module has no such tensors; a forward pass of a batch if it has, and two more
        if one of them moves.
    """
    if MOVING not in routine.programs:
        routine.programs[MOVING] = _found(routine, _watched(routine, skipped))
    return routine.programs[MOVING]


def inherit(run: "Routine", source: "Routine") -> "Routine":
    """Return a run that was made of another one, and knows what moves in that one.

    The copy would find the same by itself, except a buffer that moves by less than one rounding.
    """
    _ = source.statistics
    known: Moving | None = source.programs.get(MOVING)
    if known is None or not known.all:
        return run
    held = {**dict(run.model.named_parameters()), **dict(run.model.named_buffers())}
    kinds = (known.quantities, known.clocks)
    run.programs[MOVING] = Moving(
        *({name: held[name].detach().clone() for name in kind} for kind in kinds)
    )
    return run


def _found(routine: "HeldModule", watched: Mapping[str, Tensor]) -> Moving:
    if not watched:
        return Moving()
    # Not at the first parameters: a teacher that begins as its student would not move there.
    first = after_a_call(routine, watched)
    moved = [name for name, tensor in first.items() if differs(tensor, watched[name])]
    if not moved:
        return Moving()
    # Those that count go the same way, whatever parameters, examples and metaparameters are.
    others = [after_a_call(routine, watched, 0, 1.1, 0.01), after_a_call(routine, watched, 1, 1.0)]
    found = Moving()
    for name in moved:
        ends = [end.get(name) for end in others]
        by_itself = all(end is not None and _same(end, first[name]) for end in ends)
        is_clock = by_itself or not watched[name].is_floating_point()
        (found.clocks if is_clock else found.quantities)[name] = watched[name]
    dtype = routine.layout.dtype
    for name, tensor in found.all.items():
        if not _same(tensor.to(dtype).to(tensor.dtype), tensor) or (
            name in found.quantities and torch.finfo(tensor.dtype).bits > torch.finfo(dtype).bits
        ):
            raise WitnessError(
                f"The forward pass moves the buffer {name!r} of {tensor.dtype}, which the state, "
                f"whose numbers are {dtype}, cannot hold without rounding it. Give the buffer the "
                "format of the parameters, or convert the model with model.double()."
            )
    return found


def _watched(routine: "HeldModule", skipped: frozenset[str]) -> dict[str, Tensor]:
    """Return copies of the tensors that no state holds, by name."""
    model = routine.model
    found = {name: tensor for name, tensor in model.named_buffers() if name not in skipped}
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    if sum(tensor.numel() for tensor in frozen.values()) <= _MOST_FROZEN:
        found |= frozen
    return {
        name: tensor.detach().clone()
        for name, tensor in found.items()
        if type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_complex()
        and tensor.device.type != "meta"
    }


def after_a_call(
    routine: "HeldModule",
    watched: Mapping[str, Tensor],
    step: int = 0,
    scale: float = 1.05,
    shift: float = 0.0,
) -> dict[str, Tensor]:
    """Return the watched tensors after a forward pass, those that are still of their kind."""
    run: Routine = routine  # pyright: ignore[reportAssignmentType] (the only kind of one)
    step = min(step, run.num_steps - 1)
    term = run.first_piece(next(run.terms(step)))
    binding = run.binding
    with torch.enable_grad(), binding.kept():
        # A bias that begins at zero moves, too.
        views = {n: (scale * p + 0.1 * (scale - 1)) for n, p in run.trainable.items()}
        views = {n: p.requires_grad_() for n, p in views.items()}
        # Running statistics are not looked at, and have to stay where they are as well.
        buffers = {
            name: tensor.detach().clone()
            for name, tensor in run.model.named_buffers()
            if binding.knows(name)  # not one that a call before has made
        }
        frozen = {name: tensor.clone() for name, tensor in watched.items()}
        # A step may be at work around this, which goes on with what it has bound.
        with binding.holding({**views, **buffers, **frozen}):
            run.modes.train()
            try:
                z = {n: (1 + shift) * value.detach() + shift for n, value in run.point().items()}
                batch, arguments = run.loss_inputs(term, z, step)
                with run.seeded(term, step):
                    run.loss(run.model, batch, **arguments)  # pyright: ignore[reportCallIssue] (checked when made)
            except Exception:  # of the user's code, and told where a step is taken
                return {}
            binding.refuse_parted(buffers)
            now = binding.bound()
    return {
        name: end.detach()
        for name, end in now.items()
        if end is not None and name in watched and is_alike(end, watched[name])
    }


def differs(one: Tensor, other: Tensor) -> bool:
    """Say whether two tensors differ in a bit, or in their kind."""
    return not _same(one, other)


def _same(one: Tensor, other: Tensor) -> bool:
    equal_nan = one.is_floating_point()
    return is_alike(one, other) and torch.allclose(one, other, rtol=0, atol=0, equal_nan=equal_nan)


class Carrying(FunctionMode):
    """Runs a module whose buffers are a part of the state.

    Args:
        held: The buffers, as they are bound for the call.
        is_traced: Whether their derivative is wanted. What the module takes out of the graph, by
            ``detach()``, ``.data`` or ``no_grad()``, is then held constant in the step alone.
    """

    def __init__(self, held: Mapping[str, Tensor], *, is_traced: bool) -> None:
        super().__init__()
        self._names = {tensor.untyped_storage()._cdata: name for name, tensor in held.items()}
        self._kept = list(held.values())  # alive, so that no address comes again
        self._is_traced, self._is_off = is_traced, False
        self._seen = SeenGraph(self._kept if is_traced else ())
        self._entered, self._saved = ExitStack(), SavedCopies(self.holds)

    def __enter__(self) -> "Carrying":
        if self._is_traced:
            self._is_off = not torch.is_grad_enabled()
            # no_grad() asks for it, to leave it as it was.
            asked = mock.patch.object(torch, "is_grad_enabled", self._is_on)
            self._entered.enter_context(asked)
            # Without a graph nobody would save what stands in a buffer before it is written over.
            self._entered.enter_context(self._saved)
            functions = functions_stopped(lambda: self._is_off, self.stopped)
            self._entered.enter_context(functions)
            self._entered.enter_context(numbers_set(self.holds, self.stopped))
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._entered.close()

    def _is_on(self) -> bool:
        return not self._is_off

    def on_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function``, in the graph."""
        refuse_rounding(function, args)
        own = _NORMS.get(function)
        if own is not None:
            found = own(self, args, kwargs)
            if found is not None:
                return found
        if not self._is_traced:
            return function(*args, **kwargs)
        if function is _SET_GRAD:
            self._is_off = not args[0]
            return None
        first: Any = args[0] if args else None
        made = self._made(function, args, kwargs)
        if made is not None:
            return made
        if isinstance(first, Tensor):
            answered = self._of_tensor(function, first, args, kwargs)
            if answered is not NotImplemented:
                return answered
        return self._in_the_graph(function, args, kwargs)

    def _made(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor | None:
        """Return what is made by functions that take no gradient; None of others."""
        if getattr(func, "__module__", "") == nn.init.__name__:
            filled = args[0] if args else kwargs["tensor"]
            if self.holds(filled):  # with what is drawn, whatever stood there
                given = {name: value for name, value in kwargs.items() if name != "tensor"}
                return filled.copy_(func(filled.detach().clone(), *args[1:], **given))
        if func in _COPIES:
            copied = copied_values(args[func is not torch.tensor], self.stopped)
            formats = {n: v for n, v in kwargs.items() if n in ("dtype", "device")}
            return copied.to(**formats) if copied is not None and formats else copied
        return None

    def _of_tensor(
        self, func: Callable[..., Any], first: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call what cuts a tensor out of the graph, asks about it, or looks into its memory."""
        if func in _OF_BUFFERS and self.holds(first):
            return self._of_buffer(func, first, args, kwargs)
        if func in _CUTS:
            return self.stopped(first)
        if func in _LOOKS:
            return func(first.detach(), *args[1:], **kwargs)
        if func in ASKS:
            return answer(func, first, self._seen)
        if func not in _OF_LEAVES or first.is_leaf or self._seen.requires_grad(first):
            return NotImplemented
        if func is Tensor.__deepcopy__:
            args[1][id(first)] = first.clone()
            return args[1][id(first)]
        if (args[1:] or (kwargs.get("requires_grad", True),))[0]:
            self._seen.ask_for(first)
        return first

    def _of_buffer(
        self, func: Callable[..., Any], first: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call what cuts a buffer out of the graph, which it is, into parts, or fills it."""
        if func in PARTS:
            return parts(func, first, args, kwargs)
        if func == _SET_DATA:
            first.copy_(self.stopped(args[1]))
            return None
        return first

    def _in_the_graph(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``func``, on what is held constant where the module wants no graph."""
        into, named = kwargs.get("out"), {n: v for n, v in kwargs.items() if n != "out"}
        if self._saved.is_transformed:
            args = tree_map(lambda each: each.clone() if self.holds(each) else each, args)
        if self._is_off:
            name = getattr(func, "__name__", "")
            kept = int(name in _IN_PLACE or (name.endswith("_") and not name.startswith("__")))
            rest: Any = tree_map(self.stopped, args[kept:])
            args, named = (
                (*args[:kept], *rest),
                {n: tree_map(self.stopped, v) for n, v in named.items()},
            )
        if isinstance(into, Tensor) and (self._is_off or self.holds(into)):
            found = func(*args, **named)
            if into.shape != found.shape:  # torch's own resizes it
                into.resize_(found.shape)
            return into.copy_(self.stopped(found))
        return func(*args, **(named if into is None else {**named, "out": into}))

    def holds(self, tensor: Any) -> bool:  # noqa: ANN401 (any argument)
        """Say whether something is one of the buffers, or a part of one."""
        if not isinstance(tensor, Tensor):
            return False
        try:
            return tensor.untyped_storage()._cdata in self._names
        except (RuntimeError, NotImplementedError):
            return False

    def stopped(self, value: Any) -> Any:  # noqa: ANN401 (any argument)
        """Return a value that the step holds constant; buffers, which are, and others as given."""
        if type(value) not in (Tensor, torch.nn.Parameter) or not value.requires_grad:
            return value
        return value if self.holds(value) else stop_gradient(value)

    def _move(self, buffer: Tensor, batch: Tensor, share: float) -> None:
        buffer.copy_((1 - share) * buffer + share * self.stopped(batch).to(buffer.dtype))

    def batch_norm(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Normalize by the batch and move the statistics, or by the statistics, if it holds them.

        Returns:
            None where the statistics are no buffers of the state.
        """
        given = bound(BATCH_NORM, args, kwargs)
        mean, variance, inputs = given["running_mean"], given["running_var"], given["input"]
        if not self.holds(mean) or not self.holds(variance):
            return None
        if not given["training"]:
            return normalized(inputs, mean, variance, given)
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        found = torch.var_mean(inputs, dim=axes)
        self._move(mean, found[1], given["momentum"])
        self._move(variance, found[0], given["momentum"])
        return functional.batch_norm(
            inputs, None, None, given["weight"], given["bias"], training=True, eps=given["eps"]
        )

    def instance_norm(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Normalize each example by itself and move the statistics by their mean; likewise."""
        given = bound(INSTANCE_NORM, args, kwargs)
        mean, variance, inputs = given["running_mean"], given["running_var"], given["input"]
        if not self.holds(mean) or not self.holds(variance):
            return None
        if not given["use_input_stats"]:
            return normalized(inputs, mean, variance, given)
        found = torch.var_mean(inputs, dim=list(range(2, inputs.ndim)))
        self._move(mean, found[1].mean(0), given["momentum"])
        self._move(variance, found[0].mean(0), given["momentum"])
        return functional.instance_norm(
            inputs, weight=given["weight"], bias=given["bias"], eps=given["eps"]
        )


_NORMS: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    functional.batch_norm: Carrying.batch_norm,
    functional.instance_norm: Carrying.instance_norm,
}
_SET_GRAD: Any = torch._C._set_grad_enabled
_DATA: Any = Tensor.data
_SET_DATA = _DATA.__set__
_CUTS = (Tensor.detach, torch.detach, Tensor.detach_, _DATA.__get__)
_OF_BUFFERS = (*_CUTS, *PARTS, _SET_DATA, Tensor.requires_grad_)
_LOOKS = (Tensor.numpy, Tensor.__array__, Tensor.__dlpack__)
_OF_LEAVES = (Tensor.requires_grad_, Tensor.__deepcopy__)
_COPIES = (torch.tensor, Tensor.new_tensor)
_IN_PLACE = ("__iadd__", "__imul__", "__isub__", "__itruediv__", "__setitem__")
