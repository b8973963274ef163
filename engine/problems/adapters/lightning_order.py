"""Loaders of a Lightning module, and the order in which one draws its examples."""

from typing import Any

from torch.utils.data import DataLoader

from engine.errors import ConfigurationError
from engine.problems.adapters.drawn_orders import (
    Steps,
    batches_of_pass,
    joined,
    order_once,
    own_generators_kept,
)


def loaders_of(data: Any) -> tuple[Any, Any]:  # noqa: ANN401 (whatever was handed in)
    """Return the loaders of training and held-out examples.

    Args:
        data: A LightningDataModule, which is set up for fitting, or a pair of loaders.

    Raises:
        ConfigurationError: If there are not both, or one has no batches of indices.
    """
    if hasattr(data, "train_dataloader"):
        _refuse_moved_batches(data)
        data.prepare_data()
        data.setup("fit")
        data = (data.train_dataloader(), data.val_dataloader())
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise ConfigurationError(
            f"data is a {type(data).__name__}. Hand in a LightningDataModule, or a pair of "
            "loaders: training examples, held-out examples."
        )
    found = []
    for what, given in zip(("training", "held-out"), data, strict=True):
        one = given[0] if isinstance(given, tuple | list) and len(given) == 1 else given
        if not isinstance(one, DataLoader) or one.batch_size is None:
            found_is = (
                "has a batch_sampler of its own"
                if isinstance(one, DataLoader)
                else f"is a {type(one).__name__}"
            )
            raise ConfigurationError(
                f"The loader of the {what} examples {found_is}. Use one torch DataLoader with a "
                "dataset by index, a batch_size, and a sampler of examples if it needs one."
            )
        found.append(one)
    return found[0], found[1]


def refuse_reloads(trainer: Any) -> None:  # noqa: ANN401 (of a library)
    """Refuse a Trainer that begins anew with its loaders after some passes.

    It asks a datamodule for others then, and begins twice with those that it was handed, so that
    a loader with a generator of its own draws once more.
    """
    passes = getattr(trainer, "reload_dataloaders_every_n_epochs", 0)
    if passes:
        raise ConfigurationError(
            f"reload_dataloaders_every_n_epochs is {passes}, so Lightning asks for its loaders "
            "anew after so many passes, but only the first loaders are read here. Set it to 0. For "
            "an order that changes from pass to pass, use a sampler with set_epoch, or order= of "
            "an engine.Problem."
        )


_OF_BATCHES = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
"""Hooks of a datamodule through which every batch goes."""


def _refuse_moved_batches(data: Any) -> None:  # noqa: ANN401 (of a library)
    base = next(
        (each for each in type(data).__mro__ if each.__name__ == "LightningDataModule"), None
    )
    for name in _OF_BATCHES:
        own = getattr(type(data), name, None)
        if own is not None and own is not getattr(base, name, None):
            raise ConfigurationError(
                f"{type(data).__name__} has the hook {name}, through which each batch goes in "
                "Lightning and which is not called here. Do the same in the dataset or in "
                "collate_fn, or hand in augment=, a function of (batch, generator)."
            )


def order_of(
    loader: Any,  # noqa: ANN401 (of a library)
    num_steps: int,
    accumulated: int,
    batches: int,
) -> tuple[Steps | None, str | None]:
    """Return the examples of each step, and in a sentence what of them cannot be carried over.

    The loader's sampler is asked as by Lightning, pass by pass: it is told the number of the pass
    if it asks for that, and generators are put back.

    Args:
        loader: Loader of the training examples.
        num_steps: T.
        accumulated: Batches of a step.
        batches: Batches of a pass, fewer than the loader's where Lightning is told to take fewer.
    """
    return order_once(
        lambda num_steps: _read(loader, num_steps, accumulated, batches),
        num_steps,
        -(-batches // accumulated),
    )


def _read(loader: Any, num_steps: int, accumulated: int, number: int) -> Steps:  # noqa: ANN401 (of a library)
    size, steps, epoch = loader.batch_size * accumulated, [], 0
    try:
        with own_generators_kept(loader):
            while len(steps) < num_steps:
                _tell_pass(loader, epoch)
                # Lightning knows the length, and does not ask for the end itself.
                made = batches_of_pass(loader, number, epoch)
                steps += joined(made, accumulated, size, "drop_last=True keeps it")
                epoch += 1
    finally:
        _tell_pass(loader, 0)
    return steps[:num_steps]


def _tell_pass(loader: Any, epoch: int) -> None:  # noqa: ANN401 (of a library)
    """Tell the samplers of a loader the number of a pass, as Lightning does."""
    known: dict[int, Any] = {}
    for each in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
        known[id(each)] = each
    for each in known.values():
        if callable(getattr(each, "set_epoch", None)):
            each.set_epoch(epoch)
