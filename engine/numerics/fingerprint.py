"""Identity of bits: fingerprints, and where two states differ.

A fingerprint is a hash of the bytes, so -0.0, NaN payloads and infinities count as the bits they
are. It finds accidents (flips, swaps, truncation, stale copies), and does not stop an adversary.
"""

from collections.abc import Iterable

import numpy as np
import torch
import xxhash
from torch import Tensor

from engine.errors import ReplayMismatchError
from engine.types import State


def fingerprint(tensor: Tensor) -> str:
    """Return 32 hex digits that identify dtype, shape and bits of a tensor.

    They are XXH3, with 128 bits, of the tensor's format and shape as text and of its bytes in the
    order of its elements. Those of a sparse tensor are of its layout, and of format, shape and
    bytes of its indices and values as they are held: the same numbers listed in another order, or
    twice in one place, are other bits. A change by accident goes unseen with a probability of
    2^-128.

    Args:
        tensor: Any tensor, dense or sparse; one on a GPU is copied to the host.

    Returns:
        The same digits for the same bits on every device.

    Cost:
        One pass, about 10 GB/s on one CPU core.

    References:
        Collet, XXH3, github.com/Cyan4973/xxHash.
    """
    tensor = tensor.detach()
    digest = xxhash.xxh3_128(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    for part in dense_parts(tensor):
        if part is not tensor:  # rows and columns of a matrix are those of its transpose, swapped
            digest.update(f"{tensor.layout} {part.dtype} {tuple(part.shape)} ".encode())
        # A conjugate may be a note on the bits of another tensor.
        held = part.resolve_conj().resolve_neg().cpu().contiguous()
        digest.update(held.reshape(-1, 1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint_of_parts(dtype: torch.dtype, size: int, parts: Iterable[np.ndarray]) -> str:
    """Return the ``fingerprint`` of a dense vector that is never in memory as a whole.

    Args:
        dtype: Its number format.
        size: Its length.
        parts: Its elements in order, contiguous arrays of one dimension.
    """
    digest = xxhash.xxh3_128(f"{dtype} {(size,)} ".encode())
    for part in parts:
        digest.update(part.view(np.uint8).data)
    return digest.hexdigest()


def dense_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors that a sparse one is made of; a dense one as it is."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)


def state_fingerprint(state: State) -> dict[str, str]:
    """Return the fingerprint of each vector of a state, by name."""
    return {name: fingerprint(vector) for name, vector in state.items()}


def first_difference(one: Tensor, other: Tensor) -> int | None:
    """Return the flat index of the first element whose bits differ, or None if all are equal.

    Args:
        one: Any dense tensor.
        other: A tensor of the same dtype and number of elements, on the same device.
    """
    octets = [
        tensor.detach().contiguous().reshape(-1, 1).view(torch.uint8) for tensor in (one, other)
    ]
    if torch.equal(*octets):
        return None
    differs = (octets[0] != octets[1]).any(dim=1)
    return int(differs.to(torch.uint8).argmax())


def check_same_bits(row: str, stored: State, state: State) -> None:
    """Refuse a state that is not bit for bit the stored one.

    Args:
        row: What to call the stored state in the message.
        stored: The state that was stored first.
        state: The state that a second run of the same steps made, on any device.

    Raises:
        ReplayMismatchError: If names, shapes, dtypes or bits differ; names the first element.
    """
    if stored.keys() != state.keys():
        raise ReplayMismatchError(
            f"{row} holds the vectors {sorted(stored)}, and the state to be saved {sorted(state)}. "
            "Save states of one run only."
        )
    for name, vector in stored.items():
        other = state[name].detach().to(vector.device)
        if vector.shape != other.shape or vector.dtype != other.dtype:
            raise ReplayMismatchError(
                f"{row}: vector {name!r} has shape {tuple(vector.shape)} and {vector.dtype}, and "
                f"in the state to be saved {tuple(other.shape)} and {other.dtype}. "
                "Save states of one run only."
            )
        index = first_difference(vector, other)
        if index is not None:
            raise ReplayMismatchError(
                f"{row}: element {index} of vector {name!r} is "
                f"{_number_and_bits(vector, index)} there, and {_number_and_bits(other, index)} "
                "in the state to be saved. The run is not deterministic, so a replay would "
                "differ from the run. Make it so (threads, device, kernels), or use "
                "another --store."
            )


def difference(stored: Tensor, other: Tensor) -> tuple[int, str, str] | None:
    """Return the index of the first element whose bits differ, and both numbers with their bits."""
    index = first_difference(stored, other.detach().to(stored.device))
    return (
        None
        if index is None
        else (index, _number_and_bits(stored, index), _number_and_bits(other, index))
    )


def _number_and_bits(vector: Tensor, index: int) -> str:
    """Return a number and its bits, in which two NaN or two zeros may differ."""
    octets = vector[index].detach().cpu().reshape(1).view(torch.uint8).tolist()
    return f"{vector[index].item()!r} (0x{bytes(octets[::-1]).hex()})"
