"""Complex parameters: two real numbers each in the flat vector, and in every other format too."""

import pytest
import torch
from torch import nn

import engine
from engine.errors import EngineError
from engine.replay.batched import train_many
from engine.replay.query_basis import query_basis
from engine.routine.layout import Layout
from engine.routine.number_format import in_format
from tests.strangers.complexes import Operator, Recurrent, Sizes
from tests.strangers.plain import (
    BATCH,
    NUM_EXAMPLES,
    Variant,
    by_engine,
    by_trainings,
    data,
    direction,
    loss,
)

HELD = tuple(column[NUM_EXAMPLES:] for column in data())


def mean_loss(model):
    """The loss of the held-out half, in the model's own format."""
    inputs, labels = HELD
    dtype = next(model.parameters()).dtype.to_real()
    return loss(model, (inputs.to(dtype), labels)).mean()


def routine(model, optimizer=None, **changes):
    """A run of a model in its own number format."""
    dtype = next(model.parameters()).dtype.to_real()
    inputs, labels = (column[:NUM_EXAMPLES] for column in data())
    given = {
        "optimizer": engine.sgd() if optimizer is None else optimizer,
        "learning_rate": 0.1,
        "num_steps": 6,
        "batch_size": BATCH,
        "metaparameters": {"weights": engine.ExampleWeights(torch.ones(NUM_EXAMPLES, dtype=dtype))},
    }
    return engine.Routine(model, loss, (inputs.to(dtype), labels), **(given | changes))


def made(kind):
    """A new module in float64, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind().double()


def single(module):
    """Convert a module to float32 and complex64."""
    return module._apply(
        lambda t: t.to(torch.complex64) if t.is_complex() else t.float()  # a frozen factor, too
    )


def test_layout_gives_back_what_it_was_given():
    """Parts at odd places, without axes and without elements."""
    drawn = {
        "odd": torch.randn(3),
        "matrix": torch.randn(2, 3, dtype=torch.cfloat),
        "one": torch.randn((), dtype=torch.cfloat),
        "none": torch.zeros(0, dtype=torch.cfloat),
        "conjugate": torch.randn(4, dtype=torch.cfloat).conj(),
    }
    layout = Layout.of(drawn, with_complex=True)

    flat = layout.flatten(drawn)
    views = layout.views(flat)

    assert flat.shape == (layout.size,) == (3 + 12 + 2 + 8,)
    assert all(torch.equal(views[name], tensor) for name, tensor in drawn.items())
    assert layout.locate(3 + 2 * 4 + 1) == "matrix[1, 1].imag"
    assert layout.locate(2) == "odd[2]"


OPTIMIZERS = {
    "adam": (engine.adam(eps_root=0.0), lambda p: torch.optim.Adam(p, 0.1)),
    "adamw": (
        engine.adamw(eps_root=0.0, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
    ),
    "rmsprop": (engine.rmsprop(eps_root=0.0), lambda p: torch.optim.RMSprop(p, 0.1)),
    "clipped": (engine.sgd(0.9, clip_norm=0.1), lambda p: torch.optim.SGD(p, 0.1, 0.9)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_them_as_torchs_own_does(name):
    """Torch's look at a complex number as at two, and clip by the size of all."""
    own, theirs = OPTIMIZERS[name]
    run = routine(made(Recurrent), own)
    plain = made(Recurrent)
    optimizer, inputs = theirs(plain.parameters()), data()
    for step in range(6):
        rows = run.order.batch(step)
        optimizer.zero_grad()
        loss(plain, tuple(column[rows] for column in inputs)).mean().backward()
        if name == "clipped":
            nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        optimizer.step()

    trained = run.model_at(engine.train(run))

    for key, tensor in plain.state_dict().items():
        assert torch.allclose(trained.state_dict()[key], tensor, rtol=1e-9), key


def test_an_optimizer_of_matrices_leaves_them_to_the_other_one():
    """A complex matrix has two axes as well, and no polynomial of torch's Muon is of such."""
    mixed = nn.Sequential(made(Sizes), nn.Linear(3, 3).double())
    by_muon = routine(mixed, engine.muon(rest=engine.adamw()), num_steps=1)
    by_adamw = routine(mixed, engine.adamw(), num_steps=1)

    one, other = (run.layout.views(engine.train(run)["params"]) for run in (by_muon, by_adamw))

    assert torch.equal(one["0.weight"], other["0.weight"])
    assert not torch.equal(one["1.weight"], other["1.weight"])


@pytest.mark.parametrize(
    "options",
    [{"micro_batch": 3}, {"vjp": "forward-over-reverse"}, {"vjp": "batched"}, {"arity": 2}],
    ids=str,
)
def test_every_way_to_reverse_is_right(options):
    """The central difference is of two trainings in place."""
    variant = Variant(lambda: made(Operator), rate=0.3)

    found, value = by_engine(variant, **options)

    wanted, output = by_trainings(variant)
    assert value == pytest.approx(output, rel=1e-9)
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(Operator, marks=pytest.mark.slow), Recurrent],
    ids=lambda kind: kind.__name__,
)
def test_the_checks_of_a_run_in_float32_are_made_in_float64(kind):
    """Frozen complex tensors keep their imaginary parts; what a call makes is widened."""
    run = routine(single(made(kind)))
    twin = in_format(run, torch.float64)
    wide = routine(made(kind))

    report = engine.check(run, mean_loss, num_directions=3)

    assert {tensor.dtype for tensor in twin.model.state_dict().values()} <= {
        torch.float64,
        torch.complex128,
    }
    exact = engine.metagradient(wide, mean_loss)["weights"]
    assert torch.allclose(engine.metagradient(twin, mean_loss)["weights"], exact, atol=1e-6)
    refused = [each for each in report.checks if each.verdict.value == "refuse"]
    assert [each.name for each in refused if each.name != "training"] == []


def test_runs_that_are_trained_at_once_are_those_by_themselves():
    """Several flat vectors go through a step together."""
    run = routine(made(Recurrent))
    points = [torch.ones(NUM_EXAMPLES).double(), 1 + 0.1 * direction()]
    runs = [run.with_metaparameters({"weights": point}) for point in points]

    together = train_many(run, [{"weights": point} for point in points], together="batched")

    for one, state in zip(runs, together, strict=True):
        assert torch.allclose(engine.train(one)["params"], state["params"], rtol=1e-12)


def test_a_basis_of_queries_knows_them():
    """Components along a direction are those of the flat vector."""
    run = routine(made(Sizes))
    basis = query_basis(run, [mean_loss], size=1)

    found = basis.query(mean_loss).gradient

    assert torch.allclose(found["weights"], engine.metagradient(run, mean_loss)["weights"])


def test_what_a_forward_pass_writes_into_one_is_refused():
    """A call has a copy, from which nothing would come back."""

    class Bounded(Sizes):
        def forward(self, inputs):
            self.weight.data.div_(self.weight.abs().clamp(min=1))
            return super().forward(inputs)

    with pytest.raises(EngineError, match="'weight' in place"):
        engine.metagradient(routine(made(Bounded)), mean_loss)
