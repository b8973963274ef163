"""Running statistics of batch normalizations, computed anew from examples, with a graph."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.errors import ConfigurationError


def update_bn(batches: Iterable[Any], model: nn.Module) -> None:
    """Do what ``torch.optim.swa_utils.update_bn`` does, with a derivative, inside of an output.

    Averaged weights need statistics of their own: those that the run has kept belong to the
    weights that were trained. Every batch normalization gets the mean of those of the batches. ::

        def output(model):
            engine.update_bn(inputs.split(100), model)
            return loss(model, held_out).mean()

    Args:
        batches: Inputs of the model, a batch each; of a tuple, list or dict its first entry, as
            from a loader of (inputs, labels).
        model: The model that an output, a metric or a ``score`` is given; it is in the mode
            that it was in when this returns.

    Raises:
        ConfigurationError: If there is no batch.

    Cost:
        A forward pass of each batch, whose graph is kept until the output was reversed.
    """
    layers = [
        each
        for each in model.modules()
        if isinstance(each, _BatchNorm) and each.running_mean is not None
    ]
    if not layers:
        return
    number = 0
    with _training_by_mean(model, layers):
        for number, batch in enumerate(batches, start=1):  # noqa: B007 (whether there was one)
            model(_inputs(batch))
    if not number:
        raise ConfigurationError(
            "update_bn was given no batch. Hand in batches of inputs that can be gone "
            "through again, such as inputs.split(100), and no iterator that is used up."
        )


@contextmanager
def _training_by_mean(model: nn.Module, layers: list[_BatchNorm]) -> Iterator[None]:
    """Have every call move the statistics to the mean over all calls since the block began."""
    modes = [(each, each.training) for each in model.modules()]
    kept = [(each, each.momentum, each.num_batches_tracked) for each in layers]
    model.train()
    for each in layers:
        each.momentum = None  # a mean of all calls, the first of which leaves nothing of before
        # A mean counts its calls in the module, which a run with another momentum has no use for.
        device = each.running_mean.device if each.running_mean is not None else None
        each.num_batches_tracked = torch.zeros((), dtype=torch.int64, device=device)
    try:
        yield
    finally:
        for each, momentum, counted in kept:
            each.momentum = momentum
            if counted is None:
                each.num_batches_tracked = None
        for each, mode in modes:
            each.training = mode


def _inputs(batch: Any) -> Any:  # noqa: ANN401 (whatever a loader gives)
    if isinstance(batch, dict):
        return next(iter(batch.values()))
    return batch[0] if isinstance(batch, tuple | list) else batch
