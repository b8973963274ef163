"""Number of runs that go through a step together."""

import torch
from torch import Tensor

from engine.numerics.fingerprint import dense_parts
from engine.routine.routine import Routine

AT_ONCE_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
"""Bytes of the parameters of the runs that go through a step together, by the kind of device."""

KEPT_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}
"""Bytes that their losses keep for the backward pass, at most."""

_FEWEST = 4
"""Runs that go through a step together, however large their model is."""


def at_once(routine: Routine) -> int:
    """Return how many runs go through a step together.

    The number follows from sizes alone: a measured one would change the last digits from call to
    call. It is large enough that starting kernels costs little, and small enough that what a step
    writes and reads again stays in a processor's cache, or in a GPU's memory.
    """
    kind = routine.device.type if routine.device.type in AT_ONCE_BYTES else "cuda"
    size = routine.layout.size * routine.layout.dtype.itemsize
    return max(_FEWEST, min(AT_ONCE_BYTES[kind] // size, KEPT_BYTES[kind] // _kept_bytes(routine)))


def _kept_bytes(routine: Routine) -> int:
    """Return the bytes kept for the backward pass of the first step's loss, each storage once."""
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        for part in dense_parts(tensor):
            storage = part.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    z = routine.point()
    state = routine.initial_state(z)
    params = state["params"].detach().requires_grad_()
    term = next(routine.terms(0))
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with torch.enable_grad(), hooks, routine.binding.keeping(), routine.reading(state):
        loss = routine.term_loss(params, term, z, 0)
    del loss
    return sum(found.values()) + 1
