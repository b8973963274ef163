"""What normalizes, compares or draws for a batch, in a run whose batches are cut into shards."""

import pytest
import torch
from torch import nn

import engine
from engine.errors import ConfigurationError
from engine.step.coupling import compares
from engine.witness import witness
from tests.strangers.plain import loss, mlp
from tests.strangers.witnessed import output, routine


def normalized(**settings):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, **settings), nn.Tanh(), nn.Linear(8, 3))
    return net.double()


def compared(model, batch):
    losses = loss(model, batch)
    return losses + (losses - losses.mean()).square()


def five_hardest(model, batch):
    losses = loss(model, batch)
    return torch.where(losses >= losses.topk(4).values[-1], losses, 0)


@pytest.mark.parametrize("settings", [{}, {"momentum": None}, {"track_running_stats": False}])
@pytest.mark.parametrize("options", [{}, {"vjp": "forward-over-reverse"}], ids=str)
def test_derivative_is_that_of_autograd_through_the_whole_run(settings, options):
    """Central differences of a plain loop are beside it in the tests of strangers' code."""
    run = routine(normalized(**settings), shards=2)
    direction = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = []
    for shift in (1e-5, -1e-5):
        z = {"weights": run.point()["weights"] + shift * direction}
        values.append(run.evaluate(output, engine.train(run, z)))

    found = engine.metagradient(run, output, **options)["weights"]

    expected = float(values[0] - values[1]) / 2e-5
    assert float(found @ direction) == pytest.approx(expected, rel=1e-5)


def test_trained_model_has_counted_its_shards():
    """As torch's layer does, which goes by the number where it averages all batches."""
    run = routine(normalized(), shards=4)

    model = run.model_at(engine.train(run))

    assert int(model[1].num_batches_tracked) == 6 * 4


@pytest.mark.slow
def test_check_of_shards_of_two_passes_what_is_sound():
    """Its twins are smaller, and no layer normalizes one example."""
    run = routine(normalized(momentum=None), shards=4, learning_rate=0.05)

    report = engine.check(run, output)

    assert report.verdict in {"pass", "warn"}
    assert "within each of the 4 shards of a batch, of 2 examples" in str(report)


@pytest.mark.parametrize(
    ("model", "of", "words"),
    [
        (normalized, loss, "'1' (BatchNorm1d) normalizes within each of the 2 shards"),
        (mlp, compared, "The loss compares examples, or draws for all of them, and does so within"),
        (mlp, five_hardest, "The loss compares examples"),
        (mlp, loss, ""),
    ],
)
def test_witness_says_what_goes_by_a_shard_alone(model, of, words):
    """Who has set shards to save memory may not want it."""
    run = routine(model(), loss=of, shards=2)

    note = witness.testify(run, [output], run.point()).shards

    assert words in note
    assert bool(note) == bool(words)


def test_loss_that_fails_with_few_examples_compares_them():
    """And one that fails with the whole shard, too, fails as it does there."""
    assert compares(routine(mlp(), loss=five_hardest))
    assert not compares(routine(mlp()))
    with pytest.raises(RuntimeError, match="out of range"):
        compares(routine(mlp(), loss=five_hardest, shards=4))


def test_injected_candidates_of_a_loss_that_compares_are_refused_in_shards_too():
    """Nobody says in which shard they would be."""
    counts = engine.Counts(torch.ones(24, dtype=torch.float64), 2)
    run = routine(mlp(), loss=compared, shards=2, metaparameters={"counts": counts})

    with pytest.raises(ConfigurationError, match="in which batch a candidate's loss is injected"):
        engine.metagradient(run, output)


def test_micro_batches_of_what_normalizes_are_refused_also_where_one_example_is_left():
    """Torch's layer fails there, in words that tell of training."""
    run = routine(normalized(), shards=2)

    with pytest.raises(ConfigurationError, match=r"'1' \(BatchNorm1d\) draws noise .* or normal"):
        engine.metagradient(run, output, micro_batch=3)


def padded(samples):
    """Pad texts to the longest of their batch, as tokenizers do."""
    texts, labels = zip(*samples, strict=True)
    return nn.utils.rnn.pad_sequence(texts, batch_first=True), torch.tensor(labels)


def averaged(model, batch):
    """Average over the padding as well, so that an example depends on the longest beside it."""
    return nn.functional.cross_entropy(model(batch[0].mean(1)), batch[1], reduction="none")


@pytest.mark.parametrize(("shards", "counted"), [(1, True), (2, False)])
def test_loss_that_reads_the_padding_of_its_batch_compares_examples(shards, counted):
    """Halves that are cut out of one padded batch would not show it."""
    drawn = torch.Generator().manual_seed(0)
    texts = [
        (torch.randn(2 + number % 5, 6, generator=drawn, dtype=torch.float64), number % 3)
        for number in range(24)
    ]
    ones = torch.ones(24, dtype=torch.float64)
    kinds = {"z": engine.Counts(ones, 2) if counted else engine.ExampleWeights(ones)}
    run = routine(
        mlp(),
        examples=engine.collated(texts, padded),
        loss=averaged,
        shards=shards,
        metaparameters=kinds,
    )

    assert compares(run)
    if counted:
        with pytest.raises(ConfigurationError, match="in which batch a candidate's loss is"):
            engine.metagradient(run, output)
    else:
        assert "The loss compares examples" in witness.testify(run, [output], run.point()).shards
