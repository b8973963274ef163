"""Which examples each step draws: a pure function of the step number.

Epochs follow one another without a gap, every batch has the same size, and a batch may straddle
two epochs. Inside an epoch, copy j of example i stands where a number drawn for (seed, epoch, i,
j) sorts it, so dropping one example leaves the order of all others as it was.
"""

from collections import OrderedDict

import torch
from torch import Tensor

from engine.errors import DataError
from engine.numerics.determinism import generator

_EPOCHS_KEPT = 4


class Order:
    """The order in which a multiset of examples is drawn.

    Args:
        copies: How often each example stands in one epoch, shape (examples,), integers.
        batch_size: B, examples a step.
        seed: The run's seed.
    """

    def __init__(self, copies: Tensor, batch_size: int, seed: int) -> None:
        self.copies = copies.to(device="cpu", dtype=torch.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch_size = int(self.copies.sum())
        self._epochs: OrderedDict[int, Tensor] = OrderedDict()
        if self.epoch_size == 0:
            raise DataError(
                f"All {len(copies)} counts are zero, so there is nothing left to train on. "
                "Keep some of them above zero.",
                settings=("outer.step_size", "outer.probability", "outer.num_steps"),
            )

    def batch(self, step: int) -> Tensor:
        """Return the example indices of ``step``, shape (batch,)."""
        start = step * self.batch_size
        positions = torch.arange(start, start + self.batch_size, device="cpu")
        epochs = positions // self.epoch_size
        parts = [
            self._epoch(int(epoch))[positions[epochs == epoch] % self.epoch_size]
            for epoch in epochs.unique()
        ]
        return torch.cat(parts)

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            self._epochs[epoch] = self._shuffle(epoch)
            while len(self._epochs) > _EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _shuffle(self, epoch: int) -> Tensor:
        indices, keys = [], []
        for copy in range(int(self.copies.max())):
            drawn = torch.rand(
                len(self.copies),
                generator=generator(self.seed, "order", epoch, copy),
                dtype=torch.float64,
                device="cpu",  # also where a notebook has set another default
            )
            present = (self.copies > copy).nonzero().squeeze(1)
            indices.append(present)
            keys.append(drawn[present])
        return torch.cat(indices)[torch.argsort(torch.cat(keys), stable=True)]
