"""Buffers that a forward pass overwrites: copies for autograd, parts of them, and ``set_()``."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd import graph

_FORBIDDEN = "disable_saved_tensors_hooks"
"""What a derivative of ``torch.func`` in reverse mode is taken inside of."""

_torch_forbidden = getattr(graph, _FORBIDDEN)


class SavedCopies:
    """Lets autograd keep copies of buffers inside its block.

    Within a transform of ``torch.func``, which takes no hooks on what is saved, nobody may write
    into a buffer; whoever calls a function there hands it copies, see ``is_transformed``.

    Args:
        holds: Says whether a tensor is a buffer, or a part of one.
    """

    def __init__(self, holds: Callable[[Tensor], bool]) -> None:
        self._holds, self._depth = holds, 0
        self._entered, self._hooks = ExitStack(), ExitStack()

    @property
    def is_transformed(self) -> bool:
        """Whether a derivative of ``torch.func`` is being taken."""
        return self._depth > 0

    def __enter__(self) -> "SavedCopies":
        self._hook()
        self._entered.callback(self._hooks.close)
        self._entered.enter_context(mock.patch.object(graph, _FORBIDDEN, self._forbidden))
        return self

    def __exit__(self, *error: object) -> None:
        self._entered.close()

    def _hook(self) -> None:
        self._hooks.enter_context(graph.saved_tensors_hooks(self._packed, _unpacked))

    def _packed(self, tensor: Tensor) -> Tensor:
        return tensor.detach().clone() if self._holds(tensor) else tensor

    @contextmanager
    def _forbidden(self, *given: Any) -> Iterator[None]:  # noqa: ANN401 (as torch's)
        self._depth += 1
        self._hooks.close()
        try:
            with _torch_forbidden(*given):
                yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._hook()


def _unpacked(tensor: Tensor) -> Tensor:
    return tensor


PARTS = (
    Tensor.__iter__,
    *(getattr(Tensor, name) for name in ("hsplit", "vsplit", "dsplit", "split_with_sizes")),
    *(
        getattr(owner, name)
        for owner in (torch, Tensor)
        for name in ("unbind", "split", "chunk", "tensor_split")
    ),
)
"""Functions that cut a tensor into several."""


def parts(
    function: Callable[..., Any], buffer: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:  # noqa: ANN401 (as the function: a tuple, or an iterator)
    """Cut a buffer into several, each a view by itself: torch lets nobody write into those of one.

    Args:
        function: One of ``PARTS``.
        buffer: What is cut.
        args: Arguments of the function, the buffer among them.
        kwargs: Likewise.
    """
    found = function(buffer.detach(), *args[1:], **kwargs)
    views = (buffer.as_strided(p.shape, p.stride(), p.storage_offset()) for p in found)
    return views if function is Tensor.__iter__ else tuple(views)


def is_alike(one: Tensor, other: Tensor) -> bool:
    """Say whether two tensors have one shape and one number format."""
    return one.shape == other.shape and one.dtype == other.dtype


@contextmanager
def numbers_set(
    holds: Callable[[Tensor], bool], stopped: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Let ``buffer.set_(source)`` take over the numbers of the source inside the block.

    Torch's own takes over its memory, which no graph knows of, and tells no mode that it is called.

    Args:
        holds: Says whether a tensor is a buffer.
        stopped: Holds what the buffer is set to constant in the step.
    """

    def set_(tensor: Tensor, *given: Any, **named: Any) -> Tensor:  # noqa: ANN401 (as torch's)
        source = given[0] if len(given) == 1 else named.get("source")
        if isinstance(source, Tensor) and is_alike(tensor, source) and holds(tensor):
            return tensor.copy_(stopped(source))
        return _torch_set(tensor, *given, **named)

    with mock.patch.object(Tensor, "set_", set_):
        yield


_torch_set = Tensor.set_
