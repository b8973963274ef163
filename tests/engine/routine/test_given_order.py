"""Orders and samples as scripts have them: samplers, curricula, collated and padded batches."""

from collections import UserDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, WeightedRandomSampler

import engine
from engine import Counts, collated, metagradient
from engine.errors import ConfigurationError, DataError
from engine.replay.plain_training import train_unchecked
from engine.witness.twins import exact_twin, long_twin
from tests.helpers.trainings import routines
from tests.helpers.trainings.loops import Loop

STEPS, BATCH = 10, 16


def curriculum() -> list[list[int]]:
    """Examples 0 to 31 first, then all; a batch may hold one twice."""
    drawn = torch.Generator().manual_seed(3)
    return [
        torch.randint(32 if step < 5 else routines.NUM_EXAMPLES, (BATCH,), generator=drawn).tolist()
        for step in range(STEPS)
    ]


def run(**changes):
    return routines.routine(**{"num_steps": STEPS, **changes})


def sampled(seed: int) -> BatchSampler:
    drawn = torch.Generator().manual_seed(seed)
    return BatchSampler(
        RandomSampler(range(routines.NUM_EXAMPLES), generator=drawn), BATCH, drop_last=True
    )


@pytest.mark.parametrize(
    "order",
    [
        curriculum,
        lambda: torch.tensor(curriculum()),
        lambda: np.array(curriculum()),
        lambda: curriculum().__getitem__,
        lambda: [torch.tensor(row) for row in curriculum()],
    ],
    ids=["lists", "tensor", "array", "function", "tensors"],
)
def test_a_given_order_is_what_the_loop_draws(order):
    """The same examples in the same steps as a script's own loop, and the same metagradient."""
    own = run(order=order())
    batches = [torch.tensor(row) for row in curriculum()]
    loop = Loop(
        lambda net: [torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0.02)]
    )
    v = torch.randn(routines.NUM_EXAMPLES, generator=torch.Generator().manual_seed(1)).double()
    loop.run(batches, torch.ones(routines.NUM_EXAMPLES).double(), routines.mlp())

    assert float((train_unchecked(own)["params"] - loop.states[-1]).abs().max()) < 1e-13
    found = float(metagradient(own, routines.output)["weights"] @ v)
    above, below = (loop.run(batches, 1 + h * v, routines.mlp()) for h in (1e-5, -1e-5))
    assert found == pytest.approx((above - below) / 2e-5, rel=1e-6)


def test_a_batch_sampler_is_read_once_pass_after_pass():
    """A loader that shuffles gives other batches in each epoch; a run has those of one reading."""
    own, same, expected = run(order=sampled(0)), sampled(0), []
    for _ in range(2):
        expected += list(same)

    found = [own.order.batch(step).tolist() for step in range(STEPS)]

    assert found == expected[:STEPS]
    again = replace(own, seed=5)
    assert [again.order.batch(step).tolist() for step in range(STEPS)] == found


def test_a_sampler_of_indices_is_that_of_a_loader():
    """As DataLoader(sampler=..., drop_last=True) would batch them, with replacement or without."""

    def sampler() -> WeightedRandomSampler:
        drawn = torch.Generator().manual_seed(4)
        weights = torch.linspace(1, 2, routines.NUM_EXAMPLES).tolist()
        return WeightedRandomSampler(weights, 90, generator=drawn)

    loader = DataLoader(
        torch.arange(routines.NUM_EXAMPLES),  # pyright: ignore[reportArgumentType]
        sampler=sampler(),
        batch_size=BATCH,
        drop_last=True,
    )
    expected = [batch.tolist() for _ in range(2) for batch in loader]

    own = run(order=sampler())

    assert [own.order.batch(step).tolist() for step in range(STEPS)] == expected[:STEPS]


@pytest.mark.parametrize("twin", [long_twin, lambda r: exact_twin(r, routines.output)[0]])
def test_twins_keep_the_order(twin):
    """The preflight trains a few steps of the run, not of another one."""
    own = run(order=curriculum(), num_steps=STEPS)

    short = twin(own)

    kept = [step * STEPS // short.num_steps for step in range(short.num_steps)]
    found = [short.order.batch(step).tolist() for step in range(short.num_steps)]
    assert found == [curriculum()[step][: short.batch_size] for step in kept]
    assert engine.check(own, routines.output).verdict != "refuse"


REFUSED = {
    "too few": (lambda: curriculum()[:4], "batches for 4 steps, but num_steps is 10"),
    "other batches": (lambda: [row[:5] for row in curriculum()], "drop_last=True"),
    "short batch": (
        lambda: BatchSampler(range(40), BATCH, drop_last=False),
        "of shape \\(8,\\) for step 2",
    ),
    "no such example": (lambda: [[96] * BATCH] * STEPS, "gives example 96 for step 0"),
    "negative": (lambda: [[-1] * BATCH] * STEPS, "gives example -1"),
    "a word": (lambda: "shuffle", "Hand in a list"),
    "words": (lambda: [["a"] * BATCH] * STEPS, "Hand in a list"),
    "fractions": (lambda: torch.rand(STEPS, BATCH), "whole numbers"),
    "random": (lambda: lambda step: torch.randint(96, (BATCH,)), "two batches"),
    "empty": (lambda: [], "no batch of 16 examples"),
    "short": (lambda: torch.utils.data.SequentialSampler(range(9)), "no batch of 16 examples"),
    "loader": (
        lambda: DataLoader(torch.zeros(95), 16),
        "a DataLoader of 95 examples, but the run has 96",
    ),
    "loader that leaves a rest": (lambda: DataLoader(torch.zeros(96), 36), "drop_last=True"),
    "loader without batches": (lambda: DataLoader(torch.zeros(96), None), "without batches"),
}


@pytest.mark.parametrize("generator", [True, False], ids=["own generator", "torch's"])
def test_a_loader_is_an_order_with_the_batches_that_it_gives(generator):
    """It draws a number from its generator at each pass, which its sampler alone does not."""

    def loader():
        torch.manual_seed(4)
        own = torch.Generator().manual_seed(3) if generator else None
        data = torch.arange(routines.NUM_EXAMPLES)
        return DataLoader(data, BATCH, shuffle=True, drop_last=True, generator=own)

    own = run(order=loader())
    script = loader()
    given = [row for _ in range(3) for row in script]

    assert len(given) > STEPS > len(script)
    for step in range(STEPS):
        assert torch.equal(own.order.batch(step), given[step])
    sampler = run(order=loader().batch_sampler)
    assert not torch.equal(sampler.order.batch(0), own.order.batch(0))


@pytest.mark.parametrize("name", REFUSED)
def test_an_order_that_is_none_is_refused(name):
    """An index that wraps around, or a short batch, would train on something else in silence."""
    make, message = REFUSED[name]

    with pytest.raises((ConfigurationError, DataError), match=message):
        run(order=make())


def test_counts_and_a_given_order_are_two_answers():
    """Both say how often an example is used."""
    counts = Counts(torch.ones(routines.NUM_EXAMPLES).double(), injection_step=4)

    with pytest.raises(ConfigurationError, match="which a given order says already"):
        run(order=curriculum(), metaparameters={"counts": counts})


class Sequences(Dataset):
    """Token sequences of three to nine tokens, with a label."""

    def __init__(self) -> None:
        drawn = torch.Generator().manual_seed(0)
        lengths = torch.randint(3, 10, (routines.NUM_EXAMPLES,), generator=drawn)
        self.rows = [torch.randint(1, 20, (int(n),), generator=drawn) for n in lengths]
        self.labels = torch.randint(3, (len(self.rows),), generator=drawn)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):
        return {"ids": self.rows[index], "label": int(self.labels[index])}


def pad(rows):
    """What a tokenizer's collator gives: a mapping that is no dict."""
    ids = pad_sequence([row["ids"] for row in rows], batch_first=True)
    return UserDict(ids=ids, labels=torch.tensor([row["label"] for row in rows]))


class Bag(nn.Module):
    """Mean of the embeddings of what is no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, ids):
        """Return three logits."""
        mask = (ids > 0)[..., None].double()
        return self.head(torch.tanh((self.embed(ids) * mask).sum(1) / mask.sum(1)))


def bag_loss(model, batch):
    return nn.functional.cross_entropy(model(batch["ids"]), batch["labels"], reduction="none")


@pytest.mark.slow
def test_samples_of_variable_length_are_collated():
    """Padded batch by batch, as a loader does; padded all together they give the same numbers."""
    data = Sequences()
    whole = pad([data[i] for i in range(len(data))])
    settings = {"model": routines.seeded_model(Bag), "loss": bag_loss, "learning_rate": 0.5}

    def output(model):
        return bag_loss(model, whole).mean()

    parted = run(examples=collated(data, pad), **settings)
    together = run(examples=dict(whole), **settings)

    widths = {parted.batch_of(parted.order.batch(step))["ids"].shape[1] for step in range(STEPS)}
    assert len(widths) > 1  # padded to the batch's own length
    assert type(parted.batch_of(torch.tensor([0, 1]))) is dict
    first, second = (metagradient(each, output)["weights"] for each in (parted, together))
    assert float((first - second).norm() / second.norm()) < 1e-12
    small = metagradient(parted, output, micro_batch=4)["weights"]
    assert float((small - second).norm() / second.norm()) < 1e-12
    assert engine.check(parted, output).verdict != "refuse"


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (lambda: collated(Sequences(), "pad"), "collate_fn is a str"),
        (lambda: collated(iter([1]), pad), "gives examples once"),
        (lambda: collated([], pad), "no training examples"),
        (lambda: collated(Sequences(), torch.stack), "collate_fn makes no batch"),
        (lambda: DataLoader(Sequences(), 16, collate_fn=pad), "engine.collated"),
    ],
)
def test_what_cannot_be_collated_is_refused(examples, message):
    """Before training, in words that name the function."""
    settings = {"model": routines.seeded_model(Bag), "loss": bag_loss}

    with pytest.raises(DataError, match=message):
        run(examples=examples(), **settings)
