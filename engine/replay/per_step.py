"""Numbers by step, such as losses and norms, kept in few tensors."""

from collections.abc import Iterator, MutableMapping

import torch
from torch import Tensor


class PerStep(MutableMapping[int, Tensor]):
    """A number for each step, or a few of them, kept in few tensors on their device.

    One tensor for each number would fragment the heap, so that the memory of a long run would grow
    with T; and reading a number as soon as it is made would stall a GPU at every step.
    """

    _BLOCK = 1024
    _WAITING = 32  # written together, because one write costs as much as a small kernel

    def __init__(self) -> None:
        self._blocks: dict[int, Tensor] = {}
        self._steps: set[int] = set()
        self._waiting: dict[int, Tensor] = {}

    def __setitem__(self, step: int, value: Tensor) -> None:
        self._waiting[step] = value
        self._steps.add(step)
        if len(self._waiting) == self._WAITING:
            self._write()

    def _write(self) -> None:
        for block in sorted({step // self._BLOCK for step in self._waiting}):
            own = {
                s % self._BLOCK: v for s, v in self._waiting.items() if s // self._BLOCK == block
            }
            values = torch.stack(list(own.values()))
            if block not in self._blocks:
                self._blocks[block] = values.new_empty((self._BLOCK, *values.shape[1:]))
            places = torch.tensor(list(own), device=values.device)
            self._blocks[block][places] = values
        self._waiting.clear()

    def __getitem__(self, step: int) -> Tensor:
        if step not in self._steps:
            raise KeyError(step)
        self._write()
        block, place = divmod(step, self._BLOCK)
        return self._blocks[block][place]

    def __delitem__(self, step: int) -> None:
        self._steps.remove(step)

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._steps))

    def __len__(self) -> int:
        return len(self._steps)
