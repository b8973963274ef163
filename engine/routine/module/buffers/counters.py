"""Buffers that count calls and that no step reads.

Such a buffer need not be in a state. Whether a step reads one is found by following, operation by
operation, what is computed from its value.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from engine.torch_modes import FunctionMode, OperationMode

COUNTERS = "counters"
"""Where a routine notes them, among what was measured of its step: their first values, by name."""

_LARGEST = 1 << 16
"""Numbers of a buffer that may be a counter; it is copied at every call."""

_aten = torch.ops.aten
_OVERWRITES = (_aten.copy_.default, _aten.zero_.default, _aten.fill_.Scalar)
"""Operations after which nothing is left of what stood in their first argument before."""


def small_buffers(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return copies of the buffers that may be counters, by name."""
    return {name: t.detach().clone() for name, t in named if t.numel() <= _LARGEST}


def is_read(buffers: Mapping[str, Tensor], call: Callable[[], Any]) -> bool:
    """Say whether a call reads what stands in some buffers when it begins.

    Args:
        buffers: As the call finds them, by name.
        call: Returns tensors, in any structure; what is made of a buffer's value counts as read if
            it reaches them, or becomes a number of Python's or an array.

    Cost:
        One call, with a function of Python's for each operation.
    """
    followed = _Followed(buffers.values())
    with _Looks(followed), followed:
        found = call()
    return followed.is_seen or any(map(followed.has, _tensors(found)))


class _Followed(OperationMode):
    """Follows values through operations: what is made of a marked tensor is marked."""

    def __init__(self, marked: Iterable[Tensor]) -> None:
        super().__init__()
        self.is_seen = False
        self._marked: dict[int, StorageWeakRef] = {}
        for tensor in marked:
            self._mark(tensor)

    def has(self, tensor: Tensor) -> bool:
        """Say whether a tensor is made of what was marked."""
        storage = _storage(tensor)
        return storage is not None and storage._cdata in self._marked

    def _mark(self, tensor: Tensor) -> None:
        storage = _storage(tensor)
        if storage is None:
            self.is_seen = True  # nobody can follow it any more
        else:  # held, so that no address comes again
            self._marked[storage._cdata] = StorageWeakRef(storage)

    def on_operation(
        self, operation: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        given = _tensors((args, kwargs))
        if operation in _OVERWRITES and args[0]._is_view() is False:
            given = _tensors(args[1:])
            self._marked.pop(getattr(_storage(args[0]), "_cdata", 0), None)
        is_marked = any(map(self.has, given))
        result = operation(*args, **kwargs)
        if is_marked:
            made = _tensors(result)
            self.is_seen |= not made and result is not None
            # How many rows there are is a number of Python's that nobody has to ask for.
            self.is_seen |= torch.Tag.dynamic_output_shape in operation.tags
            written = zip(operation._schema.arguments, args, strict=False)
            made += _tensors([a for s, a in written if s.alias_info and s.alias_info.is_write])
            for tensor in made:
                self._mark(tensor)
        return result


class _Looks(FunctionMode):
    """Sees who looks into the memory of a followed tensor, where torch computes nothing."""

    _BY = frozenset(
        {
            Tensor.__array__,
            Tensor.__dlpack__,
            Tensor.__format__,
            Tensor.__reduce_ex__,
            Tensor.__repr__,
            Tensor.data_ptr,
            Tensor.numpy,
            Tensor.tolist,
            Tensor.untyped_storage,
        }
    )

    def __init__(self, followed: _Followed) -> None:
        super().__init__()
        self._followed = followed

    def on_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function``, and note it if it looks."""
        if function in self._BY and self._followed.has(args[0]):
            self._followed.is_seen = True
        return function(*args, **kwargs)


def _storage(tensor: Tensor) -> Any:  # noqa: ANN401 (torch's storage, or None of a sparse tensor)
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):
        return None


def _tensors(parts: Any) -> list[Tensor]:  # noqa: ANN401 (any structure)
    return [leaf for leaf in tree_leaves(parts) if isinstance(leaf, Tensor)]
