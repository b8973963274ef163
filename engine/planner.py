"""Which schedule is the fastest on this step and machine within the memory allowed.

``measure_costs`` says what the parts of a run cost; here they are counted for a schedule, a segment
length and an unroll (``forecast``), for all that are worth a try, and the fastest one that fits is
taken (``choose``). A plan changes what a run costs, never what it computes.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

from engine.borders import count_borders
from engine.comparison import is_initial
from engine.config import DescentRecipe, OuterConfig
from engine.errors import ConfigurationError
from engine.forecasts import STAGE_SECONDS, Alternative, Seconds
from engine.outer import make_outer
from engine.plans import NamedPlan, plan_of
from engine.problem import Problem
from engine.reversal import ReplayConfig, ScheduleName, StepPath, VjpMode
from engine.schedule import Tier
from engine.segments import Segment, cut
from engine.simulator import Cost, measure
from engine.step_costs import StepCosts

_PER_STATE = 3
"""States on the device besides the saved ones: the working state, the adjoint, and the next one."""

_UNROLLS = (1, 4, 16, 64, 256, 1024)
_ARITIES = (2, 4, 8)


@dataclass(frozen=True)
class Memory:
    """Bytes that a run may use.

    Attributes:
        device: For states and graphs on its device.
        host: For states in host memory; the same memory where the device is the CPU.
        store: For what it leaves in the store; None for no limit.
    """

    device: int
    host: int
    store: int | None = None

    @classmethod
    def of(cls, replay: ReplayConfig, device: torch.device) -> "Memory":
        """Return the caps of a recipe; half of what is free where it has none."""
        free_host = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        host = replay.max_host_bytes or free_host // 2
        if device.type != "cuda":
            both = [cap for cap in (replay.max_device_bytes, replay.max_host_bytes) if cap]
            host = min(both, default=free_host // 2)
            return cls(host, host, replay.max_store_bytes)
        free_device, _ = torch.cuda.mem_get_info(device)
        return cls(replay.max_device_bytes or free_device // 2, host, replay.max_store_bytes)

    def excess(self, found: Alternative, *, shared: bool) -> str:
        """Say which cap a plan would exceed; empty if it fits."""
        peak = found.peak_bytes
        device = peak["graphs"] + peak["device"] + (peak["host"] if shared else 0)
        for name, needed, cap in (
            ("max_device_bytes", device, self.device),
            ("max_host_bytes", peak["host"], self.host),
            ("max_store_bytes", peak["store"], self.store),
        ):
            if cap is not None and needed > cap:
                return f"{needed:,} bytes are needed and replay.{name} is {cap:,}"
        return ""


@dataclass(frozen=True)
class Setting:
    """A run whose steps were measured.

    Attributes:
        recipe: Its settings.
        problem: What they stand for.
        costs: What its steps cost.
        memory: What it may use.
        evaluation: Seconds of scoring a trained model.
    """

    recipe: DescentRecipe
    problem: Problem
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

    @property
    def may_keep_graphs(self) -> bool:
        """Whether graphs of whole steps can be kept without another path or product."""
        replay = self.recipe.replay
        whole = replay.vjp is VjpMode.REVERSE_OVER_REVERSE and replay.micro_batch is None
        whole = whole and self.recipe.training.piece is None
        paths = self.costs.paths_agree or self.recipe.training.path is StepPath.GRAPH
        return whole and paths


def forecast(setting: Setting, replay: ReplayConfig) -> Alternative:
    """Count what a run costs with a schedule, a segment length and an unroll.

    Bytes written are exact for a run on local workers that starts from nothing; with replays ahead,
    their trajectories come and go besides.

    Args:
        setting: The run.
        replay: Its settings of the replay, with a schedule that is not auto.
    """
    recipe, routine, costs = setting.recipe, setting.problem.routine, setting.costs
    plan, length = plan_of(replay), replay.steps_per_segment
    parts = setting.parts(length)
    found = [_cost(plan, part.stop - part.start) for part in setting.reversed_parts(length)]
    io = costs.saved + costs.loaded + STAGE_SECONDS
    train = routine.num_steps * costs.plain + len(parts) * io + setting.evaluation + STAGE_SECONDS
    # Where a replay meets a saved state, or the end of its segment, and has no graph of the step
    # before, that step is run once more to compare.
    borders = sum(_num_borders(plan, each.reverse_steps) for each in found)
    reverse = sum(_seconds(each, costs) for each in found) + borders * costs.plain
    reverse += len(found) * (io + costs.loaded)
    move = costs.seed + io + STAGE_SECONDS
    outer_step = train + reverse + costs.injected + move
    written = written_bytes(setting, parts)
    num_outer = recipe.outer.num_steps
    compared = num_compared(recipe) * (train + costs.saved + STAGE_SECONDS)
    return Alternative(
        schedule=replay.schedule,
        segments=len(parts),
        unroll=replay.unroll,
        forward_steps=routine.num_steps + sum(each.forward_steps for each in found) + borders,
        reverse_steps=sum(each.reverse_steps for each in found),
        peak_bytes={
            "graphs": costs.graph_bytes * max(max(each.peak_graphs for each in found), 1),
            "device": costs.state_bytes * (_PER_STATE + _peak(found, Tier.MEMORY)),
            "host": costs.state_bytes * _peak(found, Tier.HOST),
            "store": written,
        },
        written_bytes=written,
        seconds=Seconds(
            outer_step=outer_step,
            run=num_outer * outer_step + train + compared + costs.saved + STAGE_SECONDS,
        ),
        settings=_read_settings(replay),
    )


def written_bytes(setting: Setting, parts: list[Segment]) -> int:
    """Return the bytes of rows that the stages of a run write, which is what their records say."""
    recipe, routine, problem = setting.recipe, setting.problem.routine, setting.problem
    state, value = setting.costs.state_bytes, problem.kind.value
    first, kind = routine.first_step, problem.kind
    # A reverse stage hands on the adjoint, but the last one only if z shapes the start; and the
    # metagradient once a step that reads z was reversed.
    num_adjoints = sum(part.start > first for part in parts) + routine.shapes_start
    last = max((t for t in range(routine.num_steps) if kind.enters(t)), default=0)
    num_metagradients = sum(first <= part.start <= last for part in parts)
    metagradient = kind.point().nbytes
    moved = _moved_bytes(recipe.outer.model_dump_json(), value.numel(), value.dtype)
    reverse = num_adjoints * state + num_metagradients * metagradient
    num_outer = recipe.outer.num_steps
    train = len(parts) * state
    compared = num_compared(recipe) * (value.nbytes + train)
    return (num_outer + 1) * train + num_outer * (state + reverse) + moved + compared


@lru_cache(maxsize=16)
def _moved_bytes(settings: str, size: int, dtype: torch.dtype) -> int:
    """Return the bytes of all values of z, and of what the update remembers beside them."""
    outer = OuterConfig.model_validate_json(settings)
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


def choose(setting: Setting, lengths: list[int]) -> list[Alternative]:
    """Return what is worth a try and fits, the fastest first; equally fast ones by memory.

    Args:
        setting: The run.
        lengths: Steps of a segment to try.

    Raises:
        ConfigurationError: If nothing fits into the memory; says what the leanest needs.
    """
    found = [
        forecast(setting, replay) for length in lengths for replay in _candidates(setting, length)
    ]
    fitting = [each for each in found if not setting.memory.excess(each, shared=setting.shared)]
    if not fitting:
        leanest = min(found, key=lambda each: sum(each.peak_bytes.values()))
        raise ConfigurationError(
            "No schedule fits: for the leanest, "
            f"{setting.memory.excess(leanest, shared=setting.shared)}. Raise it, or use a smaller "
            "training.batch_size or model."
        )
    return sorted(fitting, key=lambda each: (each.seconds.run, sum(each.peak_bytes.values())))


def check_caps(setting: Setting, replay: ReplayConfig) -> None:
    """Refuse a schedule that was chosen by name and exceeds a cap that was given.

    Raises:
        ConfigurationError: Names the cap and what the schedule needs.
    """
    caps = {name: getattr(replay, name) for name in type(replay).model_fields if "max_" in name}
    if not any(caps.values()):
        return
    excess = setting.memory.excess(forecast(setting, replay), shared=setting.shared)
    if excess:
        raise ConfigurationError(
            f"replay.schedule is {replay.schedule.value}, for which {excess}. Raise it, or use "
            "replay.schedule=auto, which keeps to it."
        )


def segment_lengths(recipe: DescentRecipe) -> list[int]:
    """Return the lengths of a segment that are worth a try: the recipe's, and halves of the run."""
    total = recipe.training.num_steps
    halves = {-(-total // 2**power) for power in range(7)}
    wanted = {length for length in halves if length >= min(total, 8)}
    return sorted(wanted | {min(recipe.replay.steps_per_segment, total)})


def _candidates(setting: Setting, length: int) -> Iterator[ReplayConfig]:
    """Yield settings of the replay for segments of one length: what no other is sure to beat."""
    base = setting.recipe.replay.model_dump(
        exclude={"schedule", "arity", "num_slots", "slow_slots", "slow_cost", "unroll"}
    )
    base["steps_per_segment"] = length
    costs, device = setting.costs, setting.memory.device
    longest = max(part.stop - part.start for part in setting.reversed_parts(length))
    fitting = max((device - (_PER_STATE + 1) * costs.state_bytes) // costs.graph_bytes, 1)
    most = min(longest, fitting) if setting.may_keep_graphs else 1
    for unroll in sorted({u for u in _UNROLLS if u < most} | {most}):
        blocks = -(-longest // unroll)
        room = device - unroll * costs.graph_bytes - _PER_STATE * costs.state_bytes
        slots = min(room // costs.state_bytes, blocks)
        common = {**base, "unroll": unroll}
        yield ReplayConfig(schedule=ScheduleName.STORE_ALL, **common)
        yield ReplayConfig(schedule=ScheduleName.SQRT, **common)
        for arity in (k for k in _ARITIES if k < blocks):
            yield ReplayConfig(schedule=ScheduleName.KARY, arity=arity, **common)
        # With fewer slots the same schedule needs more steps: the most that fit, and the leanest.
        for number in sorted({max(slots, 1), 1}):
            yield ReplayConfig(schedule=ScheduleName.BINOMIAL, num_slots=number, **common)
        if not setting.shared and slots < blocks:
            cost = costs.moved / costs.plain
            host_slots = setting.memory.host // costs.state_bytes
            yield ReplayConfig(
                schedule=ScheduleName.TWO_LEVEL,
                num_slots=max(slots, 1),
                slow_slots=None if host_slots >= blocks else max(host_slots - 1, 0),
                slow_cost=cost,
                **common,
            )


@lru_cache(maxsize=4096)
def _cost(plan: NamedPlan, length: int) -> Cost:
    return measure(plan(length, 0), start=0, tier=plan.first_tier)


@lru_cache(maxsize=4096)
def _num_borders(plan: NamedPlan, length: int) -> int:
    return count_borders(plan(length, 0), length)


def _seconds(cost: Cost, costs: StepCosts) -> float:
    """Return what reversing a segment takes, without the store."""
    untraced = cost.reverse_steps - cost.traced_steps
    transfers = cost.saves[Tier.HOST] + cost.loads[Tier.HOST]
    return (
        (cost.forward_steps - cost.traced_steps) * costs.plain
        + cost.traced_steps * (costs.traced + costs.pulled)
        + untraced * costs.product
        + (cost.saves[Tier.MEMORY] + cost.loads[Tier.MEMORY]) / 2 * costs.copied
        + transfers * costs.moved
    )


def _peak(found: list[Cost], tier: Tier) -> int:
    return max(each.peak_saved[tier] for each in found)


def _read_settings(replay: ReplayConfig) -> dict[str, str | int | float]:
    """Return the settings that a schedule reads, as ``--set`` takes them."""
    names = {"schedule", "steps_per_segment", "unroll"}
    match replay.schedule:
        case ScheduleName.KARY:
            names |= {"arity"}
        case ScheduleName.BINOMIAL:
            names |= {"num_slots"}
        case ScheduleName.TWO_LEVEL:
            names |= {"num_slots", "slow_slots", "slow_cost"}
        case _:
            pass
    content = replay.model_dump(mode="json", include=names)
    return {f"replay.{name}": value for name, value in content.items() if value is not None}
