"""Numbers by step, which wait for one another before they are written."""

import copy
import pickle

import pytest
import torch

from engine.replay.per_step import PerStep


def filled(steps):
    found = PerStep()
    for step in steps:
        found[step] = torch.tensor([float(step), -float(step)])
    return found


@pytest.mark.parametrize("count", [1, 31, 32, 33, 1500])
@pytest.mark.parametrize("down", [False, True])
def test_every_number_is_there_at_once(count, down):
    """Also those that wait, on both sides of the border of a block, in a sweep back too."""
    steps = range(1000, 1000 + count)
    found = filled(reversed(steps) if down else steps)

    assert len(found) == count
    assert list(found) == list(steps)
    assert [row.tolist() for row in found.values()] == [[step, -step] for step in steps]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_copies_hold_what_waits(again):
    """Rows wait before they lie in a block, and a copy may be made of a run at any step."""
    found = again(filled(range(40)))

    assert [float(row[0]) for row in found.values()] == list(range(40))


def test_a_number_that_waits_can_be_replaced_and_deleted():
    """A step that is run again leaves its second number."""
    found = filled(range(5))
    del found[3]
    found[1] = torch.tensor([7.0, 7.0])

    assert list(found) == [0, 1, 2, 4]
    assert found[1].tolist() == [7, 7]
    with pytest.raises(KeyError):
        found[3]
    found[3] = torch.tensor([8.0, 8.0])
    assert found[3].tolist() == [8, 8]
