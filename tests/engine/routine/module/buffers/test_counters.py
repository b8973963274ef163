"""Buffers that count calls, whoever reads them: carried, or followed where they change shape."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import engine
from engine.errors import WitnessError
from engine.routine.module.buffers.counters import is_read
from tests.strangers.plain import Variant, by_engine, by_trainings
from tests.strangers.witnessed import output, routine


class Counting(nn.Module):
    """A net that does something with a buffer in every call."""

    def __init__(self, does, shape=()):
        super().__init__()
        self.first, self.last, self.does = nn.Linear(6, 10), nn.Linear(10, 3), does
        self.register_buffer("calls", torch.zeros(shape))
        self.register_buffer("table", torch.linspace(0, 1, 10))

    def forward(self, inputs):
        """Call what does something between two layers."""
        hidden = torch.tanh(self.first(inputs))
        found = self.does(self, hidden)
        return self.last(hidden if found is None else found)


def _variant(does, shape=(), **changes):
    return Variant(lambda: Counting(does, shape).double(), **changes)


def _counted(net, hidden):
    net.calls += 1


def _replaced(net, hidden):
    net.calls = net.calls + len(hidden)


def _in_training(net, hidden):
    net.calls += int(net.training)


def _written_before_it_is_read(net, hidden):
    net.calls.copy_(net.table)
    return hidden + net.calls


def _made_longer(net, hidden):
    if len(net.calls) < 10:
        net.calls = torch.linspace(0, 1, 10).double()
    return hidden * net.calls


def _recomputed(net, hidden):
    def counted(hidden):
        net.calls += 1
        return hidden.sin()

    return checkpoint(counted, hidden, use_reentrant=False)


def _by_a_branch(net, hidden):
    net.calls += 1
    return hidden * 2 if net.calls > 1000 else None


def _by_list(net, hidden):
    net.calls += 1
    return hidden * (1 + 1e-9 * net.calls.tolist())


def _by_numpy(net, hidden):
    net.calls += 1
    return hidden * (1 + 1e-9 * float(net.calls.numpy()))


def _before_it_counts(net, hidden):
    found = hidden * (1 + 1e-9 * net.calls)
    net.calls += 1
    return found


def _by_a_shape(net, hidden):
    net.calls += 1
    return hidden * (1 + (net.calls > 1000).nonzero().shape[0])


def _by_its_text(net, hidden):
    net.calls += 1
    return hidden * (1 + 1e-9 * len(f"{net.calls}"))


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, calls):
        ctx.save_for_backward(calls)
        return hidden.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (1 + ctx.saved_tensors[0]), None


def _by_the_backward_pass(net, hidden):
    net.calls += 1
    return _Backward.apply(hidden, net.calls.clone())


def _by_a_hook(net, hidden):
    net.calls += 1
    if hidden.requires_grad:
        hidden.register_hook(lambda gradient: gradient * (1 + net.calls))
    return hidden * 1


def _by_the_output(net, hidden):
    if net.training:
        net.calls += 1
    return None if net.training else hidden * (1 + net.calls)


def _grown(net, hidden):
    net.calls = torch.cat([net.calls, net.calls[:1] + 1])
    return hidden * (1 + net.calls.mean())


def _of_another_length(net, hidden):
    net.calls = hidden.detach()[: len(net.calls) % 5 + 1, 0]


def _follows_activations(net, hidden):
    net.calls.mul_(0.9).add_(hidden.detach().mean())


def _by_a_sparse_tensor(net, hidden):
    net.calls += 1
    return hidden + torch.sparse.mm(net.calls[:, None].to_sparse(), hidden[:1]).sum()


COUNTED = {
    "calls": _variant(_counted),
    "calls in training": _variant(_in_training),
    "examples, in a new tensor": _variant(_replaced),
    "calls inside of a checkpoint": _variant(_recomputed),
    "a table that is written before it is read": _variant(_written_before_it_is_read, (10,)),
    "a table that is made longer once": _variant(_made_longer, (2,)),
    "a branch that is never taken": _variant(_by_a_branch),
    "a list": _variant(_by_list),
    "numpy": _variant(_by_numpy),
    "a shape": _variant(_by_a_shape),
    "its text": _variant(_by_its_text),
    "the loss, before it counts": _variant(_before_it_counts),
    "nobody, but it follows activations": _variant(_follows_activations),
    "a sparse tensor": _variant(_by_a_sparse_tensor, (1,)),
    "the output": _variant(_by_the_output),
}
LONGER = {
    "a table that is made longer, of what it held": _variant(_grown, (2,)),
    "one of another length at every call": _variant(_of_another_length, (2,)),
}


@pytest.mark.parametrize("name", COUNTED)
def test_a_run_that_counts_is_right(name):
    """The reference counts as well, and nothing comes of it."""
    wanted, value = by_trainings(COUNTED[name])

    found, output = by_engine(COUNTED[name])

    assert output == pytest.approx(value, rel=1e-8)
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", LONGER)
def test_what_changes_its_shape_and_is_read_is_refused(name):
    """No vector of a state has a place for it."""
    with pytest.raises(WitnessError, match="'calls' changes during training"):
        by_engine(LONGER[name])


@pytest.mark.parametrize("schedule", ["store-all", "k-ary"])
@pytest.mark.parametrize("reader", [_by_the_backward_pass, _by_a_hook])
def test_a_backward_pass_may_read_a_counter(reader, schedule):
    """What a function or a hook does to a gradient may depend on how far the run is."""
    wanted, value = by_trainings(_variant(reader))

    found, output = by_engine(_variant(reader), schedule=schedule)

    assert output == pytest.approx(value, rel=1e-8)
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("witness", [True, False])
def test_the_module_of_the_end_has_counted_the_steps(witness):
    """The engine's own calls are none of the user's; other values of z know it, too."""
    model = Counting(_counted).double()
    model.calls += 5
    run = routine(model)

    found = engine.metagradient(run, output, witness=witness)
    again = run.with_metaparameters({"weights": torch.ones(24, dtype=torch.float64)})
    engine.metagradient(again, output, witness=witness)

    assert run.model_at(found.state).calls == 5 + run.num_steps
    assert again.model_at(found.state).calls == 5 + run.num_steps
    assert model.calls == 5


def test_values_are_followed_through_views_and_new_tensors():
    """A part of a marked tensor is one; what is written over is none any more."""
    held, other = torch.ones(4), torch.ones(4)

    assert is_read({"held": held}, lambda: (held[1:] * other[1:]).sum())
    assert is_read({"held": held}, lambda: other.clone().add_(held))
    assert is_read({"held": held}, lambda: [held.sum().item(), other][1])
    assert not is_read({"held": held}, lambda: other * 2)
    assert not is_read({"held": held}, lambda: held.add_(1) is None or other * 2)
    assert not is_read({"held": held.clone()}, lambda: held.zero_().add_(other))
    part = torch.ones(4)
    assert is_read({"part": part}, lambda: [part[:2].zero_(), part * 1][1])
