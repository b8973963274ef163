"""What a loss is asked right after it was computed, and what of it is computed again."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import relu

import engine
from engine.errors import WitnessError
from engine.witness.cuts.asked import CallsOfLoss, _key
from tests.strangers.plain import loss
from tests.strangers.witnessed import Counting, output, routine

_STEPS = 40


def _due(model):
    return int(model.training and int(model.count) % 11 == 0)


def _in_a_hook(losses, due):
    size = losses.mean().item()
    losses = 1 * losses
    if losses.requires_grad and due:
        losses.register_hook(lambda gradient: gradient * (1 + size))
    return losses


def _as_data(losses, due):
    factors = torch.ones_like(losses)
    factors.data = 1 + due * losses.detach()
    return losses * factors


def _in_place(losses, due):
    size, factors = losses.mean().item(), torch.ones_like(losses)
    factors.add_(due * size)
    return losses * factors


def _clipped_in_place(losses, due):
    size = losses.mean().item()
    return relu(1 * losses, inplace=True) * (1 + due * size)


def _by_memory_of_data(losses, due):
    size, factors = losses.mean().item(), torch.zeros_like(losses)
    factors.data.fill_(due * size)
    return losses * (1 + factors)


def _returned_by_a_hook(losses, due):
    other, part = losses.detach() + 1, 0.5 * losses
    if part.requires_grad and due:
        part.register_hook(lambda _: other)
    return part + 0.5 * losses


class _Keeping(torch.autograd.Function):
    """Hands on its input; its gradient is what it was given beside that, if it is due."""

    @staticmethod
    def forward(ctx, inputs, other, due):
        ctx.other, ctx.due = other, due
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.other if ctx.due else gradient, None, None


def _returned_by_a_function(losses, due):
    return 0.5 * _Keeping.apply(losses, losses.detach() + 1, due) + 0.5 * losses


CUTS = {
    "what a hook returns": _returned_by_a_hook,
    "what a custom function returns": _returned_by_a_function,
    "a hook": _in_a_hook,
    "data that is set": _as_data,
    "a write": _in_place,
    "a write that has no name": _clipped_in_place,
    "a write into .data": _by_memory_of_data,
    "words": lambda losses, due: losses * (1 + due * float(f"{losses.mean().item():.12f}")),
}


@pytest.mark.parametrize("change", CUTS.values(), ids=CUTS)
def test_a_number_that_counts_at_times_is_noticed_where_the_loss_was_called(change):
    """Also where it is read in the backward pass alone."""

    def own(model, batch):
        return change(loss(model, batch), _due(model))

    run = routine(Counting(), loss=own, num_steps=_STEPS, learning_rate=0.1)

    with pytest.raises(WitnessError, match="now and then|taken out of the graph by detach"):
        engine.metagradient(run, output)


def test_a_loss_that_logs_is_as_exact_and_is_not_computed_again():
    """What its functions returned is returned again, so a product of matrices is made once."""
    multiplied = []

    class Counted(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.nn.functional.linear:
                multiplied.append(func)
            return func(*args, **(kwargs or {}))

    counts, found = [], []
    for logs in (False, True):
        log = []

        def own(model, batch, log=log, logs=logs):
            losses = loss(model, batch)
            if logs:
                log.append(losses.mean().item())
            return losses

        multiplied.clear()
        torch.manual_seed(0)
        with Counted():
            run = routine(Counting(), loss=own, num_steps=_STEPS, learning_rate=0.1)
            found.append(engine.metagradient(run, output))
        counts.append(len(multiplied))

    assert torch.equal(found[0]["weights"], found[1]["weights"])
    assert counts[1] - counts[0] < _STEPS, "some comparisons of the first step that is asked"


def test_what_was_written_into_is_computed_again():
    """By version, and by memory where ``.data`` hides the version."""
    inputs = torch.ones(3)

    def kept():
        record = CallsOfLoss()
        key = _key(torch.add, (inputs, 1), {})
        result = torch.add(inputs, 1)
        record.note(key, torch.add, (inputs, 1), result)
        return record, key, result

    record, key, result = kept()
    assert record.returned(key) == (result,)
    assert record.returned(key) is None, "it was asked for once"

    record, key, result = kept()
    result.add_(1)
    assert record.returned(key) is None

    record, key, result = kept()
    result.data.add_(1)
    record.note(None, torch.Tensor.add_, (result.data, 1), result)
    assert record.returned(key) is None


def test_a_hook_and_an_array_leave_nothing_that_may_be_returned_again():
    """A hook would be in the graph twice, and an array may be written into unseen."""
    inputs = torch.ones(3, requires_grad=True)
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (torch.Tensor.register_hook, (inputs, lambda gradient: gradient)),
        (torch.Tensor.numpy, (inputs.detach(),)),
    ]
    for function, args in calls:
        record = CallsOfLoss()
        record.note(_key(function, args, {}), function, args, function(*args))
        assert not record.is_whole
