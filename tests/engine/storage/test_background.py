"""Rows written and read in the background are the rows that would have been written at once."""

import threading
from itertools import pairwise

import pytest
import torch

from engine import metagradient
from engine.errors import CheckpointMissingError, ReplayMismatchError, StoreError
from engine.recipes.replay import ReplaySettings, ScheduleName
from engine.replay.interpreter import Sweep, replay
from engine.schedules.by_name import schedule_maker
from engine.schedules.trees import Delete, Load, Reverse, Save, Tier, whole_run
from engine.storage.background import BackgroundStates, announced
from engine.storage.states import MemoryStates, RowStore
from tests.helpers.trainings import problems


class Disk:
    """A store whose writer stops at a gate, fails when told to, and logs what reaches it."""

    def __init__(self, broken=()):
        self.rows, self.log, self.broken = MemoryStates(), [], set(broken)
        self.gate = threading.Event()
        self.gate.set()

    def save(self, step, state):
        """Wait at the gate, fail if broken."""
        self.gate.wait()
        self.log.append(("save", step))
        if step in self.broken:
            raise StoreError(f"No space left for row {step}.")
        self.rows.save(step, state)

    def load(self, step):
        """Read at any time."""
        self.log.append(("load", step))
        return self.rows.load(step)

    def delete(self, step):
        """Wait at the gate."""
        self.gate.wait()
        self.log.append(("delete", step))
        self.rows.delete(step)

    def __contains__(self, step):
        return step in self.rows

    def steps(self):
        """List what is there."""
        return self.rows.steps()


def state_of(number):
    return {"params": torch.full((5,), float(number))}


def value_of(state):
    return float(state["params"][0])


def test_rows_are_on_disk_after_closing():
    """The example: save, go on at once, close; a caller that changes its tensor changes no row."""
    disk, state = Disk(), state_of(1)
    disk.gate.clear()

    with BackgroundStates(disk) as states:
        states.save(0, state)
        state["params"].zero_()
        disk.gate.set()

    assert value_of(disk.load(0)) == 1


def test_a_load_does_not_overtake_the_save_that_waits():
    """The row is not on disk yet, and an older one of that number may be: the queue comes first."""
    disk = Disk()
    disk.rows.save(3, state_of(1))
    with BackgroundStates(disk) as states:
        states.prefetch(3)
        disk.gate.clear()
        states.delete(3)
        states.save(3, state_of(2))

        loaded = states.load(3)

        assert ("save", 3) not in disk.log
        assert value_of(loaded) == 2
        assert states.steps() == [3]
        disk.gate.set()
    assert value_of(disk.load(3)) == 2


def test_a_loaded_row_that_waits_is_the_callers_to_change():
    """A copy is handed out, or training in place would change what is written."""
    disk = Disk()
    disk.gate.clear()
    with BackgroundStates(disk) as states:
        states.save(0, state_of(1))
        states.load(0)["params"].zero_()
        disk.gate.set()

    assert value_of(disk.load(0)) == 1


def test_a_deleted_row_that_waits_is_never_written():
    """The writer is held at row 0, so row 1 has not begun; it is gone at once and stays so."""
    disk = Disk()
    disk.gate.clear()
    with BackgroundStates(disk) as states:
        states.save(0, state_of(0))
        states.save(1, state_of(1))

        states.delete(1)

        assert 1 not in states
        with pytest.raises(CheckpointMissingError, match="Row 1 is being deleted"):
            states.load(1)
        states.save(2, state_of(2))  # the room of row 1 is free again, or this would wait forever
        disk.gate.set()
    assert disk.steps() == [0, 2]
    assert ("save", 1) not in disk.log


def test_the_writer_keeps_the_order_of_saves_and_deletions():
    """Free a checkpoint only after what replaces it is there: nothing may change places."""
    disk = Disk()
    with BackgroundStates(disk) as states:
        for step in range(6):
            states.save(step, state_of(step))
            if step:
                states.delete(step - 1)

    kept = [step for what, step in disk.log if what == "save"]
    assert kept == sorted(kept)
    assert all(
        first[1] <= second[1] or second[0] == "delete" for first, second in pairwise(disk.log)
    )
    assert disk.steps() == [5]


def test_at_most_two_states_wait():
    """A third save waits for room, or memory would grow with every step that the disk is behind."""
    disk = Disk()
    disk.gate.clear()
    with BackgroundStates(disk) as states:
        states.save(0, state_of(0))
        states.save(1, state_of(1))
        third = threading.Thread(target=states.save, args=(2, state_of(2)))
        third.start()
        third.join(timeout=0.2)

        waited = third.is_alive()

        disk.gate.set()
        third.join()
    assert waited
    assert disk.steps() == [0, 1, 2]


@pytest.mark.parametrize(
    "call",
    [
        lambda states: states.save(5, state_of(5)),
        lambda states: states.load(0),
        lambda states: states.delete(0),
        lambda states: states.close(),
    ],
    ids=["save", "load", "delete", "close"],
)
def test_an_error_of_the_writer_surfaces_at_the_next_call(call):
    """The very error that the disk raised; whatever is called next, and again after that."""
    disk = Disk(broken=[1])
    states = BackgroundStates(disk)
    states.save(0, state_of(0))
    states.save(1, state_of(1))
    states._writer.submit(int).result()  # the writer has come past row 1

    for _ in range(2):
        with pytest.raises(StoreError, match="No space left for row 1"):
            call(states)

    with pytest.raises(StoreError, match="No space left for row 1"):
        states.close()


def test_nothing_is_written_after_a_failure():
    """A deletion behind a row that could not be written would free what that row replaces."""
    disk = Disk(broken=[1])
    disk.rows.save(0, state_of(0))
    disk.gate.clear()
    states = BackgroundStates(disk)
    states.save(1, state_of(1))
    states.delete(0)
    disk.gate.set()

    with pytest.raises(StoreError, match="row 1"):
        states.close()

    assert disk.steps() == [0]


def test_other_bits_for_a_row_that_waits_are_refused():
    """A replay that drifts is an error at once, as it is for a row on disk."""
    disk = Disk()
    disk.gate.clear()
    with BackgroundStates(disk) as states:
        states.save(0, state_of(1))
        states.save(0, state_of(1))

        with pytest.raises(ReplayMismatchError, match="waits to be written"):
            states.save(0, state_of(2))

        disk.gate.set()
    assert disk.log == [("save", 0)]


def test_a_row_is_read_while_the_step_before_it_is_reversed():
    """The schedule says what comes: the read begins before the step is reversed, not after it."""
    disk = Disk()
    disk.rows.save(0, state_of(0))
    disk.rows.save(1, state_of(1))
    actions = [Load(1), Reverse(1), Delete(1), Load(0), Reverse(0)]
    seen = {}
    with BackgroundStates(disk) as states:
        for action in announced(actions, {Tier.MEMORY: states}):
            if isinstance(action, Reverse):
                seen[action.step] = set(states._read)
            elif isinstance(action, Load):
                assert value_of(states.load(action.step)) == action.step
            else:
                states.delete(action.step)

    assert seen == {1: {0}, 0: set()}
    assert [step for what, step in disk.log if what == "load"] == [1, 0]


def test_a_row_that_changes_after_it_was_read_ahead_is_read_again():
    """The row that was read ahead is that of another save."""
    disk = Disk()
    disk.rows.save(0, state_of(1))
    with BackgroundStates(disk) as states:
        states.prefetch(0)
        states.delete(0)
        states.save(0, state_of(2))
        states._writer.submit(int).result()

        assert value_of(states.load(0)) == 2


@pytest.mark.parametrize("schedule", ["k-ary", "store-all"])
def test_the_metagradient_has_the_same_bits_as_in_memory(schedule, tmp_path):
    """Hidden or not, the states are the same, and nothing is left on disk."""
    routine = problems.routine("adamw", "weights")
    expected = metagradient(routine, problems.output, schedule=schedule)

    found = metagradient(routine, problems.output, schedule=schedule, store=str(tmp_path / "rows"))

    assert torch.equal(found["weights"], expected["weights"])
    assert RowStore.open(str(tmp_path / "rows")).steps() == []


def test_a_sweep_stops_at_the_row_that_could_not_be_written():
    """The error reaches whoever called the sweep, with no metagradient to mistake for one."""
    routine = problems.routine("adamw", "weights")
    actions = list(
        whole_run(
            routine.num_steps, schedule_maker(ReplaySettings(schedule=ScheduleName.STORE_ALL))
        )
    )
    last_saved = max(action.step for action in actions if isinstance(action, Save))
    sweep = Sweep(state=routine.initial_state())

    with (
        pytest.raises(StoreError, match="No space left"),
        BackgroundStates(Disk(broken=[last_saved])) as states,
    ):
        replay(
            actions, routine, routine.point(), {Tier.MEMORY: states}, sweep, output=problems.output
        )
