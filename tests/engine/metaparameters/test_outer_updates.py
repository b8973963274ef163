"""Moves of the metaparameters along the metagradient."""

import pytest
import torch

from engine.errors import NonFiniteError
from engine.metaparameters.outer_updates import (
    exchange_update,
    make_outer,
    masked_sign_update,
    sign_update,
    torch_update,
)
from engine.recipes.descent import OuterRule, OuterUpdate

TORCH = [update.value for update in OuterUpdate if update.value[0].isupper()]


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def gradient_at(value):
    """Slope of a bowl with another curvature along each axis."""
    return torch.linspace(0.5, 3, len(value), dtype=value.dtype) * (value - 0.3)


def descend(outer, value, num_steps):
    """Values after each outer step, the state travelling from one to the next."""
    state, values = {}, []
    for step in range(num_steps):
        value, state = outer(value, gradient_at(value), state, step)
        values.append(value)
    return torch.stack(values), state


def test_sign_moves_every_coordinate_by_the_step_size():
    """The size of a metagradient says little beside its sign, so the step ignores it."""
    moved, state = sign_update(0.5)(vector(1, 1, 1), vector(1e-9, -3, 0), {}, 0)

    assert moved.tolist() == [0.5, 1.5, 1.0]
    assert state == {}


@pytest.mark.parametrize("update", OuterUpdate)
def test_step_size_decays_with_the_outer_step(update):
    """The decay is counted from the start of the descent, also by a process that joins late."""
    settings = {"update": update, "step_size": 0.5, "step_decay": 0.9, "probability": 1.0}
    decaying = make_outer(OuterRule(**settings))
    shorter = make_outer(OuterRule(**settings | {"step_size": 0.5 * 0.9**3, "step_decay": 1.0}))
    start, slope = vector(1, 1), vector(0.3, -0.2)

    moved, _ = decaying(start, slope, {}, 3)

    expected, _ = shorter(start, slope, {}, 3)
    assert torch.allclose(moved, expected, rtol=1e-15, atol=0)
    assert not torch.equal(moved, start)


def test_mask_is_bernoulli():
    """Block-coordinate descent moves a share p: here 4 standard deviations around 3000."""
    moved, _ = masked_sign_update(1.0, 0.3)(torch.zeros(10_000), torch.ones(10_000), {}, 0)

    assert set(moved.tolist()) == {0.0, -1.0}
    assert abs(int(moved.count_nonzero()) - 3000) < 4 * (10_000 * 0.3 * 0.7) ** 0.5


def test_mask_with_probability_one_moves_everything():
    """The end of the scale is the plain sign step."""
    value, slope = torch.zeros(100), torch.linspace(-1, 1, 100)

    moved, _ = masked_sign_update(0.5, 1.0)(value, slope, {}, 0)

    assert torch.equal(moved, sign_update(0.5)(value, slope, {}, 0)[0])


def test_mask_is_the_same_when_the_update_is_made_again():
    """A stage that is computed again must give the bits that other stages were named by."""
    outer = masked_sign_update(1.0, 0.5, seed=3)
    value, slope = torch.zeros(50), torch.ones(50)

    first, _ = outer(value, slope, {}, 2)

    torch.rand(7)
    assert torch.equal(outer(value, slope, {}, 2)[0], first)


@pytest.mark.parametrize(("seed", "step"), [(3, 1), (4, 2)], ids=["step", "seed"])
def test_mask_differs_between_outer_steps_and_seeds(seed, step):
    """One mask for all outer steps would leave most coordinates where they started."""
    value, slope = torch.zeros(50), torch.ones(50)

    moved, _ = masked_sign_update(1.0, 0.5, seed=seed)(value, slope, {}, step)

    expected, _ = masked_sign_update(1.0, 0.5, seed=3)(value, slope, {}, 2)
    assert not torch.equal(moved, expected)


@pytest.mark.parametrize("decay", [1.0, 0.8])
@pytest.mark.parametrize("name", TORCH)
def test_torch_update_is_torch_run_continuously(name, decay):
    """Its moments travel as plain tensors from stage to stage, and nothing may be lost."""
    theirs = vector(1, -1, 0.5, 2).requires_grad_()
    reference = getattr(torch.optim, name)([theirs], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(reference, decay)
    expected = []
    for _ in range(6):
        theirs.grad = gradient_at(theirs.detach())
        reference.step()
        scheduler.step()
        expected.append(theirs.detach().clone())

    found, _ = descend(torch_update(name, 0.1, decay=decay), vector(1, -1, 0.5, 2), num_steps=6)

    assert torch.allclose(found, torch.stack(expected), rtol=1e-14, atol=0)


@pytest.mark.parametrize("update", OuterUpdate)
def test_update_leaves_its_inputs_alone(update):
    """Value and state are rows of a committed stage, read by others too."""
    outer = make_outer(OuterRule(update=update, step_size=0.1))
    value = vector(1, -1)
    _, state = outer(value, gradient_at(value), {}, 0)
    before = {name: row.clone() for name, row in state.items()}
    slope = gradient_at(value)

    outer(value, slope, state, 1)

    assert value.tolist() == [1, -1]
    assert torch.equal(slope, gradient_at(value))
    assert all(torch.equal(state[name], before[name]) for name in before)


@pytest.mark.parametrize("update", OuterUpdate)
def test_float32_metagradient_moves_a_float64_value_in_float64(update):
    """Counts and key points keep their precision whatever the training's number format."""
    outer = make_outer(OuterRule(update=update, step_size=0.1))

    moved, _ = outer(vector(1, -1), torch.tensor([0.5, -0.5]), {}, 0)

    assert moved.dtype == torch.float64


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("update", OuterUpdate)
def test_gradient_that_is_not_finite_is_refused(update, bad):
    """The sign of a NaN is NaN, and of infinity it is a direction that means nothing."""
    outer = make_outer(OuterRule(update=update, step_size=1.0))

    with pytest.raises(NonFiniteError, match=r"outer step 4.*learning_rate.*eps_root"):
        outer(vector(1, 1), vector(1, bad), {}, 4)


def slow_exchange(counts, gradient, number, max_count):
    """Swap one use at a time, each time the best pair that is left; no uses are moved twice."""
    counts, touched = list(counts), set()
    for _ in range(number):
        inside = [i for i, c in enumerate(counts) if c > 0 and i not in touched]
        outside = [i for i, c in enumerate(counts) if c < max_count and i not in touched]
        pairs = [(gradient[i] - gradient[j], i, j) for i in inside for j in outside]
        gain, worst, best = max(pairs, default=(0, 0, 0))
        if gain <= 0:
            break
        counts[worst] -= 1
        counts[best] += 1
        touched |= {worst, best}
    return counts


@pytest.mark.parametrize("max_count", [1, 2, 100])
@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_exchange_swaps_the_worst_inside_for_the_best_outside(share, max_count):
    """Against the same rule carried out pair by pair; the number of uses stays what it is."""
    draw = torch.Generator().manual_seed(0)
    counts = torch.randint(0, max_count + 1, (40,), generator=draw).clamp(max=3).double()
    gradient = torch.randn(40, generator=draw, dtype=torch.float64)

    moved, _ = exchange_update(share, max_count=max_count)(counts, gradient, {}, 0)

    number = round(share * float(counts.sum()))
    assert moved.tolist() == slow_exchange(counts.tolist(), gradient.tolist(), number, max_count)
    assert moved.sum() == counts.sum()
    assert not torch.equal(moved, counts)


def test_exchange_stops_where_every_example_is_the_best():
    """A full exchange of a subset that is already the best one would make it worse."""
    counts, gradient = vector(1, 1, 0, 0), vector(-2, -1, 1, 2)

    moved, _ = exchange_update(1.0, max_count=1)(counts, gradient, {}, 0)

    assert torch.equal(moved, counts)


def test_exchange_touches_a_random_shard_only():
    """The shard plays the part of the mask: another one in every outer step."""
    counts, gradient = (torch.arange(2000) % 2).double(), torch.linspace(1, -1, 2000).double()
    exchange = exchange_update(1.0, 0.2, max_count=1)

    first, second = (exchange(counts, gradient, {}, step)[0] != counts for step in (0, 1))

    assert 0 < int(first.sum()) < 0.25 * 2000
    assert int((first & second).sum()) < int(first.sum()) / 2
