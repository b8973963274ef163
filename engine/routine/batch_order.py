"""Examples of each step's batch: a pure function of the step number, drawn or given.

Epochs follow one another without a gap, every batch has the same size, and a batch may straddle
two epochs. Inside an epoch, copy j of example i stands where a number drawn for (seed, epoch, i,
j) sorts it, so dropping one example leaves the order of all others as it was.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from engine.errors import ConfigurationError, DataError
from engine.numerics.determinism import generator
from engine.recipes.code.user_code import raised

if TYPE_CHECKING:
    from engine.routine.routine import Routine

_EPOCHS_KEPT = 4

_LARGE, _MANY = 2**20, 64
"""A batch with more examples than the first number and more epochs than the second is refused as a
mistake."""


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

        if batch_size > _LARGE and batch_size > _MANY * self.epoch_size:
            raise DataError(
                f"A batch of {batch_size} examples would hold each of the {self.epoch_size} that "
                f"there are {batch_size // self.epoch_size} times, which fills the memory and "
                "teaches nothing more. Use a smaller batch.",
                settings=("training.batch_size",),
            )

    def batch(self, step: int) -> Tensor:
        """Return the example indices of ``step``, shape (batch,)."""
        epoch, start = divmod(step * self.batch_size, self.epoch_size)
        missing, parts = self.batch_size, []
        while missing:
            parts.append(self._epoch(epoch)[start : start + missing])
            missing -= parts[-1].shape[0]
            epoch, start = epoch + 1, 0
        # A copy, which its reader may write into.
        return parts[0].clone() if len(parts) == 1 else torch.cat(parts)

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


@dataclass(frozen=True, eq=False)
class GivenOrder:
    """An order that the user gave: a curriculum, or the batches of a sampler.

    Attributes:
        of_step: Maps a step to the indices of its examples.
        num_steps: T.
        batch_size: B.
        num_examples: n.
    """

    of_step: Callable[[int], Any]
    num_steps: int
    batch_size: int
    num_examples: int

    def batch(self, step: int) -> Tensor:
        """Return the example indices of ``step``, shape (batch,).

        Raises:
            DataError: If they are not B numbers of examples.
        """
        try:
            given = self.of_step(step)
        except Exception as error:
            raise DataError(f"order of step {step} raised {raised(error)}. {_ORDERS}") from error
        try:
            found = torch.as_tensor(given, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"order gives a {type(given).__name__} for step {step}. {_ORDERS}"
            ) from error
        if found.shape != (self.batch_size,) or found.is_floating_point():
            raise DataError(
                f"order gives {found.dtype} of shape {tuple(found.shape)} for step {step}, but a "
                f"batch has {self.batch_size} whole numbers. Leave out what does not fill a batch "
                "(drop_last=True), and give batch_size the same number."
            )
        if not ((found >= 0) & (found < self.num_examples)).all():
            raise DataError(
                f"order gives example {int(found.max() if found.min() >= 0 else found.min())} for "
                f"step {step}, but there are only {self.num_examples}, numbered from 0. Use "
                "indices of the examples."
            )
        return found.to(torch.int64)

    def of_steps(self, steps: Sequence[int], batch_size: int) -> "GivenOrder":
        """Return the order of a run of some of the steps, with the first examples of each."""
        return GivenOrder(
            lambda step: self.batch(steps[step])[:batch_size],
            len(steps),
            batch_size,
            self.num_examples,
        )


_ORDERS = (
    "Hand in a list with the indices of each step, a tensor of shape (steps, batch), a Sampler, a "
    "BatchSampler or a DataLoader of torch, or a function that maps a step to indices."
)


def run_order(routine: "Routine") -> Order | GivenOrder:
    """Return which examples each step of a run draws: what was handed in, or epochs of their own.

    Args:
        routine: The run, whose ``order`` is as it was handed in.

    Raises:
        ConfigurationError: If an order was handed in, and a metaparameter is one too.
    """
    counted = {name: kind.copies() for name, kind in routine.metaparameters.items()}
    if routine.order is not None and not isinstance(routine.order, Order):
        for name, copies in counted.items():
            if copies is not None:
                raise ConfigurationError(
                    f"Metaparameter {name!r} says how often each example stands in an epoch, "
                    "which a given order says already. Use ExampleWeights, or leave order out "
                    "(keep_order=False of an adapter).",
                    settings=("metaparameters.name", "outer.update"),
                )
        return given_order(routine.order, routine.num_steps, routine.batch_size, len(routine))
    copies = torch.ones(len(routine), dtype=torch.int64, device="cpu")
    for own in counted.values():
        copies = copies if own is None else copies * own
    return Order(copies, routine.batch_size, routine.seed)


def given_order(given: Any, num_steps: int, batch_size: int, num_examples: int) -> GivenOrder:  # noqa: ANN401 (whatever was handed in)
    """Return an order that was handed in, as a function of the step.

    Args:
        given: Index lists, one for each step; a tensor or array, shape (steps, batch); a sampler
            of indices or of batches, or a ``DataLoader``, which is read once, pass after pass until
            there are T batches, as by a loader with ``drop_last=True``; or a pure function of the
            step.
        num_steps: T.
        batch_size: B.
        num_examples: n.

    Raises:
        ConfigurationError: If it is none of these, or has batches for fewer steps.
        DataError: If a batch of it is not one.
    """
    if isinstance(given, DataLoader):
        given = _IndicesOfLoader(given, num_examples)
    if isinstance(given, GivenOrder):
        made = given
    elif callable(given) and not hasattr(given, "__iter__"):
        made = GivenOrder(given, num_steps, batch_size, num_examples)
        if not torch.equal(made.batch(0), made.batch(0)):
            raise ConfigurationError(
                "order, called twice with step 0, gave two batches, but a step is run again when "
                "the run is reversed. Make it a function of the step alone."
            )
        for step in {0, num_steps - 1}:
            made.batch(step)
        return made
    elif hasattr(given, "__iter__") and not isinstance(given, str | bytes | dict):
        rows = list(_read(given, num_steps, batch_size))
        made = GivenOrder(rows.__getitem__, len(rows), batch_size, num_examples)
        for step in range(len(rows)):
            made.batch(step)
    else:
        raise ConfigurationError(f"order is a {type(given).__name__}. {_ORDERS}")
    if made.num_steps == 0:
        raise ConfigurationError(
            f"order has no batch of {batch_size} examples: a pass of it is shorter, and what does "
            "not fill a batch is left out. Make it longer, or the batch smaller."
        )
    if made.num_steps < num_steps:
        raise ConfigurationError(
            f"order has batches for {made.num_steps} steps, but num_steps is {num_steps}. Give one "
            "for each step."
        )
    return made


class _IndicesOfLoader:
    """The indices of the examples that a loader gives, pass after pass.

    Its sampler alone would give others: a loader draws from its generator when a pass begins, or
    where its workers stay, when the first one does.

    Raises:
        ConfigurationError: If it has no batches of indices, or those of other examples.
    """

    def __init__(self, loader: DataLoader[Any], num_examples: int) -> None:
        if loader.batch_sampler is None:
            raise ConfigurationError(
                "order is a DataLoader without batches of indices: its data set is read by "
                f"iteration, or batch_size is None. {_ORDERS}"
            )
        of_loader = len(loader.dataset)  # pyright: ignore[reportArgumentType] (one by index, so it has a length)
        if of_loader != num_examples:
            raise ConfigurationError(
                f"order is a DataLoader of {of_loader} examples, but the run has {num_examples}. "
                "Hand in the loader of the very examples, whose indices it then draws."
            )
        indices: Any = range(of_loader)
        options: dict[str, Any] = {"generator": loader.generator, "collate_fn": list}
        self._next = DataLoader(indices, batch_sampler=loader.batch_sampler, **options)
        self._later = loader.batch_sampler if loader.persistent_workers else self._next

    def __iter__(self) -> Iterator[Any]:
        passed, self._next = self._next, self._later
        return iter(passed)


def _read(given: Any, num_steps: int, batch_size: int) -> Iterator[Any]:  # noqa: ANN401 (whatever is handed in)
    """Yield batches of indices, pass after pass of a sampler, and one pass of anything else."""
    is_sampler = not hasattr(given, "__getitem__")
    made = 0
    while made < num_steps:
        before, waiting = made, []
        for each in given:
            if isinstance(each, int) or getattr(each, "shape", None) == ():
                waiting.append(int(each))
                if len(waiting) < batch_size:
                    continue
                each, waiting = waiting, []  # noqa: PLW2901 (a batch of indices)
            yield each
            made += 1
            if made == num_steps:
                return
        if not is_sampler or made == before:
            return
