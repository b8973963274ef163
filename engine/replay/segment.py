"""The states of one segment in a store: made ahead of the adjoint, and walked back by it.

Row i of a trajectory is s_{start + i}, for each step of the segment. Replaying needs no adjoint, so
other workers can do it while one worker pulls the adjoint back through later segments. A stored
state has the bits that a replayed one has, so it changes what a reverse sweep costs and not what
it finds.
"""

import logging
from collections.abc import Callable, Iterator

import torch

from engine.errors import CheckpointCorruptError, CheckpointMissingError
from engine.replay.interpreter import Sweep, replay
from engine.routine.routine import Routine
from engine.schedules.by_name import NamedScheduleMaker
from engine.schedules.trees import Action, Forward, Load, Reverse, Tier
from engine.storage.background import BackgroundStates
from engine.storage.states import MemoryStates, RowStore
from engine.types import State

logger = logging.getLogger(__name__)


def segment_states(routine: Routine, start: int, stop: int, first: State) -> Iterator[State]:
    """Yield s_start, ..., s_{stop-1}, given s_start: what reversing steps ``[start, stop)`` reads.

    Cost:
        ``stop - start - 1`` plain steps, and one state alive at a time.
    """
    sweep, z = Sweep(state=first), routine.point()
    yield sweep.state
    for step in range(start, stop - 1):
        replay([Forward(step, step + 1)], routine, z, {}, sweep)
        yield sweep.state


def reverse_segment(
    routine: Routine,
    steps: range,
    sweep: Sweep,
    *,
    first: Callable[[], State],
    maker: NamedScheduleMaker,
    trajectory: RowStore | None = None,
) -> None:
    """Pull a sweep's adjoint back through a segment.

    Args:
        routine: The run.
        steps: The segment.
        sweep: Holds the adjoint at ``steps.stop``; advanced in place.
        first: Loads the state at ``steps.start``; called if states have to be replayed.
        maker: Makes the schedule that replays them.
        trajectory: The segment's states. Where they are missing or damaged, the rest of
            the segment is replayed, with a warning.

    Cost:
        With a trajectory three plain steps for each step, and one state read beside them; else as
        its schedule counts.
    """
    stop, z = steps.stop, routine.point()
    if trajectory is not None:
        try:
            rows = _Shifted(trajectory, steps.start)
            with BackgroundStates(rows) as stored:  # reads a state while the one after is reversed
                replay(_walk_back(steps), routine, z, {Tier.STORE: stored}, sweep)
        except (CheckpointMissingError, CheckpointCorruptError) as error:
            stop = min(sweep.adjoint_norms, default=steps.stop)
            logger.warning("Steps %d to %d are replayed here. %s", steps.start, stop - 1, error)
        else:
            return
    tiers = {Tier.MEMORY: MemoryStates(), Tier.HOST: MemoryStates(torch.device("cpu"))}
    tiers[maker.first_tier].save(steps.start, first())
    replay(maker(stop - steps.start, steps.start), routine, z, tiers, sweep)


def _walk_back(steps: range) -> Iterator[Action]:
    for step in reversed(steps):
        yield Load(step, Tier.STORE)
        yield Reverse(step)


class _Shifted:
    """A store whose row 0 is another step."""

    def __init__(self, rows: RowStore, start: int) -> None:
        self._rows, self._start = rows, start

    def save(self, step: int, state: State) -> None:
        """See ``StateStore.save``."""
        self._rows.save(step - self._start, state)

    def load(self, step: int) -> State:
        """See ``StateStore.load``."""
        return self._rows.load(step - self._start)

    def delete(self, step: int) -> None:
        """See ``StateStore.delete``."""
        self._rows.delete(step - self._start)

    def __contains__(self, step: int) -> bool:
        return step - self._start in self._rows

    def steps(self) -> list[int]:
        """See ``StateStore.steps``."""
        return [row + self._start for row in self._rows.steps()]
