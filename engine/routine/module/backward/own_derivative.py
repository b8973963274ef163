"""Custom functions whose backward pass is another one than the derivative of their forward pass.

A gradient reversal, a rounding that lets gradients through, a gradient that is clipped on its way:
the gradient of a step is made by the backward pass that their author wrote. How that gradient moves
with the parameters has two parts: through what the backward pass computes, and through the values
that the function handed on in the forward pass. Autograd pulls the second part back by the author's
backward pass as well, which is not the derivative of those values. So a product takes the
derivative of the forward pass there, and everything else the function as it is.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import BackwardCFunction, FunctionCtx
from torch.autograd.graph import saved_tensors_hooks

from engine.numerics.determinism import generator
from engine.routine.module.stop_gradient import PASSES, whole_derivatives

_SCALES = (1e-3, 1.0, 1e3)
"""Of the cotangents that a backward pass is asked for: one that clips is no derivative at all."""

_DISTANCES = (1e-5, 1e-7, 1e-8)
"""Of central differences; the nearer ones are for functions that round, which jump elsewhere."""

_ROUNDING, _LIMIT = 1e-9, 1e-5
"""Of the relative difference of two derivatives in float64, and of one from a difference."""

_PLACES = ((1.0, 0.0), (3.0, 0.0), (1.0, 2.0))
"""Where it is asked: a factor on what it is given, and the size of a random move. A bound that lets
gradients through is the identity until it is reached."""

_MOST = 16
"""How often a function is asked whose arguments are others at each call."""

_TRACED = "engine_traced"
"""What a node of the graph holds: the inputs of its function, and the outputs with a graph."""


class OwnDerivatives(AbstractContextManager[None]):
    """Let products take the derivative of a custom function's forward pass inside the block.

    Only of functions whose backward pass is another one, while their forward pass has a derivative
    that finite differences confirm. Each is asked at its first call, in float64. Calls are seen
    below ``Function.apply``, because people keep that under a name of their own; what a product
    does hangs on the node, so it is done wherever the graph is pulled through.

    Cost:
        Nothing without custom functions; some calls of each at first. One whose backward pass is
        no derivative runs its forward pass twice, and keeps a graph of it.
    """

    def __init__(self) -> None:
        self._found: dict[type[Function], dict[Any, bool]] = {}

        def apply(function: type[Function], *args: Any) -> Any:  # noqa: ANN401 (as torch's)
            if not _is_of_users(function) or torch.compiler.is_compiling():
                return super(_AppliedBy, function).apply(*args)
            before = _Generators(args)
            found = super(_AppliedBy, function).apply(*args)
            self._keep(function, args, found, before)
            return found

        self._apply, self._outer = classmethod(apply), None

    def __enter__(self) -> None:
        self._outer = vars(_AppliedBy).get("apply")
        _AppliedBy.apply = self._apply

    def __exit__(self, *_: object) -> None:
        if self._outer is None:
            del _AppliedBy.apply
        else:
            _AppliedBy.apply = self._outer

    def _keep(
        self, function: type[Function], args: Sequence[Any], found: object, before: "_Generators"
    ) -> None:
        """Keep in the node of a call what the forward pass is with a graph, if a product needs it.

        Args:
            function: Somebody's own, which has just been called.
            args: With what.
            found: What it returned.
            before: Torch's generators before it was called.
        """
        kind = function._backward_cls  # pyright: ignore[reportAttributeAccessIssue] (torch's)
        made = found if isinstance(found, tuple) else (found,)
        nodes = (each.grad_fn for each in made if isinstance(each, Tensor))
        node = next((each for each in nodes if type(each) is kind), None)
        if node is None or not self._has_other(function, args):
            return
        kind.apply = _pulled
        with before.again(), _recording():
            # Each of its own, because a tensor that is given twice has a derivative in each place.
            own = [arg.view_as(arg) if isinstance(arg, Tensor) else arg for arg in args]
            setattr(node, _TRACED, (own, _forward(function, own)))

    def _has_other(self, function: type[Function], args: Sequence[Any]) -> bool:
        known = self._found.setdefault(function, {})
        key = tuple(arg if isinstance(arg, _PLAIN) else type(arg) for arg in args)
        if key not in known:
            if any(known.values()):
                return True
            if len(known) == _MOST:
                return False
            known[key] = False  # while it is asked, which calls it
            known[key] = _is_another(function, args)
        return known[key]


def is_kept(node: object) -> bool:
    """Say whether a node of a graph keeps what its function's forward pass is with a graph."""
    return hasattr(node, _TRACED)


def _pulled(node: Any, *cotangents: Any) -> Any:  # noqa: ANN401 (as torch's)
    """Take the place of a node's ``apply``: only a product finds what is kept in it."""
    traced = getattr(node, _TRACED, None) if PASSES.is_product else None
    if traced is None:
        return BackwardCFunction.apply(node, *cotangents)
    args, outputs = traced
    return _derivative(args, outputs, cotangents, keep=True)


_PLAIN = (bool, int, float, str, type(None))

# What ``Function.apply`` calls.
_AppliedBy: Any = torch.autograd.function._SingleLevelFunction


def _is_of_users(function: type[Function]) -> bool:
    return function.__module__.partition(".")[0] not in ("torch", "engine")


def _forward(function: type[Function], args: Sequence[Any]) -> tuple[Any, ...]:
    """Return what the forward pass returns, in the graph of its inputs, as a tuple."""
    if function.setup_context != _NO_CONTEXT:
        found = function.forward(*args)
    else:
        ctx: Any = FunctionCtx()
        ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        found = function.forward(ctx, *args)
    return found if isinstance(found, tuple) else (found,)


_NO_CONTEXT = Function.setup_context


class _recording(AbstractContextManager[None]):
    """Record the graph inside the block, where torch calls a function without one.

    ``enable_grad()`` would be told to the mode in which a module's buffers are traced, which leaves
    torch's own switch alone.
    """

    def __enter__(self) -> None:
        self._before = _is_recorded()
        self._set(True)

    def __exit__(self, *_: object) -> None:
        self._set(self._before)

    @staticmethod
    def _set(value: bool) -> None:
        with torch._C.DisableTorchFunction():
            torch._C._set_grad_enabled(value)


_is_recorded = torch.is_grad_enabled
"""Torch's own, in the place of which a traced module has another."""


class _Generators:
    """The states of torch's generators where a function was called."""

    def __init__(self, args: Sequence[Any]) -> None:
        self._here = torch.random.get_rng_state()
        devices = {arg.device for arg in args if isinstance(arg, Tensor) and arg.is_cuda}
        self._there = {device: torch.cuda.get_rng_state(device) for device in devices}

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers again inside the block, and those that follow after it."""
        with torch.random.fork_rng(list(self._there)):
            self.set()
            yield

    def set(self) -> None:
        """Draw from here on what was drawn from there on."""
        torch.random.set_rng_state(self._here)
        for device, state in self._there.items():
            torch.cuda.set_rng_state(state, device)


def _derivative(
    args: Sequence[Any], outputs: Sequence[Any], cotangents: Sequence[Tensor | None], *, keep: bool
) -> tuple[Tensor | None, ...]:
    pairs = [
        (output, cotangent)
        for output, cotangent in zip(outputs, cotangents, strict=True)
        if isinstance(output, Tensor) and output.requires_grad and cotangent is not None
    ]
    places = [i for i, arg in enumerate(args) if isinstance(arg, Tensor) and arg.requires_grad]
    found: list[Tensor | None] = [None] * len(args)
    if pairs:
        pulled = torch.autograd.grad(
            [output for output, _ in pairs],
            [args[i] for i in places],
            [cotangent for _, cotangent in pairs],
            retain_graph=keep,
            create_graph=torch.is_grad_enabled() and keep,
            allow_unused=True,
        )
        for i, each in zip(places, pulled, strict=True):
            found[i] = each
    return tuple(found)


def _is_another(function: type[Function], args: Sequence[Any]) -> bool:
    """Say whether a backward pass is no derivative, and the forward pass has a right one."""
    try:
        start = _Generators(args)
        with (
            start.again(),
            torch._C.DisableTorchFunction(),  # e.g. what converts numbers, or notes calls
            saved_tensors_hooks(_as_it_is, _as_it_is),  # those of a checkpoint count what is kept
            _recording(),
        ):
            return any(_is_another_there(function, args, start, *place) for place in _PLACES)
    except Exception:  # of somebody's code, or on what is no copy; the witness stands
        return False


def _is_another_there(
    function: type[Function],
    args: Sequence[Any],
    start: "_Generators",
    factor: float,
    move: float,
) -> bool:
    try:
        return _Asked(function, args, start, factor, move).is_another()
    except Exception:  # of somebody's code in float64
        return False


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


class _Asked:
    """A function at a point in float64, along one direction.

    Args:
        function: Somebody's own.
        args: What it is called with.
        start: Torch's generators, which each call finds in the same state.
        factor: On the numbers that it is given.
        move: How far they are moved besides, at random.
    """

    def __init__(
        self,
        function: type[Function],
        args: Sequence[Any],
        start: _Generators,
        factor: float,
        move: float,
    ) -> None:
        self._function, self._start = function, start
        drawn = generator(0, "custom function")
        self._given = [
            (arg.detach() * factor)
            .double()
            .add(self._random(arg, drawn), alpha=move)
            .requires_grad_()
            if _moves(arg)
            else arg
            for arg in args
        ]
        args = self._given
        self._ways = [self._random(arg, drawn) if _moves(arg) else None for arg in args]
        found = self._values(0.0)
        self._weights = [self._random(each, drawn) if _has_slope(each) else None for each in found]

    def is_another(self) -> bool:
        """Say whether the forward pass's own derivative is right, and the backward pass's not."""
        truth = self._along(self._forward_slopes())
        slopes = [self._along(self._backward_slopes(scale)) for scale in _SCALES]
        size = max(abs(truth), *map(abs, slopes), torch.finfo(torch.float64).tiny)
        if all(abs(slope - truth) <= _ROUNDING * size for slope in slopes):
            return False
        differences = [self._difference(distance) for distance in _DISTANCES]

        def is_right(slope: float) -> bool:
            return any(
                abs(slope - each) <= _LIMIT * max(abs(slope), abs(each)) for each in differences
            )

        return not all(map(is_right, slopes)) and is_right(truth)

    @staticmethod
    def _random(tensor: Tensor, drawn: torch.Generator) -> Tensor:
        numbers = torch.randn(tensor.shape, generator=drawn, dtype=torch.float64)
        return numbers.to(tensor.device)

    def _args(self, shift: float, *, grad: bool = False) -> list[Any]:
        """Return copies of the arguments, moved along the direction, with the same draws ahead."""
        self._start.set()
        found = []
        for arg, way in zip(self._given, self._ways, strict=True):
            if not isinstance(arg, Tensor):
                found.append(arg)
                continue
            copy = arg.detach().clone()
            copy = copy.double() if copy.is_floating_point() else copy
            if way is not None:
                copy = copy.add(way, alpha=shift)
                copy = copy.requires_grad_() if grad else copy
            found.append(copy)
        return found

    def _values(self, shift: float) -> tuple[Any, ...]:
        args = self._args(shift)
        versions = [arg._version if isinstance(arg, Tensor) else 0 for arg in args]
        found = _forward(self._function, args)
        if versions != [arg._version if isinstance(arg, Tensor) else 0 for arg in args]:
            raise ValueError("It writes into what it is given.")
        return found

    def _difference(self, distance: float) -> float:
        there, back = self._values(distance), self._values(-distance)
        return self._weighted(there, back) / (2 * distance)

    def _weighted(self, there: Sequence[Any], back: Sequence[Any]) -> float:
        rows = zip(there, back, self._weights, strict=True)
        return math.fsum(float(((a - b) * w).sum()) for a, b, w in rows if w is not None)

    def _forward_slopes(self) -> tuple[Tensor | None, ...]:
        args = self._args(0.0, grad=True)
        with whole_derivatives():  # of functions inside of it, too
            return _derivative(args, _forward(self._function, args), self._weights, keep=False)

    def _backward_slopes(self, scale: float) -> tuple[Tensor | None, ...]:
        args = self._args(0.0, grad=True)
        found = self._function.apply(*args)
        found = found if isinstance(found, tuple) else (found,)
        given = [None if w is None else scale * w for w in self._weights]
        slopes = _derivative(args, found, given, keep=False)
        return tuple(None if slope is None else slope / scale for slope in slopes)

    def _along(self, slopes: Sequence[Tensor | None]) -> float:
        pairs = zip(slopes, self._ways, strict=True)
        terms = [float((a * b).sum()) for a, b in pairs if a is not None and b is not None]
        return math.fsum(terms)


def _moves(arg: object) -> bool:
    return isinstance(arg, Tensor) and arg.requires_grad and arg.is_floating_point()


def _has_slope(found: object) -> bool:
    return isinstance(found, Tensor) and found.is_floating_point()
