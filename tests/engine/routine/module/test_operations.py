"""Operations in another form: the same function, with a second derivative that is right."""

import pytest
import torch
from torch import nn
from torch.autograd import gradgradcheck
from torch.autograd.gradcheck import GradcheckError
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import engine
from engine.routine.module.operations import (
    WrittenOutWeightNorm,
    torchs_own,
    without_checkpointing,
)


def leaf(*shape, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=drawn, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize(("shape", "dim"), [((4, 3), 0), ((4, 3), 1), ((4, 3), -1), ((5,), 0)])
def test_weight_norm_is_torchs_with_a_right_second_derivative(shape, dim):
    """Torch's own operation fails the same check."""
    v = leaf(*shape)
    g = torch.norm_except_dim(v.detach(), 2, dim).clone().requires_grad_()
    plain = torch._weight_norm(v, g, dim)

    with WrittenOutWeightNorm():
        torch.testing.assert_close(torch._weight_norm(v, g, dim), plain, rtol=1e-14, atol=1e-15)
        assert gradgradcheck(lambda v, g: torch._weight_norm(v, g, dim), (v, g))


def test_torchs_own_weight_norm_is_still_wrong():
    """Should a later torch mend it, the formula can go."""
    layer = parametrizations.weight_norm(nn.Linear(3, 4)).double()
    g, v = (p.detach().clone().requires_grad_() for p in layer.parametrizations.weight.parameters())

    with pytest.raises(GradcheckError):
        gradgradcheck(lambda v, g: torch._weight_norm(v, g, 0), (v, g))


def test_groups_are_multiplied_in_float64():
    """Rows of each group by the matrix of the group; torch has no kernel for it."""
    rows, matrices = leaf(6, 3), leaf(3, 3, 2, seed=1)
    stops = torch.tensor([2, 2, 5], dtype=torch.int32)
    expected = torch.cat([rows[:2] @ matrices[0], rows[2:5] @ matrices[2], torch.zeros(1, 2)])

    with torchs_own():
        found = functional.grouped_mm(rows, matrices, offs=stops)
        torch.testing.assert_close(found, expected)
        assert gradgradcheck(lambda a, b: functional.grouped_mm(a, b, offs=stops), (rows, matrices))


def test_groups_in_float32_are_torchs_own():
    """The bits of runs that torch can do are its."""
    rows, matrices = torch.randn(4, 16), torch.randn(2, 16, 16)
    stops = torch.tensor([1, 4], dtype=torch.int32)
    expected = functional.grouped_mm(rows, matrices, offs=stops)

    with torchs_own():
        assert torch.equal(functional.grouped_mm(rows, matrices, offs=stops), expected)


def test_what_is_checkpointed_is_computed_once_where_that_is_asked():
    """A graph over several steps could not compute it again at the right parameters."""
    calls = []

    def function(x):
        calls.append(1)
        return x.sin()

    x = leaf(3)
    with without_checkpointing():
        value = checkpoint(function, x, use_reentrant=False).sum()
    torch.autograd.grad(value, x)

    assert len(calls) == 1


class Checkpointed(nn.Module):
    """A net whose middle is computed again in the backward pass, if it says how."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.first, self.middle, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, inputs):
        """Return three numbers for each row."""
        hidden = self.first(inputs).tanh()
        if self.reentrant is None:
            return self.last(self.middle(hidden).tanh())
        middle = lambda values: self.middle(values).tanh()  # noqa: E731
        return self.last(checkpoint(middle, hidden, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_graph_of_the_whole_run_recomputes_nothing(reentrant):
    """It would with the parameters of the last step; the slow reference was 10 % off by that."""

    def whole(kind):
        torch.manual_seed(0)
        drawn = torch.Generator().manual_seed(1)
        inputs = torch.randn(24, 6, generator=drawn, dtype=torch.float64)
        labels = torch.randint(0, 3, (24,), generator=drawn)

        def loss(model, batch):
            return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

        routine = engine.Routine(
            Checkpointed(kind).double(), loss, (inputs, labels), engine.sgd(), learning_rate=0.5,
            num_steps=6, batch_size=8,
            metaparameters={"w": engine.ExampleWeights(torch.ones(24, dtype=torch.float64))},
        )  # fmt: skip
        output = lambda model: loss(model, (inputs, labels)).mean()  # noqa: E731
        return engine.whole_run_gradient(routine, output)[1]["w"]

    assert torch.equal(whole(reentrant), whole(None))


class Grouped(nn.Module):
    """Four experts of two rows each, by torch's product of groups."""

    def __init__(self):
        super().__init__()
        self.experts = nn.Parameter(torch.randn(4, 16, 16) / 4)
        self.last = nn.Linear(16, 3)

    def forward(self, inputs):  # noqa: D102 (torch's own)
        stops = torch.arange(2, 9, 2, dtype=torch.int32)
        return self.last(torch.tanh(functional.grouped_mm(inputs, self.experts, offs=stops)))


@pytest.mark.skipif(not hasattr(functional, "grouped_mm"), reason="torch has no such product")
def test_experts_in_float32_are_tried_like_any_layer():
    """Torch's kernel refuses cotangents that are one number in many places."""
    torch.manual_seed(0)
    columns = torch.randn(24, 16), torch.randint(0, 3, (24,))

    def losses(model, batch):
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    run = engine.Routine(
        Grouped(), losses, columns, engine.sgd(), 0.1, num_steps=3, batch_size=8,
        metaparameters={"weights": engine.ExampleWeights(torch.ones(24))},
    )  # fmt: skip

    found = engine.metagradient(
        run, lambda model: losses(model, tuple(c[:8] for c in columns)).sum()
    )

    assert found["weights"].any()
    assert found.witness.curvature < 1e-5
