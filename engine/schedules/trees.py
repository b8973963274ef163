"""Plans for walking a training trajectory backwards with few saved states.

A schedule is a stream of actions on step numbers. It touches no tensor, file or clock, so one
simulator on integers (``engine.schedules.simulator``) checks every schedule, and one interpreter
(``engine.replay.interpreter``) runs it.

Convention: step ``t`` maps state ``s_t`` to ``s_{t+1}``; a trajectory of T steps has T + 1 states,
and ``[start, stop)`` names steps, not states. ``s_start`` is saved before a schedule starts and
belongs to the caller: a schedule never deletes it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from engine.errors import ScheduleError


class Tier(StrEnum):
    """Where a state is kept."""

    MEMORY = "memory"
    """Memory of the run's device."""

    HOST = "host"
    """Memory of the host, beside a device of its own."""

    STORE = "store"
    """Rows of a store."""


@dataclass(frozen=True, slots=True)
class Load:
    """Make ``s_step``, which is saved in ``tier``, the working state."""

    step: int
    tier: Tier = Tier.MEMORY


@dataclass(frozen=True, slots=True)
class Forward:
    """Advance the working state from ``s_start`` to ``s_stop``, over steps start to stop - 1."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Trace:
    """As ``Forward``, and keep the graph of each step until the step is reversed."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Save:
    """Save the working state, which is ``s_step``, in ``tier``."""

    step: int
    tier: Tier = Tier.MEMORY


@dataclass(frozen=True, slots=True)
class Delete:
    """Free ``s_step`` in ``tier``."""

    step: int
    tier: Tier = Tier.MEMORY


@dataclass(frozen=True, slots=True)
class Seed:
    """Make the adjoint of the output at the working state, which is ``s_step``, the last one."""

    step: int


@dataclass(frozen=True, slots=True)
class Reverse:
    """Pull the adjoint of ``s_{step+1}`` back to ``s_step``.

    Uses the step's graph if it was kept; else ``s_step`` is the working state.
    """

    step: int


Action = Load | Forward | Trace | Save | Delete | Seed | Reverse


def kary_schedule(
    num_steps: int, arity: int, *, start: int = 0, tier: Tier = Tier.MEMORY
) -> Iterator[Action]:
    """Plan the reverse sweep as a depth-first walk of a lazy k-ary tree.

    Children are visited last to first, and a subtree's checkpoints exist only while the walk is
    inside it ("lazy").

    Args:
        num_steps: T, steps to reverse, at least 1.
        arity: k, children per node, at least 2. Larger means more storage, less replay; above T
            it is store-all.
        start: First step of the range; 0 for a whole trajectory.
        tier: Where states are kept.

    Returns:
        Actions in execution order, with one ``Reverse`` for each of start+T-1, ..., start.

    Raises:
        ScheduleError: If ``num_steps`` or ``arity`` is below its minimum.

    Cost:
        With d = ceil(log_k T): at most (k - 1) d + 1 saved states, and at most T d steps run
        forward; T (1 - 1/k) log_k T of them when T is a power of k.
        ``tests/engine/schedules/test_trees.py`` checks all three.

    References:
        Engstrom et al. 2025, arXiv:2503.13751, REPLAY (the lazy k-ary tree).
    """
    if num_steps < 1:
        raise ScheduleError(f"num_steps must be at least 1, got {num_steps}. Train for a step.")
    if arity < 2:
        raise ScheduleError(
            f"arity must be at least 2, got {arity}: a tree with one child per node never gets "
            "shorter. Use arity=2 for the least storage."
        )
    return _visit(start, start + num_steps, arity, tier)


def _visit(start: int, stop: int, arity: int, tier: Tier) -> Iterator[Action]:
    """Reverse steps ``[start, stop)``, given that ``s_start`` is saved."""
    yield Load(start, tier)
    if stop - start == 1:
        yield Reverse(start)
        return

    # Even split: no child is longer than ceil(n / k), so the depth is ceil(log_k T).
    num_children = min(arity, stop - start)
    bounds = [start + (stop - start) * i // num_children for i in range(num_children + 1)]
    children = list(pairwise(bounds))

    for child_start, child_stop in children[:-1]:
        yield Forward(child_start, child_stop)
        yield Save(child_stop, tier)
    for child_start, child_stop in reversed(children):
        yield from _visit(child_start, child_stop, arity, tier)
        if child_start != start:  # s_start belongs to our caller
            yield Delete(child_start, tier)


ScheduleMaker = Callable[[int, int], Iterator[Action]]
"""Maps (num_steps, start) to a reverse schedule of that range."""


def unrolled(
    num_steps: int, unroll: int, maker: ScheduleMaker, *, start: int = 0
) -> Iterator[Action]:
    """Plan a reverse sweep that keeps the graphs of up to ``unroll`` steps alive at once.

    ``maker`` reverses blocks of steps as if each were one step; to reverse a block, its steps are
    run with their graphs, which serve as their replay.

    Args:
        num_steps: T, steps to reverse, at least 1.
        unroll: u, graphs alive at once, at least 1; 1 leaves the schedule as it is.
        maker: Makes the schedule of the ceil(T / u) blocks.
        start: First step of the range.

    Raises:
        ScheduleError: If ``unroll`` is below 1.

    Cost:
        The forward steps of the schedule that ``maker`` makes, where a block counts as up to u
        steps, and T traced steps, which the T products do not run again.
    """
    if unroll < 1:
        raise ScheduleError(f"unroll must be at least 1, got {unroll}. Use 1 to keep no graph.")
    if unroll == 1:
        yield from maker(num_steps, start)
        return
    num_blocks = -(-num_steps // unroll)
    border = [start + num_steps * i // num_blocks for i in range(num_blocks + 1)]
    for action in maker(num_blocks, 0):
        match action:
            case Forward(first, stop):
                yield Forward(border[first], border[stop])
            case Reverse(block):
                yield Trace(border[block], border[block + 1])
                yield from map(Reverse, range(border[block + 1] - 1, border[block] - 1, -1))
            case Load(block, tier) | Save(block, tier) | Delete(block, tier):
                yield type(action)(border[block], tier)
            case _:
                raise ScheduleError(f"{action} cannot be carried out on blocks of steps.")


def whole_run(
    num_steps: int, maker: ScheduleMaker, *, first_step: int = 0, tier: Tier = Tier.MEMORY
) -> Iterator[Action]:
    """Plan training, output and reverse sweep of a run in one stream, from a working state s_0.

    The forward steps that the reverse schedule begins with are the training itself: its last leaf
    runs one step further, to s_T, seeds the adjoint there and goes back. Where that leaf starts
    from a state that the schedule does not save, the state is saved meanwhile. Nothing is saved
    before the stream starts, and nothing is left behind.

    Args:
        num_steps: T.
        maker: Makes the reverse schedule of steps ``[first_step, T)``.
        first_step: First step that reads z; the ones before it are only trained.
        tier: Where the first state of the reverse schedule is.
    """
    if first_step:
        yield Forward(0, first_step)
    yield Save(first_step, tier)
    actions = maker(num_steps - first_step, first_step)
    before: Action = Save(first_step, tier)
    for action in actions:
        if isinstance(action, Reverse):
            yield from _turn(before, action, num_steps)
            break
        yield action
        before = action
    yield from actions
    yield Delete(first_step, tier)


def _turn(before: Action, action: Reverse, num_steps: int) -> Iterator[Action]:
    """Go on to s_T, seed the adjoint there, come back, and reverse the last step."""
    if isinstance(before, Trace):  # its graphs lead back
        yield from (Seed(num_steps), action)
        return
    saved = isinstance(before, Load | Save) and before.step == action.step
    tier = before.tier if isinstance(before, Load | Save) and saved else Tier.MEMORY
    if not saved:
        yield Save(action.step, tier)
    yield from (Forward(action.step, num_steps), Seed(num_steps), Load(action.step, tier), action)
    if not saved:
        yield Delete(action.step, tier)
