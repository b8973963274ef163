"""Check that the steps at which counts are injected agree with the steps around them.

Algorithm 1 takes the derivative by a copy of an example in one batch, k, for that by a copy in all
of them. With momentum, or where a step overshoots, the derivative swings with k, and between two
swings its sign is the opposite. It is steady near the end, where it is that of a plain step down
the gradient. So the metagradient of a run is compared with that of other steps between its first k
and the end, on the run itself: short twins do not swing as the run does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.metaparameters.counts import Counts
from engine.preflight.verdict import Check, Verdict
from engine.recipes.metaparameters import at_steps
from engine.recipes.replay import ReplaySettings, ScheduleName, replay_from
from engine.replay.metagradient import differentiate
from engine.routine.routine import Routine
from engine.types import Output

NEIGHBOURS = 8
"""Steps that a run's own are compared with, evenly spaced from its first one to the end."""

CANDIDATES = 256
"""Examples whose metagradients are compared, evenly spaced among all; their correlation has a
standard error of 0.06."""

LONGEST = 1000
"""Steps of a run beyond which nothing is compared: it takes a whole training."""

WEAK = 0.3
"""Correlation below which the sign says little.

On digits with wrong labels, seven trainings, k from 0.7 T on: the AUC is 0.16 to 0.67 where it is
negative, and 0.61 to 0.99 above this limit. Earlier k are told less surely
(``tests/bench/results/injection_cpu-2core_20261128.md``)."""


@dataclass(frozen=True, eq=False, repr=False)
class CountsApart(Counts):
    """Counts with a z for each injection step, shape (steps, examples).

    Attributes:
        chosen: Positions of the examples that are injected; all by default.
    """

    chosen: Tensor | None = None

    def point(self) -> Tensor:
        """Return z = 0, shape (steps, examples)."""
        return super().point().repeat(len(self.steps), 1)

    def injected(self, z: Tensor, step: int) -> Tensor | None:
        """Return z of a step k, shape (examples,)."""
        return z[self.steps.index(step)] if self.enters(step) else None

    def candidates(self, num_examples: int) -> Tensor:
        """Return the positions of the examples that are injected."""
        return super().candidates(num_examples) if self.chosen is None else self.chosen


def by_step(
    routine: Routine,
    output: Output,
    name: str,
    steps: Sequence[int],
    *,
    chosen: Tensor | None = None,
    twice: bool = True,
    **options: Any,  # noqa: ANN401 (the fields of ReplaySettings, checked by it)
) -> Tensor:
    """Return the metagradient of counts at each injection step by itself, in one sweep.

    Args:
        routine: The run.
        output: phi.
        name: Which metaparameter of the run are counts.
        steps: Each k, in order.
        chosen: Positions of the examples to look at; all by default.
        twice: Whether the first step is compared with itself before.
        **options: How the run is reversed, as ``engine.metagradient`` takes it.

    Returns:
        Shape (steps, examples); each row is what ``Counts(..., injection_step=k)`` finds.

    Raises:
        ConfigurationError: If the metaparameter is no counts.

    Cost:
        A training, the products of the steps from the first k on, and at each k the losses of the
        chosen examples, forward and backward.
    """
    kind = routine.metaparameters.get(name)
    if not isinstance(kind, Counts):
        known = [
            each for each, found in routine.metaparameters.items() if isinstance(found, Counts)
        ]
        raise ConfigurationError(
            f"Metaparameter {name!r} is {type(kind).__name__}, which is not injected. Name one of "
            f"{known}."
        )
    apart = CountsApart(kind.value, injection_steps=tuple(steps), chosen=chosen)
    others = {each: found for each, found in routine.metaparameters.items() if each != name}
    run = replace(routine, metaparameters={**others, name: apart})
    replay = replay_from(options, "by_step", ("chosen", "twice"))
    (found,) = differentiate(run, [output], None, replay, twice=twice)
    return found[name] if chosen is None else found[name][:, chosen.to(found[name].device)]


def neighbours(steps: Sequence[int], num_steps: int) -> list[int]:
    """Return the steps that those of a run are compared with; none if the first k is the last step.

    Args:
        steps: Each k of the run.
        num_steps: T.
    """
    first, last = min(steps), num_steps - 1
    spaced = {first + (last - first) * i // NEIGHBOURS for i in range(1, NEIGHBOURS + 1)}
    return sorted(spaced - set(steps))


def check_injection(routine: Routine, output: Output, name: str, replay: ReplaySettings) -> Check:
    """Refuse counts whose metagradient is the opposite of that of the steps around.

    Args:
        routine: The run.
        output: phi.
        name: Which metaparameter of the run are counts.
        replay: How a step is reversed.

    Cost:
        As ``by_step`` for the run's own steps and up to 8 more, with at most 256 examples.
    """
    own: Sequence[int] = routine.metaparameters[name].steps  # pyright: ignore[reportAttributeAccessIssue] (counts)
    if routine.num_steps > LONGEST:
        return _untried(own, routine.num_steps)
    others = neighbours(own, routine.num_steps)
    steps, number = sorted([*own, *others]), min(CANDIDATES, len(routine))
    chosen = torch.arange(number, device="cpu") * len(routine) // number
    found = by_step(
        routine,
        output,
        name,
        steps,
        chosen=chosen,
        twice=False,
        vjp=replay.vjp,
        micro_batch=replay.micro_batch,
        schedule=_schedule(routine, steps[0]),
    ).double()
    mine, theirs = (sum(found[steps.index(step)] for step in group) for group in (own, others))
    value = float(
        torch.corrcoef(torch.stack([torch.as_tensor(mine), torch.as_tensor(theirs)]))[0, 1]
    )
    return judge(name, own, others, value, routine.num_steps)


def _schedule(routine: Routine, first: int) -> ScheduleName:
    """Return a schedule that replays nothing where all states from a step on are small."""
    row = sum(each.numel() * each.element_size() for each in routine.initial_state().values())
    is_small = (routine.num_steps - first) * row <= _SMALL
    return ScheduleName.STORE_ALL if is_small else ScheduleName.KARY


_SMALL = 1 << 26
"""Bytes of states that are kept at once."""


def _untried(own: Sequence[int], num_steps: int) -> Check:
    """Return the check of a long run, whose steps are not compared; a sum of several is robust."""
    single = len(own) == 1
    return Check(
        name="injection",
        verdict=Verdict.WARN if single else Verdict.PASS,
        value=None,
        limit=WEAK,
        cause=f"Counts are injected at {at_steps(own)} of {num_steps}; whether the steps around "
        f"agree was not tried, because it takes a training, and the run has more than {LONGEST} "
        "steps.",
        remedy="Use injection_steps with several steps, or compare some by "
        "engine.preflight.injection.by_step."
        if single
        else "",
        settings=("metaparameters.injection_steps",) if single else (),
    )


def judge(
    name: str, own: Sequence[int], others: Sequence[int], value: float, num_steps: int
) -> Check:
    """Say what a correlation of the run's injection steps with others means."""
    named = {"name": "injection", "value": value, "limit": WEAK}
    shown = (
        f"The metagradient of {name!r} injected at {at_steps(own)} and that of {at_steps(others)} "
        f"have a correlation of {value:.2f} over the examples"
    )
    if math.isnan(value):
        return Check(
            **{**named, "value": None},
            verdict=Verdict.WARN,
            cause=f"The metagradient of {name!r} injected at {at_steps(own)}, or that of "
            f"{at_steps(others)}, is the same for all examples that were compared, so whether they "
            "agree is not known.",
            remedy="Look at the metagradient itself: one that is zero has nothing to follow.",
        )
    if value >= WEAK:
        return Check(**named, verdict=Verdict.PASS, cause=f"{shown}.")
    first = 7 * num_steps // 10
    several = list(range(first, num_steps, max((num_steps - first) // 10, 1)))
    remedy = (
        f"Use several steps whose sum counts, e.g. injection_steps={several}."
        if len(own) == 1
        else "Use later steps, or lower learning_rate or momentum."
    )
    opposite = (
        "it calls helpful what they call harmful. The derivative by a copy in one batch swings "
        "with the step, so that following this one would choose the wrong examples."
    )
    weak = "its sign says little about a copy in all batches."
    return Check(
        **named,
        verdict=Verdict.REFUSE if value < 0 else Verdict.WARN,
        cause=f"{shown}: {opposite if value < 0 else weak}",
        remedy=remedy,
        settings=("metaparameters.injection_steps",),
    )
