"""How a call in a notebook reverses its run: the fastest schedule that fits, or the named one."""

from engine.errors import ConfigurationError
from engine.recipes.replay import ReplaySettings, ScheduleName
from engine.replay.interpreter import Sweep as Run
from engine.replay.interpreter import replay as carry_out
from engine.replay.step_costs import StepCosts, counted_costs, measure_costs, median_seconds
from engine.replay.sweep_costs import Memory, Sweep, SweepCost, keeps_graphs, sweep_cost
from engine.routine.routine import Routine
from engine.schedules.by_name import plan_of
from engine.schedules.trees import Forward
from engine.step.reference import StepVjp
from engine.types import Output

_LONGEST, _SHARE = 0.5, 1e-3
"""Most seconds spent on measuring each quantity, and the share of the run that it may take."""


def settled(
    replay: ReplaySettings, routine: Routine, output: Output, vjp: StepVjp, store: str | None
) -> ReplaySettings:
    """Return settings with a schedule that fits: for auto the fastest, measured.

    A clock chooses, and no schedule changes a bit, so the answer is that of every other choice.

    Args:
        replay: What was asked.
        routine: The run, reversed as one segment.
        output: phi.
        vjp: How a step is reversed.
        store: Where states are kept; None for memory.

    Raises:
        ConfigurationError: If nothing fits, or the schedule that was named needs more than a cap.

    Cost:
        For auto some ten quantities of a step, a thousandth of the run each and three rounds at
        least; for a named schedule the graph of a step if there is a cap, else nothing.
    """
    if replay.max_store_bytes is not None and store is None:
        raise ConfigurationError(
            f"max_store_bytes is {replay.max_store_bytes:,}, but there is no store. Give one, or "
            "bound the memory by max_device_bytes."
        )
    auto = replay.schedule is ScheduleName.AUTO
    if not auto and not replay.caps():
        return replay
    costs = _measured(routine, output, vjp, store) if auto else counted_costs(routine)
    memory, length = Memory.of(replay, routine.device), routine.num_steps - routine.first_step
    shared = routine.device.type != "cuda"

    def cost(each: ReplaySettings) -> SweepCost:
        return sweep_cost(plan_of(each, in_store=store is not None), [length], costs)

    def excess(each: ReplaySettings) -> str:
        return memory.excess(cost(each).peak_bytes, shared=shared)

    if not auto:
        if excess(replay):
            raise ConfigurationError(
                f"schedule is {replay.schedule.value}, for which {excess(replay)}. Raise it, or "
                "use schedule='auto', which keeps to it."
            )
        return replay
    sweep = Sweep(
        base=replay,
        longest=length,
        costs=costs,
        memory=memory,
        shared=shared,
        may_keep_graphs=keeps_graphs(replay, routine, costs),
        in_store=store is not None,
    )
    found = list(sweep.candidates())
    fitting = [each for each in found if not excess(each)]
    if not fitting:
        leanest = min(found, key=lambda each: sum(cost(each).peak_bytes.values()))
        raise ConfigurationError(
            f"No schedule fits: for the leanest, {excess(leanest)}. Raise it, use a smaller "
            "batch_size or model, or set micro_batch."
        )
    return min(fitting, key=lambda each: (cost(each).seconds, sum(cost(each).peak_bytes.values())))


def _measured(routine: Routine, output: Output, vjp: StepVjp, store: str | None) -> StepCosts:
    z, state = routine.point(), routine.initial_state()
    plain = median_seconds(
        lambda: carry_out([Forward(0, 1)], routine, z, {}, Run(state=state)), routine.device
    )
    seconds = min(_LONGEST, _SHARE * routine.num_steps * plain)
    return measure_costs(routine, output, vjp, store, seconds=seconds)
