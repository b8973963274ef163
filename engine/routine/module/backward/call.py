"""Arguments of a call of a custom function, kept so that a product can call it again."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.utils._pytree import tree_leaves

CALL = "engine_call"
"""What a node of the graph holds: the call that made it."""

_SAMPLE = 64
"""Numbers of a result that are compared with those of another call."""


class Call:
    """A call of a function.

    Args:
        function: Somebody's own.
        args: What it is about to be called with.
        copies: Whether it may write into what it is given.
        within: What is in force where it is called again, for functions that it calls itself.

    Attributes:
        needs: Of which arguments a derivative is wanted.
        is_by_forward: Whether a product has taken the derivative of the forward pass.
    """

    def __init__(
        self,
        function: type[Function],
        args: Sequence[Any],
        *,
        copies: bool,
        within: AbstractContextManager[None],
    ) -> None:
        self.function, self._within = function, within
        self.needs = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        self.is_by_forward = False
        tensors = [each for each in tree_leaves(list(args)) if isinstance(each, Tensor)]
        # Aliases, and not what was given: a graph that its own node holds would never be freed.
        self._given = [(each.detach(), each._version) for each in tensors]
        self._linked = [_held(arg, copies=copies) for arg in args]
        self.args = [each.detach() if _is_tensor(each) else each for each in self._linked]
        self._copied = copies
        self._read: list[tuple[Tensor, int]] = []
        self._devices = {each.device for each in tensors if each.is_cuda}
        self._start: _Generators | None = _Generators(self._devices)
        kind = "cuda" if self._devices else "cpu"
        self._autocast = kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        self._results: list[Tensor | None] = []

    def end(self, results: Sequence[Any]) -> bool:
        """Note what the call returned, and say whether it wrote into what it was given."""
        writes = any(each._version != was for each, was in self._given)
        held = tree_leaves(self.args)
        if self._copied and not writes:  # .data counts no version
            pairs = zip((each for each, _ in self._given), filter(_is_tensor, held), strict=True)
            writes = not all(map(_is_same, *zip(*pairs, strict=True)))
        self._given = []
        self._read = [(each, each._version) for each in held if _is_tensor(each)]
        if self._start == _Generators(self._devices):
            self._start = None
        self._results = [_sample(each) for each in results]
        return writes

    def linked(self) -> list[Any]:
        """Return the arguments of the call, in the graph that they came from, to call it again."""
        pairs = zip(self._linked, self.needs, strict=True)
        return [each.clone() if needed else _copied(each) for each, needed in pairs]

    def is_changed(self) -> bool:
        """Say whether what is held of its arguments has been written into since."""
        return any(each._version != was for each, was in self._read)

    def returned(self, results: Sequence[Any]) -> bool:
        """Say whether these are, up to rounding, what the call has returned."""
        with torch._C.DisableTorchFunction():
            found = [_sample(each) for each in results]
        return len(found) == len(self._results) and all(map(is_close, found, self._results))

    def again(
        self,
        args: Sequence[Any],
        *,
        graph: bool,
        own: bool = True,
        context: FunctionCtx | None = None,
    ) -> tuple[Any, ...]:
        """Call the forward pass with the same draws ahead, and return its results.

        Args:
            args: Arguments in place of those that it was called with.
            graph: Whether to record one, where torch calls a forward pass without.
            own: Whether to compute in the formats of the call, below ``autocast`` if it was.
            context: What it keeps for its backward pass is put into; left out, nobody asks.
        """
        kind, is_cast, dtype = self._autocast
        with (
            self._drawn(),
            torch._C.DisableTorchFunction(),
            torch.autocast(kind, dtype=dtype, enabled=is_cast and own),
            self._within,
            recording(graph),
        ):
            if self.function.setup_context != _NO_CONTEXT:
                found = self.function.forward(*args)
                if context is not None:
                    self.function.setup_context(context, tuple(args), found)
            else:
                ctx: Any = FunctionCtx() if context is None else context
                ctx.needs_input_grad = self.needs
                found = self.function.forward(ctx, *args)
        return found if isinstance(found, tuple) else (found,)

    def applied(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """Call the function as it is, in a graph, outside of ``autocast``."""
        kind = self._autocast[0]
        with (
            self._drawn(),
            torch._C.DisableTorchFunction(),
            torch.autocast(kind, enabled=False),
            recording(True),
        ):
            found = super(_AppliedBy, self.function).apply(*args)
        return found if isinstance(found, tuple) else (found,)

    @contextmanager
    def _drawn(self) -> Iterator[None]:
        """Draw what the call has drawn inside the block, and go on as if nobody had."""
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(list(self._devices)))
            if self._start is not None:
                self._start.set()
            yield


_NO_CONTEXT = Function.setup_context
_AppliedBy: Any = torch.autograd.function._SingleLevelFunction


def _held(arg: Any, *, copies: bool) -> Any:  # noqa: ANN401 (whatever a function takes)
    """Return an argument in its graph, and out of reach of those who write into it later."""
    if not isinstance(arg, Tensor):
        return arg
    # Parameters are parts of a vector, and nobody writes into them within a step. A part of an
    # activation may be written into, and would then hold the graph of its own call for ever.
    is_parameter = arg.is_leaf or (arg._is_view() and arg._base is not None and arg._base.is_leaf)
    return arg.clone() if copies or not is_parameter else arg


def _copied(arg: Any) -> Any:  # noqa: ANN401 (likewise)
    return arg.detach().clone() if isinstance(arg, Tensor) else arg


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _is_same(one: Tensor, other: Tensor) -> bool:
    if one.layout is not torch.strided:
        return True
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _sample(value: Any) -> Tensor | None:  # noqa: ANN401 (whatever a function returns)
    """Return some numbers of a tensor, shape (up to 64,)."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or not value.numel():
        return None
    places = torch.arange(0, value.numel(), -(-value.numel() // _SAMPLE), device=value.device)
    return torch.take(value.detach(), places)


def is_close(one: Tensor | None, other: Tensor | None) -> bool:
    """Say whether two results are the same up to rounding."""
    if one is None or other is None:
        return one is other
    if one.shape != other.shape or not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    limit = torch.finfo(one.dtype).eps ** 0.5
    return torch.allclose(one, other, rtol=limit, atol=limit, equal_nan=True)


class recording(AbstractContextManager[None]):
    """Record a graph inside the block, or none.

    ``enable_grad()`` would be told to the mode in which a module's buffers are traced, which leaves
    torch's own switch alone.

    Args:
        graph: Whether.
    """

    def __init__(self, graph: bool) -> None:
        self._graph = graph

    def __enter__(self) -> None:
        self._before = _is_recorded()
        self._set(self._graph)

    def __exit__(self, *_: object) -> None:
        self._set(self._before)

    @staticmethod
    def _set(value: bool) -> None:
        with torch._C.DisableTorchFunction():
            torch._C._set_grad_enabled(value)


_is_recorded = torch.is_grad_enabled
"""Torch's own, in the place of which a traced module has another."""


class _Generators:
    """The states of torch's generators where a function is called."""

    def __init__(self, devices: set[torch.device]) -> None:
        self._here = torch.random.get_rng_state()
        self._there = {device: torch.cuda.get_rng_state(device) for device in devices}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Generators)
            and torch.equal(self._here, other._here)
            and all(torch.equal(self._there[each], other._there[each]) for each in self._there)
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType] (it holds tensors)

    def set(self) -> None:
        """Draw from here on what was drawn from there on."""
        torch.random.set_rng_state(self._here)
        for device, state in self._there.items():
            torch.cuda.set_rng_state(state, device)
