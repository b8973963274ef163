"""Recognizes the errors by which torch and Python say that a CPU's memory ran out."""

from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import EngineError, MemoryExhaustedError

_WORDS = ("DefaultCPUAllocator", "can't allocate memory", "Cannot allocate memory")
"""What torch says; its own class of error is for devices only."""


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether the memory of this machine ran out, and not that of a device."""
    if isinstance(error, EngineError):
        return False
    if isinstance(error, MemoryError):
        return True
    told = isinstance(error, RuntimeError | OSError) and any(w in str(error) for w in _WORDS)
    return told and type(error).__name__ != "OutOfMemoryError"


@contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Say what did not fit into memory, and what would.

    Raises:
        MemoryExhaustedError: If the memory of this machine ran out in the block.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryExhaustedError(
            f"{what} does not fit into the memory of this machine: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}. Use a smaller "
            "training.batch_size or model, shorter segments (replay.steps_per_segment), or a "
            "machine with more memory."
        ) from error
