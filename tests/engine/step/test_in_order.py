"""Batches in parts, where the forward pass moves buffers, beside torch's own accumulating loop."""

import gc
from dataclasses import replace

import pytest
import torch
from torch import nn

import engine
from engine.errors import ConfigurationError
from engine.replay.plain_training import train_unchecked
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.step.by_name import make_vjp
from engine.step.reference import step_vjp
from tests.engine.step.one_step import autograd_vjp, worst_error
from tests.strangers.carried import COUNT, SOUND, WIDTH, ZEROS, moves
from tests.strangers.plain import by_engine, by_trainings, mlp
from tests.strangers.sound_more import DERIVED
from tests.strangers.witnessed import output, routine

ALWAYS = {"a centre", "a queue", "annealed by a number", "a hidden state", "spectral norm"}
IN_SHARDS = [
    pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow)
    for name in (key.removeprefix("carried: ") for key in SOUND)
    # Its batch normalization would be that of each shard, and is refused.
    if name not in ("beside batch norm", "batch norm of several devices")
]


@pytest.mark.parametrize("name", IN_SHARDS)
def test_shards_move_buffers_as_a_loop_that_accumulates_does(name):
    """Each reads what the one before has left, in the run and in its derivative."""
    parted = replace(SOUND[f"carried: {name}"], shards=3)
    wanted, value = by_trainings(parted)

    found, evaluated = by_engine(parted)

    assert evaluated == pytest.approx(value, rel=1e-9)
    assert found == pytest.approx(wanted, rel=1e-6)


def test_shards_are_another_run_than_the_whole_batch_where_the_buffer_is_read_after_it_moved():
    """As in torch: a centre is then that of a shard."""
    parted = replace(SOUND["carried: a centre"], shards=2)

    assert by_trainings(parted)[1] != pytest.approx(
        by_trainings(SOUND["carried: a centre"])[1], rel=1e-6
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a centre", "weights"),
        ("a centre", "counts"),
        ("a queue", "weights"),
        ("a codebook", "counts"),
    ],
)
def test_the_product_in_order_is_autograd_of_the_whole_step(name, kind):
    """At a state and a cotangent of no run, injected examples included."""
    ones = torch.ones(24, dtype=torch.float64)
    kinds = {"weights": engine.ExampleWeights(ones), "counts": engine.Counts(ones, 2)}
    net = SOUND[f"carried: {name}"].parts()[0]
    parted = routine(net, shards=3, metaparameters={kind: kinds[kind]}, optimizer=engine.adamw())
    drawn = torch.Generator().manual_seed(0)

    def noise(row):
        return torch.randn(row.shape, generator=drawn, dtype=row.dtype)

    state = {n: row + 0.1 * noise(row).abs() for n, row in parted.initial_state().items()}
    real = parted.statistics.real
    state[BUFFERS][real:] = parted.initial_state()[BUFFERS][real:]
    z = {name: row + 0.2 * noise(row).abs() for name, row in parted.point().items()}
    cotangent = {name: noise(row) for name, row in state.items()}
    cotangent[BUFFERS][real:] = 0
    expected = autograd_vjp(parted, state, z, 2, cotangent)

    adjoint, shares = step_vjp(parted, state, z, 2, cotangent)

    adjoint[BUFFERS][real:], expected[0][BUFFERS][real:] = 0, 0
    found = {**adjoint, **{f"z {name}": share for name, share in shares.items()}}
    both = {**expected[0], **{f"z {name}": expected[1][name] for name in shares}}
    assert worst_error(found, both) < 1e-12


def test_several_outputs_go_through_shards_together():
    """Each has a cotangent of the buffers of its own."""
    parted = routine(SOUND["carried: a centre"].parts()[0], shards=2)

    found = engine.metagradients(parted, [output, lambda net: 2 * output(net)])

    assert torch.allclose(2 * found[0]["weights"], found[1]["weights"], rtol=1e-12)


def _read_before(net, hidden):
    found = hidden - net.kept
    if net.training:
        net.kept.lerp_(hidden.detach().mean(0), 0.3)
    return found


def _read_when_it_is_known(net, hidden):
    """Couples the examples of the first step, and of no other."""
    if net.training:
        if net.count == 0:
            net.kept.copy_(hidden.detach().mean(0))
        net.count += 1
    return hidden - net.kept


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize(
    "variant",
    [
        moves(_read_before, 0.9, kept=ZEROS),
        SOUND["carried: a queue"],
        SOUND["carried: annealed by a tensor"],
        SOUND["carried: spectral norm"],
        SOUND["carried: teacher by lerp"],
    ],
    ids=["a centre", "a queue", "annealed", "spectral norm", "a teacher"],
)
def test_micro_batches_are_the_product_where_the_loss_reads_what_stood_there_before(
    variant, shards
):
    """The whole batch moves the buffer, whatever goes through the product at a time."""
    variant = replace(variant, shards=shards)
    wanted, _ = by_trainings(variant)

    found, _ = by_engine(variant, micro_batch=3)

    assert found == pytest.approx(wanted, rel=1e-6)


def test_micro_batches_go_with_a_frozen_batch_normalization():
    """It normalizes by constants, and moves nothing."""
    net = mlp(nn.BatchNorm1d(10), nn.Tanh())
    net[1].eval()
    run = routine(net)

    found = engine.metagradient(run, output, micro_batch=3)["weights"]

    expected = engine.metagradient(run, output)["weights"]
    assert float((found - expected).norm() / expected.norm()) < 1e-12


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (
            SOUND["carried: a centre"].parts()[0],
            "reads the buffer 'kept' after the batch has moved it",
        ),
        (mlp(nn.BatchNorm1d(10), nn.Tanh()), "'1' \\(BatchNorm1d\\).*normalizes over it"),
        (
            moves(_read_when_it_is_known, kept=torch.zeros(WIDTH), count=COUNT).parts()[0],
            "gradients of the parts of step 0",
        ),
    ],
    ids=["a centre", "batch norm", "at one step alone"],
)
def test_micro_batches_of_examples_that_are_coupled_are_refused(net, words):
    """A part would read another buffer than the batch did."""
    with pytest.raises(ConfigurationError, match=words):
        engine.metagradient(routine(net), output, micro_batch=3)


def test_a_run_in_shards_is_left_where_the_loop_would_leave_it():
    """Counters count shards."""
    net = SOUND["carried: annealed by a number"].parts()[0]
    parted = routine(net, shards=2)

    state = train_unchecked(parted)

    assert parted.model_at(state).kept == 12


class _Held:
    """A tensor that autograd keeps; how many numbers are kept at once is counted."""

    now = peak = 0

    def __init__(self, tensor):
        self.tensor = tensor
        _Held.now += tensor.numel()
        _Held.peak = max(_Held.peak, _Held.now)

    def __del__(self):
        _Held.now -= self.tensor.numel()


@pytest.mark.slow
def test_memory_is_that_of_a_part():
    """The graph of a gradient is never that of a whole batch."""
    peaks = {}
    columns = (torch.randn(960, 6, dtype=torch.float64), torch.randint(0, 3, (960,)))
    for micro_batch in (None, 60):
        large = routine(
            moves(_read_before, kept=ZEROS).parts()[0],
            examples=columns,
            batch_size=960,
            metaparameters={"w": engine.ExampleWeights(torch.ones(960, dtype=torch.float64))},
        )
        state, z = large.initial_state(), large.point()
        way = make_vjp("reverse-over-reverse", micro_batch=micro_batch)
        way(large, state, z, 0, state)  # looks at what moves, and compares
        gc.collect()
        _Held.now = _Held.peak = 0
        with torch.autograd.graph.saved_tensors_hooks(_Held, lambda held: held.tensor):
            way(large, state, z, 0, state)
        peaks[micro_batch] = _Held.peak

    assert peaks[60] < 0.7 * peaks[None]


def test_losses_with_a_derivative_inside_are_cut_into_pieces():
    """Whether the pieces' losses are the whole's was asked where nobody has a graph."""
    found, _ = by_engine(DERIVED, micro_batch=3)

    assert found == pytest.approx(by_trainings(DERIVED)[0], rel=1e-5)
