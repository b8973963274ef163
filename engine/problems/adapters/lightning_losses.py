"""Test whether the loss of a Lightning module can be taken example by example."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.errors import ConfigurationError, EngineError
from engine.problems.adapters.adapted import compared, only_looked_at, places_looked_at
from engine.problems.adapters.lightning_modules import refuse_use_of_number, training_loss
from engine.recipes.code.user_code import raised
from engine.routine.diagnosis import MIXED_FORMATS, cure_of
from engine.routine.examples import Collated
from engine.types import Loss


def compare_losses(
    module: nn.Module, train: Collated, loss: Loss | None, batches: int, left: Sequence[str]
) -> str | None:
    """Compare ``training_step`` with the loss of each example, or with a loss in its place.

    Args:
        module: The module.
        train: Its training examples.
        loss: A loss that the user hands in; None calls ``training_step`` for each example.
        batches: Number of batches in a pass.
        left: What is not carried over, which ``training_step`` may need.

    Returns:
        A sentence if the user's loss differs; None if they agree.

    Raises:
        ConfigurationError: If ``training_step`` fails, or is no mean over the examples of a batch.
    """
    if loss is not None:
        return _other_loss(module, train, loss)
    _refuse_coupled(module)
    _call_once(module, train, batches, left)
    return None


def _refuse_coupled(module: nn.Module) -> None:
    for name, each in module.named_modules():
        if isinstance(each, _BatchNorm) and each.training:
            raise ConfigurationError(
                f"{name} is a batch normalization, so the loss of an example depends on the others "
                "in its batch, and training_step cannot be called for one example at a time. Hand "
                "in loss=, a function of (module, batch) that returns one loss for each example, "
                "or put this layer into evaluation mode."
            )


def _call_once(
    module: nn.Module,
    train: Collated,
    batches: int,
    left: Sequence[str],
) -> None:
    """Call ``training_step`` as a run calls its loss, and refuse a module for which that fails.

    Args:
        module: The module.
        train: Its training examples.
        batches: Batches of a pass.
        left: What is not carried over, which it may need.
    """
    try:
        _compare(module, train, batches)
    except EngineError:
        raise
    except Exception as error:
        words = [f"training_step raised {raised(error)}.", *left, _remedy(error)]
        raise ConfigurationError(" ".join(words)) from error


def _remedy(error: Exception) -> str:
    """Say what to do about an error of ``training_step``."""
    if any(each in str(error) for each in MIXED_FORMATS):
        return (
            "A Trainer with precision 32-true converts no batches either. Hand in examples in the "
            "module's format, as by x.float(), or Trainer(precision='64-true'), which converts "
            "both."
        )
    known = cure_of(str(error))
    return f"{known}." if known else "Create whatever it needs in __init__."


def _compare(module: nn.Module, train: Collated, batches: int) -> None:
    """Refuse a loss of a batch that is not the mean of its examples' losses."""
    rows = [train.samples[place] for place in places_looked_at(len(train))]
    each_by_itself: Any = train.collate
    collate = each_by_itself.collate
    refuse_use_of_number(module, collate(copy.deepcopy(rows)), batches)
    batch = collate(copy.deepcopy(rows))
    with only_looked_at(module):
        torch.manual_seed(0)
        whole = float(training_loss(module, [copy.deepcopy(batch)]).sum())
        torch.manual_seed(1)
        again = float(training_loss(module, [copy.deepcopy(batch)]).sum())
        if whole != again:
            raise ConfigurationError(
                f"training_step draws random numbers: two calls on one batch return {whole:.6g} "
                f"and {again:.6g}, so it cannot be checked whether the loss of a batch is the mean "
                "over its examples. Hand in loss=, a function of (module, batch) that returns one "
                "loss for each example; it may draw random numbers."
            )
    whole, mean, are_alike = compared(
        module,
        lambda: training_loss(module, [batch]).sum(),
        lambda: training_loss(module, train.collate(rows)).mean(),
    )
    if not are_alike:
        raise ConfigurationError(
            f"training_step returns {whole:.6g} for a batch of {len(rows)} examples, but the mean "
            f"over calls with one example each is {mean:.6g}, or has another gradient. So the loss "
            "is not a mean over the batch, or it compares examples. Hand in loss=, a function of "
            "(module, batch) that returns one loss for each example."
        )


def _other_loss(module: nn.Module, train: Collated, loss: Loss) -> str | None:
    """Return a sentence if the user's loss is not ``training_step``'s, and None if it is.

    A ``training_step`` that draws random numbers is not compared.
    """
    rows = [train.samples[place] for place in places_looked_at(len(train))]
    batch = train.collate(copy.deepcopy(rows))

    def theirs() -> Tensor:
        return training_loss(module, [copy.deepcopy(batch)]).sum()

    try:
        with only_looked_at(module):
            torch.manual_seed(0)
            first = float(theirs())
            torch.manual_seed(1)
            draws = float(theirs()) != first
        whole, mean, are_alike = compared(module, theirs, lambda: loss(module, batch).mean())
    except Exception as error:
        return (
            f"training_step: it could not be compared with loss= ({type(error).__name__}: {error})."
        )
    if draws or are_alike:
        return None
    return (
        f"training_step: it returns {whole:.6g} for {len(rows)} examples, while the mean of loss=, "
        f"with which the run trains, is {mean:.6g} or has another gradient."
    )
