"""Batch normalization's running statistics as a part of the state."""

import pytest
import torch
from torch import nn

from engine import central_difference, metagradient, whole_run_gradient
from engine.replay.plain_training import train_unchecked
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.step.step import plain_step
from tests.helpers.trainings import problems


class Shared(nn.Module):
    """A normalization that a forward pass calls twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(4, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, inputs):
        """Normalize both hidden layers by the same statistics."""
        hidden = nn.functional.gelu(self.norm(self.first(inputs)))
        return self.head(nn.functional.gelu(self.norm(self.second(hidden))))


def model(momentum=0.3, dropout=0.25):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Linear(4, 6),
            nn.BatchNorm1d(6, momentum=momentum),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(6, 3),
        )
        return net.double()


def shared_model():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Shared().double()


def routine(optimizer="adamw", kind="weights", **changes):
    return problems.routine(optimizer, kind, **({"model": model()} | changes))


MODELS = {
    "momentum": lambda: model(0.3),
    "plain average": lambda: model(None),
    "called twice": shared_model,
}


@pytest.mark.parametrize("schedule", ["k-ary", "store-all"])
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("kind", ["weights", "counts", "learning-rate", "all"])
def test_metagradient_flows_back_through_running_statistics(kind, optimizer, schedule):
    """The output reads them, so each step has a share by way of them; autograd knows it too."""
    run = routine(optimizer, kind)
    value, expected = whole_run_gradient(run, problems.output)

    found = metagradient(run, problems.output, schedule=schedule, arity=2)

    assert found.output == pytest.approx(float(value), rel=1e-12)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_metagradient_agrees_with_central_differences(build):
    """Trainings alone, which do not know how the statistics are carried.

    The truncation error was seen to be 1.3e-6 at h = 1e-5, so at 1e-6 it is near 1e-8.
    """
    run = routine(model=build())
    v = torch.linspace(-1, 1, problems.NUM_EXAMPLES, dtype=torch.float64)

    found = metagradient(run, problems.output)["weights"] @ v

    expected = central_difference(run, problems.output, {"weights": v}, step_size=1e-6)
    assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_statistics_are_those_of_torch(build):
    """Torch's own in-place update over the same batches is the reference."""
    run = routine("sgd", model=build(), learning_rate=0.0)
    reference = build().train()
    for step in range(run.num_steps):
        (term,) = run.terms(step)
        reference(problems.examples()[0][term.indices])

    state = train_unchecked(run)

    views = run.statistics.layout.views(state[BUFFERS])
    for name, buffer in reference.named_buffers():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(views[name], buffer, rtol=1e-12, atol=1e-14)


def test_training_leaves_the_model_as_it_is():
    """Nothing of a run is kept outside its state, so that any step can be made again."""
    run = routine()
    before = {name: buffer.clone() for name, buffer in run.model.named_buffers()}

    train_unchecked(run)

    assert all(torch.equal(buffer, before[name]) for name, buffer in run.model.named_buffers())


def test_replayed_steps_read_the_statistics_of_their_state():
    """A loss that reads them in training mode sees those of the step, not the newest."""

    def loss(net, batch):
        factor = 1 + net[1].running_mean.square().sum()  # before the forward pass moves it
        return problems.loss(net, batch) * factor

    run = routine(loss=loss)
    _, expected = whole_run_gradient(run, problems.output)

    found = metagradient(run, problems.output, arity=2)

    torch.testing.assert_close(found["weights"], expected["weights"], rtol=1e-10, atol=1e-13)


def test_every_schedule_makes_the_same_bits(tmp_path):
    """Replayed from memory or through zarr, the statistics come back with every bit."""
    run = routine(kind="all")
    expected = metagradient(run, problems.output, schedule="store-all")

    for arity, store in ((2, None), (3, str(tmp_path / "states"))):
        found = metagradient(run, problems.output, arity=arity, store=store)
        assert all(torch.equal(found[name], expected[name]) for name in expected.gradient)
        assert torch.equal(found.state[BUFFERS], expected.state[BUFFERS])


def test_injected_examples_do_not_move_the_statistics():
    """A perturbation of the data at z = 0 is none at all: the run is the plain run, bit for bit."""
    plain, injected = routine(kind="weights"), routine(kind="counts")
    point = injected.point()
    step = problems.INJECTION_STEP
    state = injected.initial_state()
    weights = {"counts": torch.full_like(point["counts"], 0.1)}

    still, _ = plain_step(injected, state, point, step)
    moved, _ = plain_step(injected, state, weights, step)

    assert torch.equal(still[BUFFERS], moved[BUFFERS])
    assert not torch.equal(still["params"], moved["params"])
    assert plain.statistics is not None


def test_a_layer_that_is_given_nothing_keeps_its_statistics():
    """It may belong to an expert that has nothing to do in this step, and torch leaves it too."""

    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model()

        def forward(self, inputs):
            return self.inner[4](nn.functional.gelu(self.inner[0](inputs)))

    run = routine(model=Idle())
    before = run.initial_state()

    after, _ = plain_step(run, before, run.point(), 0)

    assert torch.equal(after[BUFFERS], before[BUFFERS])


def test_evaluation_without_a_state_is_refused():
    """The initial statistics would be read in silence."""
    run = routine()

    with pytest.raises(ValueError, match=r"Routine\.evaluate"):
        run.call(problems.output, run.initial_state()["params"], training=False)
