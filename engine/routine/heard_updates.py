"""Updates that are told to whoever compares them with other calls of the same one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Heard = Callable[[int, Mapping[str, Tensor], Tensor, Mapping[str, Tensor]], None]
"""Is given the step, the state before, the gradient, and what the optimizer made of them."""

_HEARD: ContextVar[Heard | None] = ContextVar("heard", default=None)


@contextmanager
def hearing_updates(heard: Heard | None) -> Iterator[None]:
    """Let a function be told of each update of a run inside the block; of None, nobody is."""
    token = _HEARD.set(heard)
    try:
        yield
    finally:
        _HEARD.reset(token)


def hear_update(
    step: int, state: Mapping[str, Tensor], gradient: Tensor, following: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return what an update made, and tell of it whoever hears."""
    heard = _HEARD.get()
    if heard is not None:
        heard(step, state, gradient, following)
    return following
