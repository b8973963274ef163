"""Torch's modes, in which every call of torch is told to one method.

Torch hands over four arguments, of which the types of overloaded arguments are of no use here, and
named ones that may be None.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class FunctionMode(TorchFunctionMode):
    """Is told of every function of torch that is called inside of the block, as people call it."""

    def on_call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Carry out the call and return its result; the mode is off meanwhile."""
        raise NotImplementedError

    def around(self, call: Callable[[], Tensor]) -> Tensor:
        """Return what a call of a user's loss returns; one that listens may make it again."""
        return call()

    def around_function(self, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Return what a custom function returns, whose forward pass is computed without a graph."""
        return call(*args)

    def around_backward(self, call: Callable[[], Any]) -> Any:  # noqa: ANN401 (whatever it returns)
        """Return what the backward pass of a custom function returns."""
        return call()

    def expect_backward_code(self) -> None:
        """Note that code of the user's will be called in the backward pass of what is called."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        return self.on_call(func, args, kwargs or {})


@dataclass(frozen=True)
class _Listener:
    mode: FunctionMode
    in_updates: bool
    is_on: bool = False


_LISTENER: ContextVar[_Listener | None] = ContextVar("listener", default=None)

_NOBODY: AbstractContextManager[object] = nullcontext()


@contextmanager
def listening(mode: FunctionMode, *, in_updates: bool) -> Iterator[None]:
    """Let a mode be told of what code of the user calls inside the block, and of nothing else.

    A mode costs some microseconds for each function of torch that is called in Python, and most of
    those of a step are the engine's own.

    Args:
        mode: Who is told.
        in_updates: Whether updates of the optimizer are code of the user.
    """
    token = _LISTENER.set(_Listener(mode, in_updates))
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def listening_throughout(mode: FunctionMode) -> Iterator[None]:
    """Let a mode be told of every call inside the block, also of the engine's own."""
    token = _LISTENER.set(_Listener(mode, in_updates=False, is_on=True))
    try:
        with mode:
            yield
    finally:
        _LISTENER.reset(token)


def users_code(*, is_update: bool = False) -> AbstractContextManager[object]:
    """Return the context in which the engine calls user code: the mode that listens, if any."""
    listener = _LISTENER.get()
    if listener is None or listener.is_on or (is_update and not listener.in_updates):
        return _NOBODY
    return listener.mode


def as_listened_to(call: Callable[[], Tensor]) -> Tensor:
    """Return what a call of a user's loss returns, made as whoever listens wants it."""
    listener = _LISTENER.get()
    return call() if listener is None else listener.mode.around(call)


def as_function(call: Callable[..., Any], args: tuple[Any, ...]) -> Any:  # noqa: ANN401 (whatever the function returns)
    """Return what a call of a user's custom function returns, and tell whoever listens of both."""
    listener = _LISTENER.get()
    if listener is None:
        return call(*args)
    listener.mode.expect_backward_code()
    return listener.mode.around_function(call, args)


def as_backward(call: Callable[[], Any]) -> Any:  # noqa: ANN401 (whatever it returns)
    """Return what the backward pass of a user's custom function returns, and tell who listens."""
    listener = _LISTENER.get()
    return call() if listener is None else listener.mode.around_backward(call)


def expect_backward_code() -> None:
    """Tell whoever listens that a hook of the user's is in the graph."""
    listener = _LISTENER.get()
    if listener is not None:
        listener.mode.expect_backward_code()


class OperationMode(TorchDispatchMode):
    """Is told of every operation that torch carries out inside of the block."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports the compiler to keep it out: three seconds

    def on_operation(
        self,
        operation: OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:  # noqa: ANN401 (whatever the operation returns)
        """Carry out the operation and return its result; the mode is off meanwhile."""
        raise NotImplementedError

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the operation returns)
        return self.on_operation(func, args, kwargs or {})
