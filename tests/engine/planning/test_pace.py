"""How fast Python and a store are here: what is measured is relative, and measured once."""

import errno
import itertools
import re
import time

import pytest
import torch

from engine.errors import StoreFullError
from engine.planning import pace
from engine.replay import step_costs
from engine.storage.states import RowStore


@pytest.fixture
def anew():
    """Nothing is remembered, neither before nor afterwards."""
    pace.python_pace.cache_clear()
    yield
    pace.python_pace.cache_clear()


@pytest.mark.parametrize("slower", [0.5, 1.0, 3.0])
def test_pace_is_relative_to_where_the_guesses_were_measured(anew, monkeypatch, slower):
    """A clock that goes forward by what the piece takes on such a machine."""
    ticks = itertools.count(step=1.55e-3 * slower)
    monkeypatch.setattr(time, "thread_time", lambda: next(ticks))

    assert pace.python_pace() == pytest.approx(slower)


def test_one_interruption_does_not_count(anew, monkeypatch):
    """The machine may do something else for a while."""
    taken = [1.55e-3] * 7
    taken[2] = 1.0
    times = itertools.accumulate(part for each in taken for part in (0.0, each))
    monkeypatch.setattr(time, "thread_time", lambda: next(times))

    assert pace.python_pace() == pytest.approx(1)


def test_pace_is_measured_once_for_a_process(anew):
    """Every look at a board would pay for it otherwise."""
    assert pace.python_pace() == pace.python_pace() > 0


def test_a_store_without_room_is_named_where_its_pace_is_measured(tmp_path, monkeypatch):
    """A run's first write of a state was an error without a place, and without a remedy."""

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RowStore, "create", full)

    with pytest.raises(StoreFullError, match=re.escape(str(tmp_path))):
        step_costs._store_seconds({"params": torch.zeros(3)}, str(tmp_path))
