"""How often the product of several outputs at once is compared with the reference's."""

import torch

from engine.step.batched_outputs import BatchedPull
from engine.step.step import open_step
from tests.helpers.trainings import problems


def test_two_products_are_compared_and_the_rest_are_not():
    """A comparison opens the step twice: of every step, it would cost more than it saves."""
    routine, opened = problems.routine(), []
    state, z, together = routine.initial_state(), routine.point(), BatchedPull()
    cotangent = {
        name: torch.stack([row.new_ones(row.shape), torch.linspace(-1, 1, len(row)).to(row)])
        for name, row in state.items()
    }

    def open_it():
        opened.append(open_step(routine, state, z, 0))
        return opened[-1]

    counts, found = [], []
    for _ in range(4):
        found.append(together(open_it, cotangent, to_state=True))
        counts.append(len(opened))

    assert counts == [2, 4, 5, 6]
    (compared, shares), (batched, own) = found[0], found[-1]
    torch.testing.assert_close(batched, compared)
    torch.testing.assert_close(own, shares)
