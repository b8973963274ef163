"""Trainings at z and around it as one batched run, where the results are the same.

What is measured is how far trainings end from each other, which may be little. A batched run sums
in another order than a single one, so it counts only where what that moves is small beside it.
"""

from collections.abc import Sequence

from torch import Tensor

from engine.replay.at_once import at_once
from engine.replay.batched import (
    Together,
    never_together,
    train_many,
    why_not_together,
)
from engine.routine.routine import Routine
from engine.types import Metaparams, State

SAME = 1e-3
"""How far the batched training at z may end from that by itself, beside the least distance of
another one from it. A thousandth leaves Definition 2 its three digits; in float32 and with the
default step a small net is at a tenth of that."""


def train_around(
    routine: Routine, points: Sequence[Metaparams], alone: State
) -> tuple[list[State], str | None]:
    """Train at z and around it as one batched run.

    Args:
        routine: The run.
        points: z, and then the others, one at least.
        alone: s_T of the training at z by itself, which the batched one is compared with.

    Returns:
        s_T at each point, and None; or no states, and in a sentence why they are to be trained one
        by one. No clock decides.

    Raises:
        NonFiniteError: If a training diverges; names the step.
    """
    obstacle = never_around(routine, len(points)) or why_not_together(routine, points)
    if obstacle is not None:
        return [], obstacle
    states = train_many(routine, points, together=Together.BATCHED)
    own, *others = (state["params"] for state in states)
    off, moved = _distance(own, alone["params"]), min(_distance(each, own) for each in others)
    if off > SAME * moved:
        why = (
            f"the batched training at z ends {off:.1e} from the one by itself, beside {moved:.1e} "
            "by which the least of the shifts moves it."
        )
        return [], why
    return states, None


def never_around(routine: Routine, number: int) -> str | None:
    """Say why so many trainings cannot be one batched run, as far as that is known without a step.

    Models of which few go through a step together gain little, and one after the other they are
    stages that workers share and that are kept one by one.
    """
    never = never_together(routine)
    if never is not None:
        return never
    at_a_time = at_once(routine)
    if at_a_time >= number:
        return None
    return (
        f"{number} models of {routine.layout.size:,} parameters are more than the {at_a_time} that "
        "go through a step together."
    )


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm())
