"""Identity of bits: fingerprints, and where two states differ.

A fingerprint is made of integer sums over the bits, so the order of summation (threads, blocks,
CPU or GPU) cannot change it, and -0.0, NaN payloads and infinities count as the bits they are.
It finds accidents (flips, swaps, truncation, stale copies), and does not stop an adversary.
"""

import hashlib
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from engine.errors import ReplayMismatchError
from engine.types import State

_ROW = 1 << 16  # words; part of the definition: another value gives other fingerprints
_ROWS_AT_ONCE = 128  # not part of it: what a GPU takes at a time, so temporaries are 64 MB
_CARRY = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def fingerprint(tensor: Tensor) -> str:
    """Return 32 hex digits that identify dtype, shape and bits of a tensor.

    With the 32-bit words w_i of the tensor, and arithmetic modulo 2^64,
    a = sum_i (2 i + 1) w_i and b = sum_i r_i w_i for fixed pseudo-random odd r_i. A change of one
    word by d, |d| < 2^32, moves a sum by d times an odd number, and a swap of words i and j moves
    a by 2 (i - j) (w_i - w_j): neither is 0 modulo 2^64 below 2^30 words (4 GiB). Any other
    change goes unseen with a probability of about 2^-64, or less than 2^-32 if it only flips
    sign bits of float32.

    Args:
        tensor: Any dense tensor, on any device; only three numbers per 256 KiB leave the device.

    Returns:
        The same digits for the same bits on every device.

    Cost:
        One pass, 1.8 GB/s on one CPU core. Temporaries take 2 MB, on a GPU 200 MB.
    """
    words = _words(tensor.detach())
    first = second = 0
    sums = _host_sums(words) if words.device.type == "cpu" else _device_sums(words)
    for row, (plain, linear, mixed) in enumerate(sums):
        first = (first + linear + 2 * _ROW * row * plain) & _MASK
        second = (second * _CARRY + mixed) & _MASK
    content = f"{tensor.dtype} {tuple(tensor.shape)} {first:016x} {second:016x}"
    return hashlib.sha256(content.encode()).hexdigest()[:32]


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
                f"{row}: element {index} of vector {name!r} is {_shown(vector, index)} there, and "
                f"{_shown(other, index)} in the state to be saved. The run is not deterministic, "
                "so a replay would differ from the run. Make it so (threads, device, kernels), or "
                "use another --store."
            )


def difference(stored: Tensor, other: Tensor) -> tuple[int, str, str] | None:
    """Return the index of the first element whose bits differ, and both numbers with their bits."""
    index = first_difference(stored, other.detach().to(stored.device))
    return None if index is None else (index, _shown(stored, index), _shown(other, index))


def _shown(vector: Tensor, index: int) -> str:
    """Return a number and its bits, in which two NaN or two zeros may differ."""
    octets = vector[index].detach().cpu().reshape(1).view(torch.uint8).tolist()
    return f"{vector[index].item()!r} (0x{bytes(octets[::-1]).hex()})"


def _words(tensor: Tensor) -> Tensor:
    """View the bits as int32 words; a remainder of 1 to 3 bytes is padded with zeros."""
    flat = tensor.contiguous().reshape(-1)
    if flat.element_size() % 4 == 0:
        return flat.view(torch.int32)
    octets = flat.view(torch.uint8)
    return torch.nn.functional.pad(octets, (0, -octets.numel() % 4)).view(torch.int32)


def _host_sums(words: Tensor) -> list[list[int]]:
    """Return sum w, sum (2 k + 1) w and sum r_k w of each row of ``_ROW`` words, k in the row.

    One thread with memory that stays in its cache is as fast as torch's two, and does not slow
    down twentyfold, as they do, when another process wants the cores.
    """
    multipliers = [multiplier.numpy() for multiplier in _multipliers("cpu")]
    scratch = np.empty(min(words.numel(), _ROW), dtype=np.int64)
    sums = []
    for row in words.split(_ROW) if words.numel() else []:
        wide = scratch[: row.numel()]
        np.copyto(wide, row.numpy())
        dots = [int(np.dot(wide, multiplier[: row.numel()])) for multiplier in multipliers]
        sums.append([int(wide.sum()), *dots])
    return sums


def _device_sums(words: Tensor) -> list[list[int]]:
    """Return what ``_host_sums`` does, with few kernels and one transfer."""
    multipliers = _multipliers(str(words.device))
    full = words.numel() - words.numel() % _ROW
    blocks = list(words[:full].view(-1, _ROW).split(_ROWS_AT_ONCE)) if full else []
    blocks += [words[full:].view(1, -1)] if full < words.numel() else []
    sums = []
    for block in blocks:
        wide = block.to(torch.int64)
        products = [wide * multiplier[: block.shape[1]] for multiplier in multipliers]
        sums.append(torch.stack([part.sum(dim=1) for part in (wide, *products)], dim=1))
    return torch.cat(sums).tolist() if sums else []


@lru_cache(maxsize=8)
def _multipliers(device: str) -> tuple[Tensor, Tensor]:
    """Return 2 k + 1, and splitmix64 of k made odd, for each k of a row."""
    index = torch.arange(_ROW, dtype=torch.int64, device=device)
    mixed = index * (_CARRY - (1 << 64))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ _shift_right(mixed, shift)) * (factor - (1 << 64))
    return 2 * index + 1, (mixed ^ _shift_right(mixed, 31)) | 1


def _shift_right(values: Tensor, shift: int) -> Tensor:
    """Shift as unsigned 64-bit numbers, which torch's ``>>`` on int64 does not."""
    return (values >> shift) & ((1 << (64 - shift)) - 1)
