"""Steps whose copies begin early, late or in the output, each reversed by a routine of its own."""

import copy

import pytest
import torch
from torch import nn

import engine
from engine.errors import UndifferentiableError, WitnessError
from engine.numerics.determinism import deterministic
from engine.replay.interpreter import Sweep, replay
from engine.replay.outer_step import train_steps
from engine.schedules.trees import Load, Reverse, Seed, Tier
from engine.storage.states import MemoryStates
from tests.strangers.inner_training import with_losses
from tests.strangers.plain import by_engine, by_trainings, direction, loss, mlp
from tests.strangers.witnessed import output, routine


class Counting(nn.Module):
    """A net that knows how often it was called."""

    def __init__(self, *middle):
        super().__init__()
        self.body = mlp(*middle)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs):  # noqa: D102 (torch's)
        return self.body(inputs)


def _toward_itself(net, batch):
    wanted = net(batch[0]).detach()
    return loss(net, batch) + (net(0.9 * batch[0]) - wanted).square().mean(1)


def _copies_early(net, batch):
    net.count += 1
    if net.count == 1:
        copy.deepcopy(net)
    return _toward_itself(net, batch)


def _copies_late(net, batch):
    net.count += 1
    if net.count < 5:
        return loss(net, batch)
    wanted = copy.deepcopy(net)(batch[0]).detach()
    return loss(net, batch) + (net(0.9 * batch[0]) - wanted).square().mean(1)


def _copies_at_times(net, batch):
    net.count += 1
    if net.count % 4 == 0:  # after three copies the next one is expected
        return loss(net, batch)
    wanted = copy.deepcopy(net)(batch[0]).detach()
    return loss(net, batch) + (net(0.9 * batch[0]) - wanted).square().mean(1)


def _reversed_apart(make):
    """Return the metagradient of a run, each of whose steps is made by a routine of its own."""
    run = make()
    point, states = run.point(), [run.initial_state()]
    with deterministic():
        for step in range(run.num_steps):
            states.append(train_steps(make(), range(step, step + 1), states[-1])[0])
        sweep = Sweep(state=states[-1])
        replay([Seed(run.num_steps)], make(), point, {}, sweep, output=output)
        for step in reversed(range(run.num_steps)):
            tier = MemoryStates()
            tier.save(step, states[step])
            sweep = Sweep(adjoint=sweep.adjoint, metagradient=sweep.metagradient)
            replay(
                [Load(step, Tier.MEMORY), Reverse(step)], make(), point, {Tier.MEMORY: tier}, sweep
            )
    return sweep.metagradient["weights"]


def _cuts_at_times(net, batch):
    net.count += 1
    if net.count % 4 == 0:
        return _toward_itself(net, batch)
    copy.deepcopy(net)
    return loss(net, batch)


@pytest.mark.parametrize("losses", [_copies_early, _cuts_at_times])
def test_a_copy_in_one_step_says_nothing_of_another(losses):
    """A worker that makes other steps has not seen it, and would lose what a cut loses."""
    with pytest.raises((UndifferentiableError, WitnessError), match=r"test_held_apart.py"):
        engine.metagradient(routine(Counting(), loss=losses), output)


@pytest.mark.parametrize("losses", [_copies_late, _copies_at_times])
def test_who_reverses_a_step_need_not_have_seen_the_copies_of_another(losses):
    """One process, six of them, and a central difference."""
    torch.manual_seed(0)
    model = Counting()

    def make():
        return routine(copy.deepcopy(model), loss=losses)

    apart = _reversed_apart(make)

    assert torch.equal(engine.metagradient(make(), output)["weights"], apart)
    expected = engine.central_difference(make(), output, {"weights": direction()})
    assert float(apart @ direction()) == pytest.approx(expected, rel=1e-6)


def test_a_copy_in_the_output_says_nothing_of_the_loss():
    """A worker that makes steps has never called the output."""

    def copying(net):
        copy.deepcopy(net)
        return output(net)

    with pytest.raises(WitnessError, match=r"detach\(\) at .*test_held_apart.py"):
        engine.metagradient(routine(loss=_toward_itself), copying)


def _rarely(rare):
    def losses(net, batch):
        net.count += 1
        return loss(net, batch) if net.count % 3 else rare(net, batch)

    return losses


def _toward_evaluated(net, batch):
    found = loss(net, batch)
    wanted = copy.deepcopy(net).eval()(batch[0])
    return found + (net(0.9 * batch[0]) - wanted).square().mean(1)


def _toward_statistics(net, batch):
    found = loss(net, batch)
    return found + (net(0.9 * batch[0]) * net.body[1].running_mean[:3]).mean(1)


@pytest.mark.parametrize("rare", [_toward_evaluated, _toward_statistics])
def test_statistics_are_read_as_the_call_has_moved_them(rare):
    """At steps that no witness compares, too."""
    variant = with_losses(_rarely(rare), lambda: Counting(nn.BatchNorm1d(10), nn.GELU()))

    assert by_engine(variant) == pytest.approx(by_trainings(variant), rel=1e-6)


def _toward_trained(net, batch):
    other = copy.deepcopy(net)
    other(batch[0])
    wanted = other.eval()(batch[0])
    return loss(net, batch) + (net(0.9 * batch[0]) - wanted).square().mean(1)


@pytest.mark.parametrize("rare", [_toward_evaluated, _toward_statistics, _toward_trained])
def test_averages_of_all_batches_are_refused_where_their_number_counts(rare):
    """It is in no state."""
    average = nn.BatchNorm1d(10, momentum=None)
    variant = with_losses(_rarely(rare), lambda: Counting(average, nn.GELU()))

    with pytest.raises((UndifferentiableError, WitnessError), match="averages all batches"):
        by_engine(variant)


def test_a_copy_in_a_loss_that_is_refused_is_not_called_for_ever():
    """The hook by which the witness looks for the module at fault is copied as well."""

    def losses(net, batch):
        other = copy.deepcopy(net)
        other[0].weight = nn.Parameter(other[0].weight.detach() * 0.5)
        return loss(net, batch) + (net(batch[0]) - other(batch[0])).square().mean(1)

    with pytest.raises(WitnessError, match="second derivative of the loss"):
        engine.metagradient(routine(loss=losses), output)
