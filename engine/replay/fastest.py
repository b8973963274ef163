"""Schedule of a call in a notebook: the fastest one that fits, or the named one."""

from collections.abc import Iterable
from dataclasses import dataclass

from engine.errors import ConfigurationError
from engine.recipes.replay import ReplaySettings, ScheduleName
from engine.replay import interpreter
from engine.replay.step_costs import StepCosts, counted_costs, measure_costs, median_seconds
from engine.replay.sweep_costs import Memory, ScheduleChoice, SweepCost, keeps_graphs, sweep_cost
from engine.routine.routine import Routine
from engine.schedules.by_name import schedule_maker
from engine.schedules.trees import Forward
from engine.step.reference import StepVjp
from engine.types import Output

_LONGEST, _SHARE = 0.5, 1e-3
"""Most seconds spent on measuring each quantity, and the share of the run that it may take."""


def with_fitting_schedule(
    replay: ReplaySettings, routine: Routine, output: Output, vjp: StepVjp, store: str | None
) -> ReplaySettings:
    """Return settings whose schedule fits into the memory; for ``auto``, the fastest such one.

    ``auto`` is decided by measured times, so two calls may choose differently. Every schedule
    gives the same bits, so the metagradient does not depend on the choice.

    Args:
        replay: What was asked.
        routine: The run, reversed as one segment.
        output: phi.
        vjp: How a step is reversed.
        store: Where states are kept; None for memory.

    Raises:
        ConfigurationError: If nothing fits, or the schedule that was named needs more than a cap.

    Cost:
        For ``auto``, about ten quantities of a step are measured: at least three rounds each, and
        at most a thousandth of the run. For a named schedule, the graph of one step if there is a
        cap, else nothing.
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
    fit = _Fit.of(routine, replay, costs, in_store=store is not None)
    if not auto:
        fit.check(replay)
        return replay
    choice = ScheduleChoice(
        base=replay,
        longest=fit.length,
        costs=costs,
        memory=fit.memory,
        shared=fit.shared,
        may_keep_graphs=keeps_graphs(replay, routine, costs),
        in_store=fit.in_store,
    )
    return fit.fastest(choice.candidates())


@dataclass(frozen=True)
class _Fit:
    """What a schedule costs on a run of one segment, and whether it fits into the memory."""

    length: int
    costs: StepCosts
    memory: Memory
    shared: bool
    in_store: bool

    @classmethod
    def of(
        cls, routine: Routine, replay: ReplaySettings, costs: StepCosts, *, in_store: bool
    ) -> "_Fit":
        return cls(
            length=routine.num_steps - routine.first_step,
            costs=costs,
            memory=Memory.of(replay, routine.device),
            shared=routine.device.type != "cuda",
            in_store=in_store,
        )

    def cost(self, replay: ReplaySettings) -> SweepCost:
        maker = schedule_maker(replay, in_store=self.in_store)
        return sweep_cost(maker, [self.length], self.costs)

    def excess(self, replay: ReplaySettings) -> str:
        return self.memory.excess(self.cost(replay).peak_bytes, shared=self.shared)

    def check(self, replay: ReplaySettings) -> None:
        """Refuse a named schedule that needs more than a cap."""
        if excess := self.excess(replay):
            raise ConfigurationError(
                f"schedule is {replay.schedule.value}, for which {excess}. Raise it, or use "
                "schedule='auto', which keeps to it."
            )

    def fastest(self, candidates: Iterable[ReplaySettings]) -> ReplaySettings:
        """Return the fastest candidate that fits; of equally fast ones, the leanest."""
        found = list(candidates)
        fitting = [each for each in found if not self.excess(each)]
        if not fitting:
            raise ConfigurationError(
                f"No schedule fits: for the leanest, {self.excess(min(found, key=self._bytes))}. "
                "Raise it, use a smaller batch_size or model, or set micro_batch."
            )
        return min(fitting, key=lambda each: (self.cost(each).seconds, self._bytes(each)))

    def _bytes(self, replay: ReplaySettings) -> int:
        return sum(self.cost(replay).peak_bytes.values())


def _measured(routine: Routine, output: Output, vjp: StepVjp, store: str | None) -> StepCosts:
    z, state = routine.point(), routine.initial_state()

    def one_step() -> None:
        interpreter.replay([Forward(0, 1)], routine, z, {}, interpreter.Sweep(state=state))

    plain = median_seconds(one_step, routine.device)
    seconds = min(_LONGEST, _SHARE * routine.num_steps * plain)
    return measure_costs(routine, output, vjp, store, seconds=seconds)
