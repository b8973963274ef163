"""Loaders of a Lightning module, and the order in which one draws its examples."""

from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from engine.errors import ConfigurationError


def loaders_of(data: Any) -> tuple[Any, Any]:  # noqa: ANN401 (whatever was handed in)
    """Return the loaders of training and held-out examples.

    Args:
        data: A LightningDataModule, which is set up for fitting, or a pair of loaders.

    Raises:
        ConfigurationError: If there are not both, or one has no batches of indices.
    """
    if hasattr(data, "train_dataloader"):
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
            raise ConfigurationError(
                f"The loader of the {what} examples is a {type(one).__name__}, or has no "
                "batch_size. Use one torch DataLoader with a dataset by index and a batch_size."
            )
        found.append(one)
    return found[0], found[1]


def order_of(
    loader: Any,  # noqa: ANN401
    num_steps: int,
    accumulated: int,
) -> tuple[list[list[int]] | None, str | None]:
    """Return the examples of each step, or why they cannot be carried over.

    The loader's sampler is asked as by Lightning, pass by pass, and its generator is put back.

    Args:
        loader: Of the training examples.
        num_steps: T.
        accumulated: Batches of a step.
    """
    own = {each for each in (loader.generator, getattr(loader.sampler, "generator", None)) if each}
    before = [(each, each.get_state()) for each in own]
    size, steps = loader.batch_size * accumulated, []
    indices = DataLoader(
        range(len(loader.dataset)),  # pyright: ignore[reportArgumentType] (has a length and items)
        batch_sampler=loader.batch_sampler,
        generator=loader.generator,
        collate_fn=list,
    )
    try:
        with torch.random.fork_rng():
            while len(steps) < num_steps:
                # Lightning knows the length and never asks for the end, before which a random
                # sampler would draw once more.
                batches = list(islice(iter(indices), len(indices)))
                made = [
                    sum(batches[start : start + accumulated], [])
                    for start in range(0, len(batches), accumulated)
                ]
                odd = [len(step) for step in made if len(step) != size]
                if odd or not made:
                    return None, (
                        f"the last step of each pass has {odd[0] if odd else 0} examples where "
                        f"the others have {size}, and all batches have one size here "
                        "(drop_last=True keeps it)"
                    )
                steps += made
    finally:
        for each, state in before:
            each.set_state(state)
    return steps[:num_steps], None
