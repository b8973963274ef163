"""Functions that torch differentiates once, beside torch's own values and trainings by torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from engine.routine.module.operations import replaced_functions
from engine.routine.module.written_out import WRITTEN_OUT
from tests.strangers.plain import NUM_EXAMPLES, Variant, by_engine, by_trainings, mlp

CORNERS = torch.eye(3, dtype=torch.float64)


def _sequences(normalized=True):
    class Heard(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 10), nn.Linear(10, 3)

        def forward(self, inputs):
            rows = inputs.view(-1, 2, 3).repeat(1, 3, 1)
            found = self.last(torch.tanh(self.first(rows))).transpose(0, 1)
            return found.log_softmax(2) if normalized else found

    return lambda: Heard().double()


def _connected(net, batch, **options):
    labels = torch.stack([1 + batch[1] % 2, torch.ones_like(batch[1])], 1)
    sizes = batch[1] % 3
    return F.ctc_loss(net(batch[0]), labels, 4 + batch[1], sizes, reduction="none", **options)


def _joined(net, batch):
    labels = torch.cat([torch.full((1 + int(k) % 2,), 1) for k in batch[1]])
    sizes = tuple(1 + int(k) % 2 for k in batch[1])
    return nn.CTCLoss(reduction="none")(net(batch[0]), labels, (6,) * len(sizes), sizes)


def _impossible(net, batch):
    labels = (batch[1] % 2)[:, None].expand(-1, 3)
    return F.ctc_loss(
        net(batch[0]),
        labels,
        4 + batch[1],
        torch.full_like(batch[1], 3),
        blank=2,
        zero_infinity=True,
        reduction="none",
    )


def _tokens():
    drawn = torch.Generator().manual_seed(0)
    return tuple(
        torch.randint(0, 7, (2 * NUM_EXAMPLES, *rest), generator=drawn) for rest in ((5,), ())
    )


class _Bag(nn.Module):
    """Words in bags, in rows or one after the other."""

    def __init__(self, flat, **options):
        super().__init__()
        self.bag, self.last, self.flat = nn.EmbeddingBag(7, 5, **options), nn.Linear(5, 7), flat

    def forward(self, tokens):
        places = torch.arange(len(tokens)) * 5
        given = (tokens.flatten(), places) if self.flat else (tokens,)
        return self.last(torch.tanh(self.bag(*given)))


def _by(function):
    return Variant(mlp, loss=lambda _: lambda net, batch: function(net(batch[0]), batch[1]))


def _nearest(p):
    return _by(lambda h, y: F.cross_entropy(-torch.cdist(h, CORNERS, p=p), y, reduction="none"))


def _margins(h, y):
    weight = torch.tensor([0.5, 1, 2], dtype=torch.float64)
    return F.multi_margin_loss(h, y, p=2, margin=0.7, weight=weight, reduction="none")


VARIANTS = {
    "alignments": Variant(_sequences(), loss=lambda _: _connected),
    "alignments of what does not sum to one": Variant(
        _sequences(normalized=False), loss=lambda _: _connected
    ),
    "alignments of labels in one row": Variant(_sequences(), loss=lambda _: _joined),
    "alignments, some impossible": Variant(_sequences(), loss=lambda _: _impossible),
    "distances to corners": _nearest(2.0),
    "distances, p = 1": _nearest(1.0),
    "distances, largest": _nearest(float("inf")),
    "distances to itself": _by(
        lambda h, y: torch.cdist(h, h).mean(1) + F.cross_entropy(h, y, reduction="none")
    ),
    "distances of all pairs": _by(
        lambda h, y: F.cross_entropy(h, y, reduction="none") + F.pdist(h, p=3).mean()
    ),
    "margins": _by(lambda h, y: F.multi_margin_loss(h, y, reduction="none")),
    "squared margins with weights": _by(_margins),
} | {
    f"bags by {mode}, padding {padding}, {'flat' if flat else 'rows'}": Variant(
        lambda mode=mode, padding=padding, flat=flat: _Bag(
            flat, mode=mode, padding_idx=padding
        ).double(),
        examples=_tokens,
    )
    for mode in ("sum", "mean", "max")
    for padding in (None, 1)
    for flat in (False, True)
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_that_calls_it_is_right(name):
    """The reference calls torch's own function, and the witness has compared a step of it."""
    variant = VARIANTS[name]
    wanted, value = by_trainings(variant)

    found, output = by_engine(variant)

    assert output == pytest.approx(value, rel=1e-8)
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-9)


def _chances(*shape):
    drawn = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=drawn, dtype=torch.float64).log_softmax(-1)


CALLS = {
    "a sequence by itself": lambda: F.ctc_loss(_chances(5, 4), torch.tensor([1, 2]), (5,), (2,)),
    "mean over sequences": lambda: F.ctc_loss(
        _chances(5, 2, 4), torch.tensor([[1, 2], [3, 3]]), (5, 4), (2, 1)
    ),
    "none is possible": lambda: F.ctc_loss(
        _chances(2, 1, 4), torch.tensor([[1, 1]]), (2,), (2,), reduction="sum"
    ),
    "an empty bag": lambda: F.embedding_bag(
        torch.tensor([1, 2, 0]), _chances(3, 4), torch.tensor([0, 2, 2, 3])
    ),
    "last offset": lambda: F.embedding_bag(
        torch.tensor([1, 2, 0]),
        _chances(3, 4),
        torch.tensor([0, 2, 3]),
        mode="max",
        include_last_offset=True,
    ),
    "weights of samples": lambda: F.embedding_bag(
        torch.tensor([[1, 2], [0, 0]]),
        _chances(3, 4),
        mode="sum",
        per_sample_weights=_chances(2, 2),
    ),
    "many rows": lambda: torch.cdist(_chances(30, 3), _chances(4, 3)),
    "batches": lambda: torch.cdist(_chances(2, 1, 3, 4), _chances(5, 2, 4), p=1.5),
    "one example": lambda: F.multi_margin_loss(_chances(4), torch.tensor(2)),
    "all pairs": lambda: torch.pdist(_chances(5, 3)),
}


@pytest.mark.parametrize("name", CALLS)
def test_values_are_torchs(name):
    """Also of calls that a training makes rarely."""
    wanted = CALLS[name]()

    with replaced_functions(WRITTEN_OUT):
        found = CALLS[name]()

    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-14)
