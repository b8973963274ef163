"""The parts of an outer step: train, reverse, move.

The stages of the pipeline and the loop in a notebook call the same functions, so both make the same
bits. They differ only in where they keep things between the parts: in a store or in memory.
"""

from collections.abc import Callable

from torch import Tensor

from engine.metaparameters.base import Metaparameter
from engine.metaparameters.outer_updates import OuterState, make_outer
from engine.recipes.descent import OuterRule
from engine.replay.borders import SegmentBorders
from engine.replay.interpreter import Sweep, check_losses, replay
from engine.replay.refusals.later_steps import LaterSteps
from engine.replay.segment import reverse_segment
from engine.routine.routine import Routine
from engine.schedules.by_name import NamedScheduleMaker
from engine.schedules.trees import Forward
from engine.step.reference import StepVjp
from engine.storage.states import RowStore
from engine.types import Metaparams, State


def train_steps(routine: Routine, steps: range, start: State) -> tuple[State, list[float]]:
    """Train consecutive steps at the routine's own z.

    Args:
        routine: The run.
        steps: [t, t').
        start: s_t.

    Returns:
        s_t', and the batch loss of each step.

    Raises:
        NonFiniteError: If a loss is infinite or NaN; names the step.
    """
    sweep = Sweep(state=start)
    replay([Forward(steps.start, steps.stop)], routine, routine.point(), {}, sweep)
    check_losses(sweep.losses, steps.start, steps.stop)
    return sweep.state, [float(sweep.losses[step]) for step in steps]


def reverse_steps(  # noqa: PLR0913 (what a sweep is made of)
    routine: Routine,
    steps: range,
    after: tuple[State, Metaparams],
    *,
    first: Callable[[], State],
    meet: Callable[[State], None],
    vjp: StepVjp,
    maker: NamedScheduleMaker,
    later: LaterSteps | None = None,
    trajectory: RowStore | None = None,
) -> Sweep:
    """Replay and reverse consecutive steps at the routine's own z.

    Args:
        routine: The run.
        steps: [t, t').
        after: lambda_t', and the metagradient of the steps from t' on; empty if there are none.
        first: Loads s_t.
        meet: Called with s_t' of the replay, to compare it with the state that was trained.
        vjp: How a step is reversed.
        maker: Makes the schedule of the replay.
        later: Checks the second derivative of some later steps, which no preflight can see.
        trajectory: The states, if they were replayed ahead.

    Returns:
        The sweep, with lambda_t and the metagradient so far.
    """
    adjoint, metagradient = after
    borders = SegmentBorders(routine, routine.point(), steps.stop, meet)
    watches = [borders, *filter(None, [later])]
    sweep = Sweep(adjoint=adjoint, metagradient=metagradient, vjp=vjp, watches=watches)
    reverse_segment(routine, steps, sweep, first=first, maker=maker, trajectory=trajectory)
    return sweep


def move_value(
    outer: OuterRule,
    kind: Metaparameter,
    value: Tensor,
    gradient: Tensor,
    memory: OuterState,
    number: int,
) -> tuple[Tensor, OuterState]:
    """Move z along its metagradient and into its feasible set.

    Args:
        outer: The rule.
        kind: Knows shape and feasible set.
        value: z_n, flat, on the CPU.
        gradient: d phi / d z at z_n, likewise.
        memory: What the rule remembers.
        number: n.

    Returns:
        z_{n+1}, flat, and what the rule remembers of it.
    """
    downhill = -gradient if outer.maximize else gradient
    moved, memory = make_outer(outer)(value, downhill, memory, number)
    return kind.project(moved.reshape(kind.value.shape)).reshape(-1), memory
