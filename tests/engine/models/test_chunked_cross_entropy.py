"""The chunked cross-entropy against the plain one, in value and in both derivatives."""

import pytest
import torch
from torch.func import grad, jvp
from torch.nn import functional

from engine.errors import DataError
from engine.models.chunked_cross_entropy import sequence_cross_entropy, token_cross_entropy
from tests.helpers.machine.memory import PeakMemory


def problem(tokens=7, features=3, vocabulary=5):
    drawn = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, features, generator=drawn, dtype=torch.float64)
    weight = torch.randn(vocabulary, features, generator=drawn, dtype=torch.float64)
    return hidden, weight, torch.randint(0, vocabulary, (tokens,), generator=drawn)


def plain(hidden, weight, targets):
    return functional.cross_entropy(hidden @ weight.T, targets, reduction="none")


@pytest.mark.parametrize("chunk", [2, 7, 100])
def test_losses_equal_the_plain_ones_whatever_the_chunk(chunk):
    """Seven tokens in chunks of two leave a last chunk of one."""
    hidden, weight, targets = problem()

    found = token_cross_entropy(hidden, weight, targets, chunk=chunk)

    assert torch.allclose(found, plain(hidden, weight, targets), rtol=1e-14)


def test_first_and_second_derivatives_are_those_of_finite_differences():
    """A second derivative written by hand is where a metagradient goes wrong without a sign."""
    hidden, weight, targets = problem()
    leaves = (hidden.requires_grad_(), weight.requires_grad_())

    def losses(hidden, weight):
        return token_cross_entropy(hidden, weight, targets, chunk=3)

    assert torch.autograd.gradcheck(losses, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(losses, leaves, check_fwd_over_rev=True)


def test_derivative_of_the_gradient_along_a_direction_equals_the_plain_one():
    """Forward-over-reverse runs these rules through torch.func."""
    hidden, weight, targets = problem()
    direction = tuple(torch.ones_like(t) for t in (hidden, weight))

    def along(losses):
        total = grad(lambda h, w: losses(h, w, targets).square().sum(), argnums=(0, 1))
        return jvp(total, (hidden, weight), direction)[1]

    for found, expected in zip(along(token_cross_entropy), along(plain), strict=True):
        assert torch.allclose(found, expected, rtol=1e-12)


def test_padding_counts_neither_above_nor_below_the_line():
    """A mean over padded tokens makes short sequences look easy."""
    hidden, weight, targets = problem(tokens=6)
    targets = targets.view(2, 3).clone()
    targets[1, 2] = -100

    found = sequence_cross_entropy(hidden.view(2, 3, -1), weight, targets)

    losses = plain(hidden, weight, targets.clamp(min=0).view(-1)).view(2, 3)
    assert float(found[0]) == pytest.approx(float(losses[0].mean()), rel=1e-14)
    assert float(found[1]) == pytest.approx(float(losses[1, :2].mean()), rel=1e-14)


def test_double_backward_holds_a_fraction_of_the_plain_ones_memory():
    """The logits of all tokens are what fills the memory; a quarter leaves room for the rest."""
    hidden, weight, targets = problem(tokens=512, features=4, vocabulary=400)
    direction = torch.ones_like(weight)

    def peak(losses):
        leaf = weight.clone().requires_grad_()
        with PeakMemory() as memory:
            total = losses(hidden, leaf, targets).sum()
            (gradient,) = torch.autograd.grad(total, leaf, create_graph=True)
            torch.autograd.grad(gradient, leaf, direction)
        return memory.peak

    chunked = peak(lambda h, w, t: token_cross_entropy(h, w, t, chunk=16))

    assert chunked < peak(plain) / 4


def test_targets_that_do_not_fit_are_refused():
    """One target too few would shift every token after it."""
    hidden, weight, targets = problem()

    with pytest.raises(DataError, match=r"targets have shape \(6,\)"):
        token_cross_entropy(hidden, weight, targets[:-1])
