"""Finds code that keeps tensors of a call, before it is called inside a transform of torch.

``torch.func.vmap`` and a compiler's capture hand stand-ins to the code that they run, and these
mean nothing once the transform is over. A loss that keeps a tensor for itself (a list of losses
that is printed now and then, a running mean) would find such a stand-in at its next call, and
torch stops there with words about its own insides. So code that keeps tensors is called plainly.
"""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from engine.errors import WitnessError
from engine.torch_modes import OperationMode


class _Made(OperationMode):
    """Notes the memory of each tensor that is made, without keeping it alive."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, StorageWeakRef] = {}
        self._found: dict[int, StorageWeakRef] = {}

    def on_operation(
        self, operation: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the operation returns)
        """Note what it makes, which is none of what it was given."""
        for storage in _storages((args, kwargs)):
            if storage.cdata not in self.made:
                self._found.setdefault(storage.cdata, storage)
        result = operation(*args, **kwargs)
        for storage in _storages(result):
            if storage.cdata not in self._found:
                self.made.setdefault(storage.cdata, storage)
        return result

    def left(self) -> bool:
        """Say whether some of it is in use."""
        return any(not storage.expired() for storage in self.made.values())


def _storages(tree: object) -> list[StorageWeakRef]:
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    return [
        StorageWeakRef(tensor.untyped_storage())
        for tensor in tensors
        if tensor.layout is torch.strided
    ]


def keeps_tensors(call: Callable[[], object]) -> bool:
    """Say whether code keeps a tensor that it makes in a call.

    Args:
        call: Runs the code; it is called twice, because what is made once and kept, as a mask of
            attention is, does no harm. Its result counts as kept by nobody.

    Cost:
        Two calls, the second with some microseconds more for each operation; and where something
        is left of it, a collection of Python's garbage, which may be all that keeps it.
    """
    call()
    made = _Made()
    with made:
        call()
    if not made.left():
        return False
    gc.collect()
    return made.left()


_OF_STAND_INS = ("escaped from inside a function being vmapped", "maybe_level.has_value()")
"""What torch says of a stand-in that is used after its transform."""


def refuse_stand_in(error: Exception) -> None:
    """Refuse code that kept a tensor in one of the calls that no two calls before have shown.

    Args:
        error: What the code failed with.

    Raises:
        WitnessError: If it used a stand-in.
    """
    if any(words in str(error) for words in _OF_STAND_INS):
        raise WitnessError(
            "The model, the loss or the output has kept a tensor of an earlier call, and reads it "
            "now. Several runs go through a step together where that is faster, and what is kept "
            "there is no tensor afterwards. Keep numbers, e.g. float(losses.detach().mean())."
        ) from error
