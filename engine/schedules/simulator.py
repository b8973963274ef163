"""Carries out schedules on step numbers alone: checks that they are possible, counts their cost."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from engine.errors import ScheduleError
from engine.schedules.trees import Action, Delete, Forward, Load, Reverse, Save, Seed, Tier, Trace


@dataclass(frozen=True)
class Cost:
    """What a schedule costs, counted exactly.

    Attributes:
        forward_steps: Steps run forward, replayed and traced ones included.
        traced_steps: How many of these steps kept their graphs.
        reverse_steps: Steps reversed.
        peak_states: Most states alive at once, the working state among them.
        peak_saved: Most states saved at once in each tier, the caller's ``s_start`` among them.
        saves: States written, by tier.
        loads: States read, by tier.
        peak_graphs: Most graphs alive at once; a graph of a step holds the state before it.
    """

    forward_steps: int
    reverse_steps: int
    peak_states: int
    peak_saved: dict[Tier, int]
    saves: dict[Tier, int]
    loads: dict[Tier, int]
    traced_steps: int
    peak_graphs: int


class _Simulator:
    """Executes actions on step numbers, and refuses what an interpreter could not do."""

    def __init__(self, start: int | None, tier: Tier) -> None:
        self.saved: dict[Tier, set[int]] = {each: set() for each in Tier}
        if start is not None:
            self.saved[tier].add(start)
        self.copies = Counter(step for steps in self.saved.values() for step in steps)
        self.kept = None if start is None else (start, tier)
        self.working, self.adjoint = start or 0, None
        self.forward = self.traced = self.peak = self.peak_graphs = 0
        self.graphs: list[int] = []
        self.reversed: list[int] = []
        self.saves, self.loads = dict.fromkeys(Tier, 0), dict.fromkeys(Tier, 0)
        self.peak_saved = {each: len(steps) for each, steps in self.saved.items()}

    def do(self, action: Action) -> None:
        """Carry out one action."""
        match action:
            case Load(step, tier):
                self._require(step in self.saved[tier], action, "the state is not saved there")
                self._require(not self.graphs, action, f"graphs of {self.graphs} are not used yet")
                self.working = step
                self.loads[tier] += 1
            case Forward(start, stop) | Trace(start, stop):
                self._require(self.working == start, action, f"the state is s_{self.working}")
                self._require(stop > start, action, "the range is empty")
                self._require(not self.graphs, action, f"graphs of {self.graphs} are not used yet")
                self.working, self.forward = stop, self.forward + stop - start
                if isinstance(action, Trace):
                    self.graphs, self.traced = [*range(start, stop)], self.traced + stop - start
            case Save(step, tier):
                self._require(self.working == step, action, f"the state is s_{self.working}")
                self._require(step not in self.saved[tier], action, "it is saved already")
                self._keep(step, tier)
            case Delete(step, tier):
                self._require(step in self.saved[tier], action, "the state is not saved there")
                self._require((step, tier) != self.kept, action, "it belongs to the caller")
                self._free(step, tier)
            case Seed(step):
                self._require(self.working == step, action, f"the state is s_{self.working}")
                self.adjoint = step
            case Reverse(step):
                if self.graphs:
                    self._require(self.graphs[-1] == step, action, f"graphs are {self.graphs}")
                else:
                    self._require(self.working == step, action, f"the state is s_{self.working}")
                expected = step + 1 if self.adjoint is None else self.adjoint
                self._require(expected == step + 1, action, f"the adjoint is at {self.adjoint}")
                self.adjoint = step
                self.reversed.append(step)
        self._watch()
        if isinstance(action, Reverse) and self.graphs:
            self.graphs.pop()

    def _keep(self, step: int, tier: Tier) -> None:
        self.saved[tier].add(step)
        self.copies[step] += 1
        self.saves[tier] += 1

    def _free(self, step: int, tier: Tier) -> None:
        self.saved[tier].remove(step)
        self.copies[step] -= 1
        if not self.copies[step]:
            del self.copies[step]

    def _watch(self) -> None:
        distinct = len(self.copies) + (self.working not in self.copies)
        self.peak = max(self.peak, distinct)
        self.peak_graphs = max(self.peak_graphs, len(self.graphs))
        for tier, steps in self.saved.items():
            self.peak_saved[tier] = max(self.peak_saved[tier], len(steps))

    @staticmethod
    def _require(holds: bool, action: Action, reason: str) -> None:
        if not holds:
            raise ScheduleError(f"{action} cannot be carried out: {reason}. Mend the schedule.")


def measure(
    actions: Iterable[Action], *, start: int | None = None, tier: Tier = Tier.MEMORY
) -> Cost:
    """Execute a schedule on step numbers alone, and count what it costs.

    Args:
        actions: The schedule.
        start: Step whose state is saved in ``tier`` before it starts, by the caller; None for a
            whole run, which begins with s_0 as the working state and nothing saved.
        tier: Where that state is.

    Raises:
        ScheduleError: If an action is impossible, steps are reversed out of order or more than
            once, or a state is left behind.
    """
    simulator = _Simulator(start, tier)
    for action in actions:
        simulator.do(action)
    left = {(step, each) for each, steps in simulator.saved.items() for step in steps}
    left.discard(simulator.kept)
    if simulator.graphs:
        raise ScheduleError(
            f"The schedule leaves graphs of steps {simulator.graphs} behind. Reverse those steps."
        )
    if left:
        raise ScheduleError(
            f"The schedule leaves states {sorted(step for step, _ in left)} behind. "
            "Delete what it saves."
        )
    return Cost(
        forward_steps=simulator.forward,
        reverse_steps=len(simulator.reversed),
        peak_states=simulator.peak,
        peak_saved=simulator.peak_saved,
        saves=simulator.saves,
        loads=simulator.loads,
        traced_steps=simulator.traced,
        peak_graphs=simulator.peak_graphs,
    )
