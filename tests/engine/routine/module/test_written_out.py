"""Functions that torch differentiates once, beside torch's own values and trainings by torch."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from engine.errors import UndifferentiableError
from engine.routine.module.operations import replaced_functions
from engine.routine.module.written_out import WRITTEN_OUT
from tests.strangers.plain import NUM_EXAMPLES, Variant, around, by_engine, by_trainings, mlp

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


def _unpooled(axes):
    """Maxima of each window where they were, in one, two or three axes."""
    pool, unpool = (getattr(F, f"max_{word}{axes}d") for word in ("pool", "unpool"))
    shape = {1: (1, 16), 2: (1, 4, 4), 3: (1, 2, 2, 4)}[axes]

    def function(hidden):
        found, places = pool(hidden.view(-1, *shape), 2, return_indices=True)
        return unpool(found, places, 2).flatten(1)

    return around(function)


def _unpooled_into_more(hidden, size=2, stride=2):
    """One batch axis less, and a layer."""
    rows = hidden.view(-1, 4, 4)
    found, places = F.max_pool2d(rows, size, stride=stride, return_indices=True)
    return nn.MaxUnpool2d(size, stride=stride)(found, places, output_size=(4, 4)).flatten(1)


def _segments(reduce):
    sizes = torch.tensor([3, 1, 5, 7])

    def function(hidden):
        return torch.segment_reduce(hidden.T.contiguous(), reduce, lengths=sizes).T

    return around(function)


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
    "maxima put back, one axis": _unpooled(1),
    "maxima put back, two axes": _unpooled(2),
    "maxima put back, three axes": _unpooled(3),
    "maxima put back by a layer": around(_unpooled_into_more),
    "sums of segments": _segments("sum"),
    "means of segments": _segments("mean"),
    "maxima of segments": _segments("max"),
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


@contextmanager
def _torch_as_it_comes():
    """Without the alarm of operations whose bits may not repeat."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    yield
    torch.set_deterministic_debug_mode(before)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_that_calls_it_is_right(name):
    """The reference calls torch's own function, and the witness has compared a step of it."""
    variant = VARIANTS[name]
    with _torch_as_it_comes():
        wanted, value = by_trainings(variant)
        found, output = by_engine(variant)  # which sets it itself

    assert output == pytest.approx(value, rel=1e-8)
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-9)


def _chances(*shape):
    drawn = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=drawn, dtype=torch.float64).log_softmax(-1)


def _drawn(function, *args, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return function(*args, **options)


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
    "an empty segment": lambda: torch.segment_reduce(
        _chances(4, 3), "sum", lengths=torch.tensor([2, 0, 2])
    ),
    "segments of columns": lambda: torch.segment_reduce(
        _chances(2, 4), "mean", lengths=torch.tensor([[1, 3], [2, 2]]), axis=1
    ),
    "segments from a start": lambda: torch.segment_reduce(
        _chances(4, 3), "min", lengths=torch.tensor([1, 3]), initial=-5
    ),
    "maxima of channels": lambda: F.max_unpool2d(
        *F.max_pool2d(_chances(2, 3, 5, 6), 2, return_indices=True), 2, output_size=(5, 6)
    ),
    "hard choices": lambda: _drawn(F.gumbel_softmax, _chances(3, 4), hard=True),
    "hard choices of columns": lambda: _drawn(
        F.gumbel_softmax, _chances(3, 4), tau=0.5, hard=True, dim=0
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_values_are_torchs(name):
    """Also of calls that a training makes rarely."""
    with _torch_as_it_comes():
        wanted = CALLS[name]()

    with replaced_functions(WRITTEN_OUT):
        found = CALLS[name]()

    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-14)


def test_maxima_that_share_a_place_are_refused_by_name():
    """Torch's gradient of them is no derivative: it counts the one that they share twice."""
    with _torch_as_it_comes(), pytest.raises(UndifferentiableError, match="windows that overlap"):
        by_engine(around(lambda hidden: _unpooled_into_more(hidden, size=3, stride=1)))
