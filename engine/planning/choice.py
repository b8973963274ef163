"""Choice of the fastest schedule on this step and machine within the memory allowed.

``measure_costs`` says what the parts of a run cost; here they are counted for a schedule, a segment
length and an unroll (``forecast``), for all that are worth a try, and the fastest one that fits is
taken (``choose``). A choice changes what a run costs, never what it computes.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch

from engine.errors import ConfigurationError
from engine.metaparameters.outer_updates import make_outer
from engine.planning.forecast import STAGE_SECONDS, Alternative, Seconds
from engine.planning.searches import searched
from engine.problems.built import BuiltProblem
from engine.recipes.comparisons import is_initial
from engine.recipes.descent import DescentRecipe, OuterRule
from engine.recipes.replay import READS, ReplaySettings
from engine.replay.step_costs import StepCosts
from engine.replay.sweep_costs import Memory, ScheduleChoice, keeps_graphs, sweep_cost
from engine.schedules.by_name import schedule_maker
from engine.schedules.segments import Segment, cut

_CAPS = ("replay.max_device_bytes", "replay.max_host_bytes", "replay.max_store_bytes")


@dataclass(frozen=True)
class MeasuredRun:
    """A run whose steps were measured.

    Attributes:
        recipe: Settings of the run.
        problem: Problem that the recipe describes.
        costs: Measured costs of its steps.
        memory: Bytes that it may use.
        evaluation: Seconds of scoring a trained model.
    """

    recipe: DescentRecipe
    problem: BuiltProblem
    costs: StepCosts
    memory: Memory
    evaluation: float

    @property
    def shared(self) -> bool:
        """Whether states on the device and in host memory take the same memory."""
        return not self.recipe.training.device.startswith("cuda")

    def parts(self, length: int) -> list[Segment]:
        """Return the segments of the run, if they have at most so many steps."""
        return cut(self.recipe.training.num_steps, length, self.problem.routine.first_step)

    def reversed_parts(self, length: int) -> list[Segment]:
        """Return those of them that are reversed."""
        first = self.problem.routine.first_step
        return [part for part in self.parts(length) if part.start >= first]

    def schedule_choice(self, length: int) -> ScheduleChoice:
        """Return the choice of schedules for segments of at most so many steps."""
        replay, routine = self.recipe.replay, self.problem.routine
        return ScheduleChoice(
            base=replay.model_copy(update={"steps_per_segment": length}),
            longest=max(part.stop - part.start for part in self.reversed_parts(length)),
            costs=self.costs,
            memory=self.memory,
            shared=self.shared,
            may_keep_graphs=keeps_graphs(replay, routine, self.costs),
        )


def forecast(measured: MeasuredRun, replay: ReplaySettings) -> Alternative:
    """Count what a run costs with a schedule, a segment length and an unroll.

    Bytes written are exact for a run on local workers that starts from nothing; with replays ahead,
    their trajectories come and go besides.

    Args:
        measured: The run.
        replay: Its settings of the replay, with a schedule that is not auto.
    """
    recipe, routine, costs = measured.recipe, measured.problem.routine, measured.costs
    maker, length = schedule_maker(replay), replay.steps_per_segment
    parts = measured.parts(length)
    found = sweep_cost(maker, [p.stop - p.start for p in measured.reversed_parts(length)], costs)
    io = costs.saved + costs.loaded + STAGE_SECONDS
    train = routine.num_steps * costs.plain + len(parts) * io
    evaluate = measured.evaluation + STAGE_SECONDS
    reverse = (
        found.seconds + costs.injected + len(measured.reversed_parts(length)) * (io + costs.loaded)
    )
    outer_step = train + evaluate + costs.seed + io + reverse + STAGE_SECONDS
    written = written_bytes(measured, parts)
    num_outer = recipe.outer.num_steps
    compared = num_compared(recipe) * (train + evaluate + costs.saved + STAGE_SECONDS)
    compared += searched(recipe) * train
    return Alternative(
        schedule=replay.schedule,
        segments=len(parts),
        unroll=replay.unroll,
        forward_steps=routine.num_steps + found.forward_steps,
        reverse_steps=found.reverse_steps,
        peak_bytes={**found.peak_bytes, "store": written},
        written_bytes=written,
        seconds=Seconds(
            outer_step=outer_step,
            run=num_outer * outer_step + train + evaluate + compared + costs.saved + STAGE_SECONDS,
            step=costs.plain,
            train=train,
            evaluate=evaluate,
            seed=costs.seed + io,
            reverse=reverse,
            update=STAGE_SECONDS,
        ),
        settings=_read_settings(replay),
    )


def written_bytes(measured: MeasuredRun, parts: list[Segment]) -> int:
    """Return the bytes of rows that the stages of a run write, which is what their records say."""
    recipe, routine, problem = measured.recipe, measured.problem.routine, measured.problem
    state, value = measured.costs.state_bytes, problem.kind.value
    first, kind = routine.first_step, problem.kind
    # A reverse stage hands on the adjoint, but the last one only if z shapes the start; and the
    # metagradient once a step that reads z was reversed.
    num_adjoints = sum(part.start > first for part in parts) + routine.shapes_start
    last = max((t for t in range(routine.num_steps) if kind.enters(t)), default=0)
    num_metagradients = sum(first <= part.start <= last for part in parts)
    metagradient = kind.point().nbytes
    moved = _moved_bytes(recipe.rule.model_dump_json(), value.numel(), value.dtype)
    reverse = num_adjoints * state + num_metagradients * metagradient
    num_outer = recipe.outer.num_steps
    train = len(parts) * state
    compared = num_compared(recipe) * (value.nbytes + train)
    return (num_outer + 1) * train + num_outer * (state + reverse) + moved + compared


@lru_cache(maxsize=16)
def _moved_bytes(settings: str, size: int, dtype: torch.dtype) -> int:
    """Return the bytes of all values of z, and of what the update remembers beside them."""
    outer = OuterRule.model_validate_json(settings)
    move, flat = make_outer(outer), torch.zeros(size, dtype=dtype)
    memory: dict[str, torch.Tensor] = {}
    moved = flat.nbytes  # z_0
    for step in range(min(outer.num_steps, 2)):  # the first move makes the memory
        _, memory = move(flat, torch.zeros_like(flat), memory, step)
        each = flat.nbytes + sum(row.nbytes for row in memory.values())
        moved += each if step == 0 else each * (outer.num_steps - 1)
    return moved


def num_compared(recipe: DescentRecipe) -> int:
    """Return how many baselines and reruns are trained beside the descent."""
    kept = recipe.metaparameters.kept
    return sum(not is_initial(name, kept) for name in recipe.baselines) + 2 * len(recipe.reruns)


def choose(measured: MeasuredRun, lengths: list[int]) -> list[Alternative]:
    """Return the alternatives to measure that fit, the fastest first; equally fast ones by memory.

    Args:
        measured: The run.
        lengths: Steps of a segment to try.

    Raises:
        ConfigurationError: If nothing fits into the memory; says what the leanest needs.
    """
    found = [
        forecast(measured, replay)
        for length in lengths
        for replay in measured.schedule_choice(length).candidates()
    ]
    fitting = [
        each
        for each in found
        if not measured.memory.excess(each.peak_bytes, shared=measured.shared)
    ]
    if not fitting:
        leanest = min(found, key=lambda each: sum(each.peak_bytes.values()))
        excess = measured.memory.excess(leanest.peak_bytes, shared=measured.shared)
        raise ConfigurationError(
            f"No schedule fits: for the leanest, {excess}. Raise it, or use a smaller batch_size "
            "or model.",
            settings=(*_CAPS, "training.batch_size"),
        )
    return sorted(fitting, key=lambda each: (each.seconds.run, sum(each.peak_bytes.values())))


def check_caps(measured: MeasuredRun, replay: ReplaySettings) -> None:
    """Refuse a schedule that was chosen by name and exceeds a cap that was given.

    Raises:
        ConfigurationError: Names the cap and what the schedule needs.
    """
    if not replay.caps():
        return
    excess = measured.memory.excess(forecast(measured, replay).peak_bytes, shared=measured.shared)
    if excess:
        raise ConfigurationError(
            f"schedule is {replay.schedule.value}, for which {excess}. Raise it, or use "
            "schedule=auto, which keeps to it.",
            settings=("replay.schedule", *_CAPS),
        )


def segment_lengths(recipe: DescentRecipe) -> list[int]:
    """Return the lengths of a segment that are worth a try: the recipe's, and halves of the run."""
    total = recipe.training.num_steps
    halves = {-(-total // 2**power) for power in range(7)}
    wanted = {length for length in halves if length >= min(total, 8)}
    return sorted(wanted | {min(recipe.replay.steps_per_segment, total)})


def _read_settings(replay: ReplaySettings) -> dict[str, str | int | float]:
    """Return the settings that a schedule reads, as ``--set`` takes them."""
    names = {"schedule", "steps_per_segment"} | READS[replay.schedule]
    content = replay.model_dump(mode="json", include=names)
    return {f"replay.{name}": value for name, value in content.items() if value is not None}
