"""The order of examples as a function of the step."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.errors import DataError
from engine.routine.batch_order import Order

COUNTS = st.lists(st.integers(0, 3), min_size=1, max_size=12).filter(any)
BATCH = st.integers(1, 20)  # often more than an epoch holds


def drawn(order, num_epochs):
    """Examples of the first epochs, one row for each epoch."""
    total = num_epochs * order.epoch_size
    num_steps = -(-total // order.batch_size)
    stream = torch.cat([order.batch(step) for step in range(num_steps)])
    return stream[:total].view(num_epochs, order.epoch_size)


def test_four_examples_in_batches_of_three_straddle_epochs():
    """Every batch has its full size, and each run of four draws holds all four examples."""
    order = Order(torch.ones(4), batch_size=3, seed=0)

    epochs = drawn(order, num_epochs=3)

    assert all(len(order.batch(step)) == 3 for step in range(4))
    assert epochs.sort(dim=1).values.tolist() == [[0, 1, 2, 3]] * 3


@given(counts=COUNTS, batch_size=BATCH, seed=st.integers(0, 99), data=st.data())
def test_batch_depends_on_its_step_alone(counts, batch_size, seed, data):
    """The reverse sweep asks for batches last to first and more than once."""
    used = Order(torch.tensor(counts), batch_size, seed)
    steps = data.draw(st.lists(st.integers(0, 30), min_size=2, max_size=5))

    batches = [used.batch(step) for step in steps]

    fresh = [Order(torch.tensor(counts), batch_size, seed).batch(step) for step in steps]
    assert all(map(torch.equal, batches, fresh))


@given(counts=COUNTS, batch_size=BATCH, seed=st.integers(0, 99))
def test_each_epoch_holds_exactly_the_multiset(counts, batch_size, seed):
    """A count of 2 means twice in every epoch, not twice on average."""
    order = Order(torch.tensor(counts), batch_size, seed)

    epochs = drawn(order, num_epochs=3)

    held = [torch.bincount(epoch, minlength=len(counts)).tolist() for epoch in epochs]
    assert held == [counts] * 3


@given(counts=COUNTS, seed=st.integers(0, 99), data=st.data())
def test_dropping_copies_of_an_example_keeps_the_order_of_all_others(counts, seed, data):
    """Selection asks what an example does, so it must not reshuffle the rest of the run."""
    dropped = data.draw(st.sampled_from([i for i, count in enumerate(counts) if count]))
    fewer = list(counts)
    fewer[dropped] = data.draw(st.integers(0, counts[dropped] - 1))
    assume(any(fewer))
    with_all = Order(torch.tensor(counts), 1, seed)
    with_fewer = Order(torch.tensor(fewer), 1, seed)

    before = [epoch[epoch != dropped].tolist() for epoch in drawn(with_all, num_epochs=2)]
    after = [epoch[epoch != dropped].tolist() for epoch in drawn(with_fewer, num_epochs=2)]

    assert before == after


@pytest.mark.parametrize("other", [(1, 0), (0, 1)], ids=["seed", "epoch"])
def test_another_seed_or_epoch_has_another_order(other):
    """30 examples have 30! orders, so two equal ones mean that something is not drawn."""
    seed, epoch = other

    first = drawn(Order(torch.ones(30), 7, seed=0), num_epochs=2)[0]

    assert not torch.equal(drawn(Order(torch.ones(30), 7, seed), num_epochs=2)[epoch], first)


def test_copies_of_an_example_are_spread_over_the_epoch():
    """Copies that stood side by side would be one example of twice the weight in one batch."""
    epoch = drawn(Order(torch.full((20,), 2), 5, seed=0), num_epochs=1)[0]

    side_by_side = int((epoch[1:] == epoch[:-1]).sum())

    assert side_by_side < 5  # one is expected; twenty if they were kept together


def test_batch_larger_than_the_data_holds_several_epochs():
    """Three examples in batches of ten: three times each, and one of them once more."""
    batch = Order(torch.ones(3), batch_size=10, seed=0).batch(0)

    assert sorted(torch.bincount(batch).tolist()) == [3, 3, 4]


def test_all_zero_counts_are_refused():
    """A descent that dropped every example has nothing to train on, and says which knob did it."""
    with pytest.raises(DataError, match=r"All 4 counts are zero.*above zero"):
        Order(torch.zeros(4), batch_size=2, seed=0)


def test_batch_of_a_hundred_thousand_epochs_is_refused():
    """A slip of the keyboard filled the memory, and said nothing for minutes."""
    with pytest.raises(DataError, match=r"each of the 800 .* 124999 times"):
        Order(torch.ones(800), batch_size=99_999_999, seed=0)
    Order(torch.ones(5), batch_size=2**20, seed=0)  # few examples may be left of many
