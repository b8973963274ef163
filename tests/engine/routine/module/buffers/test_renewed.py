"""Statistics of averaged weights, as ``torch.optim.swa_utils.update_bn`` computes them."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

import engine
from engine.errors import ConfigurationError, UndifferentiableError
from tests.helpers.trainings import routines

STEPS, START, CHUNK = 8, 3, 32


def net():
    torch.manual_seed(5)
    parts = [nn.Linear(8, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.BatchNorm1d(7, momentum=0.3)]
    return nn.Sequential(*parts, nn.Linear(7, 3)).double()


def held_out():
    return routines.examples(40, seed=9)


def renewed(model):
    engine.update_bn(routines.examples()[0].split(CHUNK), model)
    return routines.loss(model, held_out()).mean()


def run(**changes):
    return routines.routine(
        model=net(),
        optimizer=engine.averaged(engine.sgd(0.9), None, start=START),
        learning_rate=0.05,
        num_steps=STEPS,
        **changes,
    )


def loop(batches, weights):
    """SWA as its documentation has it: averages of the last weights, then update_bn."""
    model = net()
    swa = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    inputs, labels = routines.examples()
    for step, batch in enumerate(batches):
        losses = routines.loss(model, (inputs[batch], labels[batch]))
        optimizer.zero_grad()
        (losses * weights[batch]).mean().backward()
        optimizer.step()
        if step >= START:
            swa.update_parameters(model)
    update_bn(inputs.split(CHUNK), swa)
    swa.eval()
    with torch.no_grad():
        return float(routines.loss(swa, held_out()).mean())


def test_output_and_metagradient_are_those_of_swa_with_update_bn():
    """The statistics are functions of the averaged weights, and a part of the derivative."""
    own = run()
    batches = [own.order.batch(step) for step in range(STEPS)]
    weights = torch.ones(routines.NUM_EXAMPLES, dtype=torch.float64)
    found = engine.metagradient(own, renewed)
    v = torch.randn(routines.NUM_EXAMPLES, generator=torch.Generator().manual_seed(1)).double()
    above, below = (loop(batches, weights + h * v) for h in (1e-5, -1e-5))

    assert found.output == pytest.approx(loop(batches, weights), rel=1e-12)
    assert float(found["weights"] @ v) == pytest.approx((above - below) / 2e-5, rel=1e-6)


def test_it_leaves_a_module_as_update_bn_does():
    """Statistics, counts, momenta and modes."""
    own, theirs = net().eval(), net().eval()
    own[2].train()
    loader = [(part, None) for part in routines.examples()[0].split(CHUNK)]
    engine.update_bn(loader, own)
    update_bn(loader, theirs)

    assert [each.training for each in own] == [False, False, True, False, False]
    assert [own[1].momentum, own[3].momentum] == [0.1, 0.3]
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(own.state_dict()[name], tensor), name


def test_torchs_update_bn_is_refused_with_the_remedy():
    """It works without a graph, so all that the statistics pass on would be lost."""

    def output(model):
        update_bn(routines.examples()[0].split(CHUNK), model)
        return routines.loss(model, held_out()).mean()

    with pytest.raises(UndifferentiableError, match="call engine.update_bn"):
        engine.metagradient(run(), output)


def test_no_batch_is_refused():
    """An output is called several times, and an iterator is used up by the first call."""
    with pytest.raises(ConfigurationError, match="no batch"):
        engine.update_bn(iter(()), net())
