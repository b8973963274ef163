"""Losses whose examples are compared with their batch: weights, injection, and what is refused."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import engine
from engine.applications.comparisons.baselines import (
    candidate_batches,
    example_losses,
    gradient_cosines,
)
from engine.errors import ConfigurationError, WitnessError
from engine.metaparameters.counts import Counts
from engine.metaparameters.scalars import Scalars
from engine.metaparameters.weights import ExampleWeights
from engine.problems.pairs.loss import ContrastiveLoss
from engine.replay.batched import train_many
from engine.replay.refusals.first_step import check_routine
from engine.witness.twins import exact_twin
from tests.helpers.data import pairs

COUNTS = Counts(torch.tensor([1.0] * 16 + [0.0] * 3 + [2.0]).double(), injection_step=3)
KINDS = {
    "weights": ExampleWeights(torch.linspace(0.2, 1.5, 20).double()),
    "weights, some 0": ExampleWeights(torch.tensor([0.0, 1.0] * 10).double()),
    "counts": COUNTS,
    "rate": engine.LearningRatePoints(torch.tensor([-4.0, -4.5]).double(), num_steps=8),
}


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_metagradient_is_that_of_autograd_and_of_central_differences(kind):
    """Pairs are each other's negatives, so each weight acts on the losses of all others too."""
    routine, output = pairs.routine(kind), pairs.output()
    drawn = torch.Generator().manual_seed(3)
    direction = torch.randn(kind.value.shape, generator=drawn, dtype=torch.float64)

    found = engine.metagradient(routine, output, arity=2).gradient["z"]

    _, expected = engine.whole_run_gradient(routine, output)
    assert relative_error(found, expected["z"]) < 1e-12
    # h^2 for truncation, 1e-16 / h for rounding.
    difference = engine.central_difference(routine, output, {"z": direction}, step_size=1e-5)
    assert float(found @ direction) == pytest.approx(difference, rel=1e-6)


def test_metagradient_through_adamw_is_that_of_autograd():
    """CLIP is trained by AdamW; rows of tokens that no caption has get gradients of 0."""
    routine = pairs.routine(COUNTS, optimizer=engine.adamw(eps_root=1e-8), learning_rate=0.02)

    found = engine.metagradient(routine, pairs.output()).gradient["z"]

    _, expected = engine.whole_run_gradient(routine, pairs.output())
    assert relative_error(found, expected["z"]) < 1e-12


def test_each_negative_has_its_share():
    """With the negatives' captions detached the metagradient is another one by far."""

    class Cut(ContrastiveLoss):
        def couple(self, model, embeddings, multiplicity=None):
            images, texts = embeddings.unbind(1)
            similar = model.scale() * images @ texts.detach().T
            own = model.scale() * (images * texts).sum(1)
            return (similar.logsumexp(1) + similar.logsumexp(0)) / 2 - own

    routine, output = pairs.routine(COUNTS), pairs.output()
    whole = engine.metagradient(routine, output).gradient["z"]

    other = replace(routine, loss=Cut())
    cut = engine.metagradient(other, output, witness=False).gradient["z"]

    assert relative_error(cut, whole) > 0.1
    with pytest.raises(WitnessError, match="second derivative"):
        engine.metagradient(other, output)


def test_weight_is_how_often_an_example_stands_in_its_batch():
    """Weight 0 is the batch without it, 2 the batch with two copies: also among the negatives."""
    loss, model = ContrastiveLoss(), pairs.towers()
    images, tokens = pairs.pairs(5)
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0]).double()
    places = torch.tensor([0, 2, 2, 3, 4])

    weighted = (weights * loss(model, (images, tokens), multiplicity=weights)).sum()

    assert weighted.item() == pytest.approx(
        loss(model, (images[places], tokens[places])).sum().item()
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_joining_adds_what_one_more_copy_adds_to_the_batch(weighted):
    """Against the two sums: the joining pair's own loss, and what it does to the others'."""
    loss, model = ContrastiveLoss(), pairs.towers()
    batch, new = model(pairs.pairs(6)), model(pairs.pairs(3, seed=1))
    weights = torch.linspace(0.5, 2.0, 6).double() if weighted else None
    counted = torch.ones(6).double() if weights is None else weights

    found = loss.join(model, batch, new, weights)

    def total(embeddings, weights):
        return (weights * loss.couple(model, embeddings, weights)).sum()

    one = torch.ones(1).double()
    expected = [
        total(torch.cat([batch, each[None]]), torch.cat([counted, one])) - total(batch, counted)
        for each in new
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_injected_weights_enter_step_k_by_what_each_candidate_adds_to_its_batch():
    """Step k at z against the batch's own sum plus z times the rises, candidate by candidate."""
    routine, loss = pairs.routine(COUNTS), ContrastiveLoss()
    z = {"z": torch.linspace(-1, 1, 20).double()}
    params = routine.initial_state()["params"]
    batch = routine.batch_of(routine.order.batch(3))

    found = sum(float(routine.term_loss(params, term, z, 3)) for term in routine.terms(3))

    with torch.no_grad():
        around = loss.embed(routine.model, batch)
        rises = loss.join(routine.model, around, loss.embed(routine.model, pairs.pairs(20)))
        expected = (loss.couple(routine.model, around).sum() + z["z"] @ rises) / 6
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_batched_runs_are_those_of_the_loop():
    """Vmap has the runs as its axis, so that pairs of one run meet no pair of another."""
    routine = pairs.routine(KINDS["weights"])
    points = [{"z": torch.full((20,), w).double()} for w in (0.5, 1.0)]

    batched = train_many(routine, points, together="batched")

    for found, expected in zip(batched, train_many(routine, points, together="loop"), strict=True):
        torch.testing.assert_close(found["params"], expected["params"], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_twin_in_another_number_format_stays_coupled():
    """As an ordinary loss it would inject each candidate among other candidates."""
    twin, output = exact_twin(pairs.routine(COUNTS), pairs.output(), torch.float32)

    injected = [term for term in twin.terms(twin.first_step) if term.purpose[0] == "injected"]

    assert all(term.context is not None for term in injected)
    _, expected = engine.whole_run_gradient(twin, output)
    assert relative_error(engine.metagradient(twin, output).gradient["z"], expected["z"]) < 1e-4


def test_every_candidate_is_scored_once_in_a_batch_of_the_runs_size():
    """A smaller last batch would make its candidates look easy."""
    routine = pairs.routine(COUNTS)

    batches = list(candidate_batches(routine))

    assert {len(indices) for indices, _ in batches} == {6}
    assert sorted(torch.cat([indices[:new] for indices, new in batches]).tolist()) == list(
        range(20)
    )
    losses = example_losses(routine, routine.initial_state())
    indices, new = batches[1]
    batch = routine.batch_of(indices)
    with torch.no_grad():
        expected = routine.loss(routine.model, batch)[:new]
    torch.testing.assert_close(losses[indices[:new]], expected)


def test_gradient_of_a_candidate_is_taken_among_the_others_of_its_batch():
    """A pair alone has the loss 0 whatever the model, and its gradient would be 0."""
    routine, loss = pairs.routine(COUNTS), ContrastiveLoss()
    state = routine.initial_state()

    found = gradient_cosines(routine, pairs.output(), state)

    params = state["params"].requires_grad_()
    (target,) = torch.autograd.grad(routine.call(pairs.output(), params, training=False), params)
    indices, _ = next(iter(candidate_batches(routine)))
    images, tokens = routine.batch_of(indices)

    def loss_of_second(model):
        known = model((images, tokens)).detach()
        own = model((images[1:2], tokens[1:2]))
        return loss.couple(model, torch.cat([known[:1], own, known[2:]]))[1]

    (gradient,) = torch.autograd.grad(routine.call(loss_of_second, params, training=False), params)
    expected = torch.cosine_similarity(gradient, target, dim=0)
    assert float(found[indices[1]]) == pytest.approx(float(expected), rel=1e-9)


def undeclared(model, batch):
    return ContrastiveLoss()(model, batch)


class Mixing(ContrastiveLoss):
    """Embeddings that know the batch."""

    def embed(self, model, batch):
        """Take the mean away."""
        embeddings = model(batch)
        return embeddings - embeddings.mean(0)


REFUSED = {
    "counts of a coupled function": (
        undeclared,
        COUNTS,
        "Write the loss as a CoupledLoss of engine.routine.coupled_loss",
    ),
    "embeddings that mix": (Mixing(), KINDS["weights"], "into couple and join"),
}


@pytest.mark.parametrize(("loss", "kind", "remedy"), REFUSED.values(), ids=REFUSED)
def test_coupling_that_was_not_declared_is_refused(loss, kind, remedy):
    """Candidates would be injected among whichever others are in their chunk, without an error."""
    routine = replace(pairs.routine(kind), loss=loss)

    with pytest.raises(ConfigurationError, match=remedy):
        check_routine(routine, [pairs.output()], routine.point())


def test_metaparameter_that_a_coupled_loss_cannot_be_handed_is_refused():
    """It would reach the batch's loss and not the injected ones."""
    with pytest.raises(ConfigurationError, match="takes nothing besides the batch"):
        pairs.routine(Scalars.of(torch.float64, label_smoothing=0.1))


def test_parameter_of_the_loss_alone_is_trained():
    """The temperature is read by couple and join, not by the embeddings."""
    routine = pairs.routine(KINDS["weights"])

    final = engine.train(routine)

    before, after = (
        routine.layout.views(s["params"])["log_scale"] for s in (routine.initial_state(), final)
    )
    assert isinstance(routine.model, nn.Module)
    assert after != before
