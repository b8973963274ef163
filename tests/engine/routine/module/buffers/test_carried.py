"""Buffers that a module moves by rules of its own, beside a loop that trains it in place."""

import pytest
import torch
from torch import nn

import engine
from engine.errors import ConfigurationError, EngineError, WitnessError
from engine.metaparameters.inputs import Inputs
from engine.recipes.replay import StepPath
from engine.replay.batched import train_many
from engine.replay.plain_training import train_unchecked
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.step.step import open_step
from tests.strangers.carried import SOUND, ZEROS, Moves, moves
from tests.strangers.carried_refused import REFUSED
from tests.strangers.plain import Variant, by_engine, by_trainings, data, loss, mlp
from tests.strangers.witnessed import output, routine

ALWAYS = {
    "carried: a centre",
    "carried: by .data, with momentum",
    "carried: out=",
    "carried: blocks in blocks",
    "carried: read, then written",
    "carried: found from the first batch",
    "carried: a queue",
    "carried: annealed by a number",
    "carried: statistics of its own",
    "carried: what asks about the graph",
    "carried: written by copies",
    "carried: beside batch norm",
    "carried: instance norm",
    "carried: batch norm of several devices",
    "carried: spectral norm",
    "carried: teacher by data",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ALWAYS else pytest.mark.slow) for n in SOUND]
)
def test_a_run_whose_buffers_move_is_right(name):
    """The reference shares the order of the batches with the engine, and nothing else."""
    wanted, value = by_trainings(SOUND[name])

    found, evaluated = by_engine(SOUND[name])

    assert evaluated == pytest.approx(value, rel=1e-9)
    assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_lose_a_derivative_is_refused(name):
    """A number of Python's, another library, or a move that no step before has made."""
    variant, words = REFUSED[name]

    with pytest.raises(EngineError, match=words):
        by_engine(variant)


def _net(name="carried: a centre"):
    return SOUND[name].parts()[0]


WAYS = [
    {"schedule": "store-all"},
    {"schedule": "k-ary", "arity": 2},
    {"unroll": 3},
    {"vjp": "forward-over-reverse"},
    {"vjp": "compiled"},
]


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("name", ["carried: a centre", "carried: annealed by a number"])
def test_every_way_to_reverse_carries_them(name, options):
    """Or takes the reference's way, with the same answer."""
    run = routine(_net(name))
    expected = engine.whole_run_gradient(run, output)[1]["weights"]

    found = engine.metagradient(run, output, **options)["weights"]

    assert float((found - expected).norm() / expected.norm()) < 1e-12


def test_the_whole_run_in_one_graph_agrees_with_trainings():
    """Another reference of the engine's own: one graph through all steps."""
    run, v = routine(_net()), torch.randn(24, generator=torch.Generator().manual_seed(1)).double()

    found = engine.whole_run_gradient(run, output)[1]["weights"]

    expected = engine.central_difference(run, output, {"weights": v})
    assert float(found @ v) == pytest.approx(expected, rel=1e-7)


def test_batches_of_runs_and_several_outputs_carry_them():
    """Each run has buffers of its own, each output a cotangent of them."""
    run = routine(_net())
    points = [run.point(), {"weights": 2 * run.point()["weights"]}]

    states = train_many(run, points)
    found = engine.metagradients(run, [output, lambda net: 2 * output(net)])

    assert torch.equal(states[1][BUFFERS], train_unchecked(run, points[1])[BUFFERS])
    assert not torch.equal(states[0][BUFFERS], states[1][BUFFERS])
    assert torch.allclose(2 * found[0]["weights"], found[1]["weights"], rtol=1e-12)


def test_a_store_keeps_them(tmp_path):
    """Rows of a store have them, and a replay starts from them."""
    run = routine(_net("carried: a queue"))
    expected = engine.metagradient(run, output)["weights"]

    found = engine.metagradient(run, output, store=str(tmp_path / "store"), schedule="k-ary")

    assert torch.equal(found["weights"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["carried: a codebook", "carried: annealed by a tensor"])
def test_the_preflight_knows_them(name):
    """Its twins, in float64 and shorter, carry what the run carries."""
    report = engine.check(routine(_net(name)), output)

    assert report.verdict != "refuse", report


def _in_float32(variant):
    net = variant.parts()[0].float()
    columns = tuple(c.float() if c.is_floating_point() else c for c in variant.examples())
    held = tuple(column[24:] for column in columns)
    run = routine(
        net,
        examples=tuple(column[:24] for column in columns),
        metaparameters={"weights": engine.ExampleWeights(torch.ones(24))},
    )
    return run, lambda net: loss(net, held).mean()


@pytest.mark.parametrize("name", ["carried: a centre", "carried: how often", "carried: a queue"])
def test_a_run_in_float32_is_that_of_float64_to_rounding(name):
    """And its witness compares all that it compares in float64."""
    found = engine.metagradient(*_in_float32(SOUND[name]))
    exact = engine.metagradient(routine(_net(name)), output)["weights"]

    assert "buffers" not in found.witness.note
    assert float((found["weights"] - exact).norm() / exact.norm()) < 1e-3


@pytest.mark.parametrize("name", ["read as a number", "written as a number", "numpy"])
def test_a_run_in_float32_is_refused_as_one_in_float64(name):
    """The comparison is made in float64, whatever the run computes in."""
    with pytest.raises(WitnessError, match="taken out of the graph"):
        engine.metagradient(*_in_float32(REFUSED[name][0]))


def test_the_module_of_the_end_has_them_and_the_one_handed_in_does_not():
    """They are where a loop would have left them."""
    net = _net("carried: a codebook")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run = routine(net)
    state = train_unchecked(run)

    model = run.model_at(state)

    for name in ("kept", "size", "average"):
        assert not torch.equal(model.get_buffer(name), before[name]), name
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_looking_for_them_moves_no_running_statistics():
    """The forward pass that looks is none of the run's."""
    net = mlp(nn.BatchNorm1d(10), nn.Tanh())
    net.register_buffer("unmoved", torch.ones(3))
    run = routine(net)

    _ = run.statistics

    assert not run.model[1].running_mean.any()
    assert run.model[1].num_batches_tracked == 0


def test_a_first_step_that_keeps_its_graph_leaves_a_still_buffer_alone():
    """It looks for what moves from inside of its own block, where copies of buffers are bound."""
    net = mlp(nn.Tanh())
    net.register_buffer("mask", torch.triu(torch.ones(3, 3)))
    state, run = routine(net).initial_state(), routine(net).in_one_piece()

    steps = [open_step(run, state, run.point(), step) for step in (0, 1)]

    assert all(torch.isfinite(each.loss) for each in steps)


def test_a_buffer_with_more_digits_than_the_state_is_refused():
    """It would be rounded after every step."""

    def does(net, hidden):
        net.kept.lerp_(hidden.detach().mean().double(), 0.1)

    net = Moves(does, {"kept": torch.zeros((), dtype=torch.float64)})
    run, phi = _in_float32(Variant(lambda: net))
    run.model.kept = run.model.kept.double()

    with pytest.raises(WitnessError, match=r"'kept' of torch\.float64.*without rounding"):
        engine.metagradient(run, phi)


def test_a_counter_beyond_what_the_state_holds_is_refused():
    """Float32 counts to 16 million, and then stands still."""

    def does(net, hidden):
        net.kept += 1

    run, phi = _in_float32(moves(does, kept=torch.tensor(2**24 - 2)))

    with pytest.raises(WitnessError, match=r"'kept' is 16777217 after batch"):
        engine.metagradient(run, phi, witness=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["carried: a centre", "carried: read before it moves"])
def test_a_compiled_run_carries_them(name):
    """The program is given the buffers and returns them; another tensor in their place, too."""
    expected = engine.metagradient(routine(_net(name)), output)

    found = engine.metagradient(routine(_net(name), compile=True), output)

    assert found.output == pytest.approx(expected.output, rel=1e-12)
    assert torch.allclose(found["weights"], expected["weights"], rtol=1e-9)


def test_compiled_graphs_are_refused():
    """A compiled graph lacks the derivative by the buffers."""
    run = routine(_net(), compile=True, path=StepPath.GRAPH)

    with pytest.raises(ConfigurationError, match="path is 'graph'.*other buffers"):
        engine.metagradient(run, output)


def test_what_follows_metaparameters_alone_is_no_clock():
    """With all examples in each batch, the largest input is the same at every step."""

    def does(net, hidden):
        del net
        return hidden

    class Scaled(Moves):
        def forward(self, inputs):
            if self.training:
                self.kept.copy_(torch.maximum(self.kept, inputs.detach().amax(0)))
            return super().forward(inputs / (1 + self.kept))

    columns = tuple(column[:24] for column in data())
    step, places = 1e-6, torch.arange(24)

    def trained(inputs):
        net = Scaled(does, {"kept": torch.zeros(6)}).double()
        net.load_state_dict(start)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        for _ in range(6):
            optimizer.zero_grad()
            loss(net, (inputs, columns[1])).mean().backward()
            optimizer.step()
        return float(output(net.eval()).detach())

    net = Scaled(does, {"kept": torch.zeros(6)}).double()
    start = {name: value.clone() for name, value in net.state_dict().items()}
    v = torch.randn(24, 6, generator=torch.Generator().manual_seed(1)).double()
    run = routine(
        net, batch_size=24, metaparameters={"inputs": Inputs(columns[0].clone(), places, 24)}
    )

    found = float((engine.metagradient(run, output)["inputs"] * v).sum())

    expected = (trained(columns[0] + step * v) - trained(columns[0] - step * v)) / (2 * step)
    assert found == pytest.approx(expected, rel=1e-6)


class Centred(Moves):
    """Follows its inputs by a library that has no derivatives, and reads that in evaluation."""

    def forward(self, inputs):
        """Move the buffer in training, and subtract it in evaluation."""
        if not self.training:
            return super().forward(inputs - self.kept)
        self.kept.lerp_(torch.from_numpy(inputs.detach().numpy().mean(0)), 0.3)
        return super().forward(inputs)


def test_a_way_of_inputs_into_a_buffer_that_is_cut_is_refused():
    """No gradient of a step shows it, and no parameter moves it."""
    columns = tuple(column[:24] for column in data())
    kind = Inputs(columns[0].clone(), torch.arange(24), 24)
    net = Centred(lambda net, hidden: hidden, {"kept": torch.zeros(6)}).double()
    run = routine(net, metaparameters={"inputs": kind})

    with pytest.raises(WitnessError, match=r"'inputs' into the buffers that the forward pass"):
        engine.metagradient(run, output)


def test_a_frozen_module_without_moving_buffers_has_no_vector_more():
    """A mask is no state."""
    net = moves(lambda net, hidden: hidden + net.kept, kept=ZEROS).make()

    assert BUFFERS not in routine(net).initial_state()
