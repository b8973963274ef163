"""Outputs of a trained model, whole and in parts."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import engine
from engine.errors import DataError
from engine.routine.outputs import MeanLoss, classification_scores
from engine.witness.leaves import lasting_leaves
from tests.helpers.trainings import problems


def evaluated():
    return problems.model().eval()


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_mean_loss_is_the_mean_whatever_the_chunk(chunk):
    """The last chunk is shorter, so a mean of the chunks' means would be another number."""
    batch = problems.examples(7, seed=1)

    value = MeanLoss(problems.loss, batch, chunk)(evaluated())

    expected = problems.output(evaluated())
    assert value.shape == ()
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-14)


@pytest.mark.parametrize(("chunk", "sizes"), [(3, [3, 3, 1]), (7, [7]), (8, [7])])
def test_parts_hold_each_example_once(chunk, sizes):
    """An example left out, or counted twice, would move the metagradient without a sign."""
    batch, seen = problems.examples(7, seed=1), []

    def loss(model, part):
        seen.append(part[0])
        return problems.loss(model, part)

    parts = list(MeanLoss(loss, batch, chunk).parts())
    total = sum(float(part(evaluated()).detach()) for part in parts)

    assert [len(part) for part in seen] == sizes
    assert torch.equal(torch.cat(seen), batch[0])
    assert total == pytest.approx(float(problems.output(evaluated()).detach()), rel=1e-14)


@pytest.mark.parametrize("chunk", [2, 1000])
def test_classification_scores_are_those_of_the_whole_set(chunk):
    """Scores choose the iterate, so they must not depend on how the examples were cut."""
    net = evaluated()
    inputs, labels = problems.examples(7, seed=1)
    logits = net(inputs).detach()

    scores = classification_scores(net, inputs, labels, chunk=chunk)

    assert scores["loss"] == pytest.approx(float(functional.cross_entropy(logits, labels)))
    assert scores["accuracy"] == sum((logits.argmax(1) == labels).tolist()) / 7


def test_perfect_classifier_has_accuracy_one():
    """The two ends of the scale, by a model that returns its input."""
    inputs = 50 * torch.eye(3)

    right = classification_scores(nn.Identity(), inputs, torch.tensor([0, 1, 2]))
    wrong = classification_scores(nn.Identity(), inputs, torch.tensor([1, 2, 0]))

    assert (right["accuracy"], wrong["accuracy"]) == (1, 0)
    assert right["loss"] < 1e-9
    assert wrong["loss"] == pytest.approx(50)


def test_scores_keep_no_graph():
    """A score that requires a gradient keeps the activations of the whole split alive."""
    net = evaluated()
    grads = []

    def watched(inputs):
        logits = net(inputs)
        grads.append(logits.requires_grad)
        return logits

    class Watched(nn.Module):
        def forward(self, inputs):
            return watched(inputs)

    classification_scores(Watched(), *problems.examples(7, seed=1))

    assert grads == [False]


def test_mean_over_no_examples_is_refused():
    """It would be 0 / 0, or an iterator that ends before it begins."""
    with pytest.raises(DataError, match="no examples"):
        MeanLoss(problems.loss, problems.examples(0))


def test_loss_that_wants_a_gradient_by_its_inputs_leaves_the_held_out_ones_as_they_are():
    """A gradient penalty says requires_grad_() to its batch, which the witness took for weights."""
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 3, generator=drawn)

    def penalized(model, batch):
        (rows,) = batch
        losses = model(rows.requires_grad_()).square().sum(dim=1)
        (slope,) = torch.autograd.grad(losses.sum(), rows, create_graph=True)
        return losses + slope.square().sum(dim=1)

    (part,) = MeanLoss(penalized, (inputs,)).parts()
    model = torch.nn.Linear(3, 1)

    values = [part(model) for _ in range(2)]

    assert torch.equal(*values)
    assert not inputs.requires_grad
    found = lasting_leaves(lambda: part(model), [])
    assert {id(leaf.tensor) for leaf in found} == {id(each) for each in model.parameters()}


class Own:
    """An output of somebody who calls something else ``parts``."""

    def __init__(self, parts):
        self.parts = parts

    def __call__(self, model):
        """Return the output itself."""
        return problems.output(model)


@pytest.mark.parametrize("parts", [[1, 2], lambda: [lambda model: problems.output(model) * 2]])
def test_what_an_output_calls_parts_is_its_own(parts):
    """It was called, and what it returned was differentiated in the place of the output."""
    routine = problems.routine(num_steps=3)

    found = engine.metagradient(routine, Own(parts))

    expected = engine.metagradient(routine, problems.output)
    assert torch.equal(found["weights"], expected["weights"])
