"""Cost of a reverse sweep with a schedule, and the schedules that are worth a try.

This module knows steps, seconds and bytes, and no recipe, so that the planner of runs and a call in
a notebook count in the same way.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from engine.recipes.replay import READS, ReplaySettings, StepPath, VjpMode
from engine.replay.borders import count_borders
from engine.replay.step_costs import StepCosts, graph_bytes
from engine.routine.routine import Routine
from engine.schedules.base import Room
from engine.schedules.by_name import NamedScheduleMaker, candidates
from engine.schedules.simulator import Cost, measure
from engine.schedules.trees import Tier
from engine.types import Metaparams, State

STATES_AT_WORK = 3
"""States on the device besides the saved ones: the working state, the adjoint, and the next one."""

_UNROLLS = (1, 4, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Memory:
    """Bytes that a run may use.

    Attributes:
        device: Bytes for states and graphs on its device.
        host: Bytes for states in host memory, which is the same memory where the device is the CPU.
        store: Bytes for what it leaves in the store; None for no limit.
    """

    device: int
    host: int
    store: int | None = None

    @classmethod
    def of(cls, replay: ReplaySettings, device: torch.device) -> "Memory":
        """Return the caps that were given; half of what is free where there is none."""
        free_host = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        host = replay.max_host_bytes or free_host // 2
        if device.type != "cuda":
            both = [cap for cap in (replay.max_device_bytes, replay.max_host_bytes) if cap]
            host = min(both, default=free_host // 2)
            return cls(host, host, replay.max_store_bytes)
        free_device, _ = torch.cuda.mem_get_info(device)
        return cls(replay.max_device_bytes or free_device // 2, host, replay.max_store_bytes)

    def excess(self, peak: Mapping[str, int], *, shared: bool) -> str:
        """Say which cap a schedule would exceed, given its peaks; empty if it fits."""
        device = peak["graphs"] + peak["device"] + (peak["host"] if shared else 0)
        for name, needed, cap in (
            ("max_device_bytes", device, self.device),
            ("max_host_bytes", peak["host"], self.host),
            ("max_store_bytes", peak["store"], self.store),
        ):
            if cap is not None and needed > cap:
                return f"{needed:,} bytes are needed and {name} is {cap:,}"
        return ""


@dataclass(frozen=True)
class SweepCost:
    """What reversing some segments costs.

    Attributes:
        forward_steps: Steps run forward, those that compare borders among them.
        reverse_steps: Steps reversed.
        seconds: Without what handing segments on takes.
        peak_bytes: Most bytes at once: graphs, states on the device, in host memory, in the store.
    """

    forward_steps: int
    reverse_steps: int
    seconds: float
    peak_bytes: dict[str, int]


def sweep_cost(maker: NamedScheduleMaker, lengths: Sequence[int], costs: StepCosts) -> SweepCost:
    """Count what schedules for segments of some lengths do, and predict what that takes."""
    found = [_cost(maker, length) for length in lengths]
    # Where a replay meets a saved state, or the end of its segment, and has no graph of the step
    # before, that step is run once more to compare.
    borders = sum(_num_borders(maker, each.reverse_steps) for each in found)

    def peak(tier: Tier) -> int:
        return max(each.peak_saved[tier] for each in found)

    return SweepCost(
        forward_steps=sum(each.forward_steps for each in found) + borders,
        reverse_steps=sum(each.reverse_steps for each in found),
        seconds=sum(_seconds(each, costs) for each in found) + borders * costs.plain,
        peak_bytes={
            "graphs": costs.graph_bytes * max(max(each.peak_graphs for each in found), 1),
            "device": costs.state_bytes * (STATES_AT_WORK + peak(Tier.MEMORY)),
            "host": costs.state_bytes * peak(Tier.HOST),
            "store": costs.state_bytes * peak(Tier.STORE),
        },
    )


@dataclass(frozen=True)
class ScheduleChoice:
    """What is known of a run when a schedule is chosen for it, and the schedules worth a try.

    Attributes:
        base: Settings that every candidate keeps.
        longest: Steps of the longest segment.
        costs: Costs of a step.
        memory: Bytes that may be used.
        shared: Whether states on the device and in host memory take the same memory.
        may_keep_graphs: Whether graphs of whole steps can be kept.
        in_store: Whether states are kept in a store, which takes no memory.
    """

    base: ReplaySettings
    longest: int
    costs: StepCosts
    memory: Memory
    shared: bool
    may_keep_graphs: bool
    in_store: bool = False

    def candidates(self) -> Iterator[ReplaySettings]:
        """Yield settings of the replay that no other is sure to beat."""
        chosen = {"schedule"}.union(*READS.values())
        base, costs = self.base.model_dump(exclude=chosen), self.costs
        at_work = (STATES_AT_WORK + 1) * costs.state_bytes
        fitting = max((self.memory.device - at_work) // costs.graph_bytes, 1)
        most = min(self.longest, fitting) if self.may_keep_graphs else 1
        for unroll in sorted({u for u in _UNROLLS if u < most} | {most}):
            yield from self._with_unroll(unroll, {**base, "unroll": unroll})

    def _with_unroll(self, unroll: int, common: dict[str, object]) -> Iterator[ReplaySettings]:
        state, blocks = self.costs.state_bytes, -(-self.longest // unroll)
        free = self.memory.device - unroll * self.costs.graph_bytes - STATES_AT_WORK * state
        fast = min(free // state, blocks)
        kept = blocks if self.memory.store is None else min(self.memory.store // state, blocks)
        slow, cost = None if self.shared else self.memory.host // state, self.costs.moved
        if self.in_store:
            slow, cost = kept, (self.costs.saved + self.costs.loaded) / 2
        room = Room(
            num_steps=blocks,
            slots=kept if self.in_store else fast,
            fast_slots=fast,
            slow_slots=slow,
            slow_cost=cost / self.costs.plain,
        )
        for settings in candidates(room):
            yield ReplaySettings.model_validate({**common, **settings})


def fits_at_once(
    replay: ReplaySettings,
    routine: Routine,
    state: State,
    z: Metaparams,
    step: int,
    count: int,
) -> bool:
    """Say whether the graphs of several products of a step fit into the memory allowed at once."""
    needed = count * graph_bytes(routine, state, z, step)
    peak = {"graphs": needed, "device": 0, "host": 0, "store": 0}
    shared = routine.device.type != "cuda"
    return not Memory.of(replay, routine.device).excess(peak, shared=shared)


def keeps_graphs(replay: ReplaySettings, routine: Routine, costs: StepCosts) -> bool:
    """Say whether graphs of whole steps can be kept without another path or product."""
    whole = replay.vjp is VjpMode.REVERSE_OVER_REVERSE and replay.micro_batch is None
    paths = costs.paths_agree or routine.path is StepPath.GRAPH
    return whole and routine.piece is None and routine.shards == 1 and paths


@lru_cache(maxsize=4096)
def _cost(maker: NamedScheduleMaker, length: int) -> Cost:
    return measure(maker(length, 0), start=0, tier=maker.first_tier)


@lru_cache(maxsize=4096)
def _num_borders(maker: NamedScheduleMaker, length: int) -> int:
    return count_borders(maker(length, 0), length)


def _seconds(cost: Cost, costs: StepCosts) -> float:
    """Return the seconds of reversing a segment, without those of handing it on."""
    untraced = cost.reverse_steps - cost.traced_steps
    transfers = cost.saves[Tier.HOST] + cost.loads[Tier.HOST]
    return (
        (cost.forward_steps - cost.traced_steps) * costs.plain
        + cost.traced_steps * (costs.traced + costs.pulled)
        + untraced * costs.product
        + (cost.saves[Tier.MEMORY] + cost.loads[Tier.MEMORY]) / 2 * costs.copied
        + transfers * costs.moved
        + cost.saves[Tier.STORE] * costs.saved
        + cost.loads[Tier.STORE] * costs.loaded
    )
