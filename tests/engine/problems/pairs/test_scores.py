"""Retrieval on held-out pairs, against counting by hand."""

import pytest
import torch
from torch import nn

from engine.problems.pairs.loss import ContrastiveLoss
from engine.problems.pairs.scores import retrieval_scores
from engine.problems.pairs.splits import Pairs


class Given(nn.Module):
    """Two towers that know the vectors."""

    def forward(self, batch):
        """Return them as they are."""
        images, tokens = batch
        return torch.stack([images.flatten(1), nn.functional.one_hot(tokens[:, 0], 3).double()], 1)

    def scale(self):
        """One."""
        return torch.tensor(1.0).double()


def pairs():
    vectors = [[3, 1, 0], [0, 3, 1], [0, 2, 1], [1, 0, 3]]  # of images; captions are unit vectors
    return Pairs(
        torch.tensor(vectors).double().reshape(4, 1, 1, 3),
        torch.tensor([[0], [1], [2], [1]]),
        torch.tensor([0, 1, 1, 1]),
        ("a", "b", "c", "b"),
    )


def test_scores_are_those_counted_by_hand():
    """Images 0, 1 and 2 find a caption of their group, 3 finds c, which is of its group too."""
    scores = retrieval_scores(Given(), pairs(), batch_size=2)

    # Captions b (twice) see images 1, 2, 0 first: two of three. c sees 3, 1, 2: all. a sees 0.
    assert scores["accuracy"] == 1.0
    assert scores["text_to_image"] == pytest.approx((1 + 2 / 3 + 1 + 2 / 3) / 4)


def test_loss_is_that_of_batches_of_the_trainings_size():
    """Among more negatives the same model would have a higher loss."""
    given, batches = pairs(), ([0, 1], [2, 3])
    loss = ContrastiveLoss()

    scores = retrieval_scores(Given(), given, batch_size=2)

    expected = [loss(Given(), (given.inputs[b], given.labels[b])).mean() for b in batches]
    assert scores["loss"] == pytest.approx(float(sum(expected)) / 2)
