"""Metasmoothness: whether a small change of the set-up changes the trained model in proportion.

Where it does not, a metagradient is true and useless. Two definitions, each from trainings at z,
z + h v and z + 2 h v, without any metagradient. Definition 1 is the curvature of the output along
v; lower is smoother. Definition 2 compares how each trained parameter moves in the first step and
in the second; 1 is a linear response.

References:
    Engstrom et al. 2025, arXiv:2503.13751, the definitions of metasmoothness and of empirical
    metasmoothness.
"""

import logging
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from engine.errors import ConfigurationError
from engine.numerics.determinism import generator
from engine.preflight.moved import train_around
from engine.recipes.smoothness import DirectionKind, SmoothnessSettings
from engine.recipes.training import Retraining
from engine.replay.plain_training import evaluate, train_unchecked
from engine.routine.routine import Routine
from engine.types import Metaparams, Output, State

_logger = logging.getLogger(__name__)

INDEPENDENT = math.sqrt(2) - 1
"""Definition 2 of two independent increments, a random walk: 0.414. Not a good score."""

CHAOS = -(1 - 1 / math.sqrt(2))
"""Definition 2 where each training ends somewhere else, whatever z: -0.293."""

SMOOTH = 0.9
"""Definition 2 of a linear response with noise of 0.3 increments at its ends is 0.899."""

Trainer = Callable[[Routine, Sequence[Metaparams]], Sequence[State]]
"""Trains a routine at several points and returns the final states."""


@dataclass(frozen=True)
class Score:
    """One definition along several directions.

    Attributes:
        directions: The value along each direction; None where nothing moved.
    """

    directions: tuple[float | None, ...]

    @property
    def mean(self) -> float:
        """Mean over the directions along which something moved."""
        return statistics.fmean(self._moved)

    @property
    def spread(self) -> float | None:
        """Standard deviation over them; None for a single one."""
        return statistics.stdev(self._moved) if len(self._moved) > 1 else None

    @property
    def _moved(self) -> list[float]:
        return [value for value in self.directions if value is not None]

    def content(self) -> dict[str, Any]:
        """Return ``mean``, ``spread`` and ``directions`` as JSON."""
        return {"mean": self.mean, "spread": self.spread, "directions": list(self.directions)}


@dataclass(frozen=True)
class Metasmoothness:
    """Both definitions of a routine.

    Attributes:
        definition_1: |f(z + 2 h v) - 2 f(z + h v) + f(z)| / h^2; lower is smoother.
        definition_2: Agreement of the parameters' moves, from -1 to 1; higher is smoother.
        step: h.
    """

    definition_1: Score
    definition_2: Score
    step: float

    def content(self) -> dict[str, Any]:
        """Return both definitions and the step as JSON."""
        return {
            "definition_1": self.definition_1.content(),
            "definition_2": self.definition_2.content(),
            "step": self.step,
        }


def metasmoothness(
    routine: Routine,
    output: Output,
    settings: SmoothnessSettings | None = None,
    *,
    groups: Int64[Tensor, " examples"] | None = None,
    z: Metaparams | None = None,
    trainer: Trainer | None = None,
) -> Metasmoothness:
    """Measure both definitions along random directions.

    Args:
        routine: The run, with at least one metaparameter of any kind.
        output: phi, for Definition 1.
        settings: Number and kind of directions, the step h, and whether the trainings go as one
            batched run where that comes to the same; see ``SmoothnessSettings``.
        groups: Group of each example, for directions by group.
        z: Where; the routine's own point by default.
        trainer: Trains at all points in place of that.

    Raises:
        ConfigurationError: If the directions do not fit z, or no training moved along any.
        NonFiniteError: If a training diverges; names the step.

    Cost:
        1 + 2 x ``settings.directions`` trainings, and one more at z beside batched ones.
    """
    settings = settings or SmoothnessSettings()
    step = settings.step
    point = routine.point() if z is None else z
    points = [point]
    for index in range(settings.directions):
        direction = draw_direction(point, settings, index, groups)
        points += [shifted(point, direction, step), shifted(point, direction, 2 * step)]
    states = (trainer or _TRAINERS[settings.retraining])(routine, points)
    outputs = [float(evaluate(routine, state, output)) for state in states]
    first, second = [], []
    for i in range(1, len(points), 2):
        moved = [states[0]["params"], states[i]["params"], states[i + 1]["params"]]
        first.append(second_difference(outputs[0], outputs[i], outputs[i + 1], step))
        second.append(agreement(*moved))
    return gather(first, second, step)


def _train_each(routine: Routine, points: Sequence[Metaparams]) -> list[State]:
    return [train_unchecked(routine, each) for each in points]


def _train_together(routine: Routine, points: Sequence[Metaparams]) -> list[State]:
    first = train_unchecked(routine, points[0])
    states, why_not = train_around(routine, points, first)
    if why_not is None:
        return states
    _logger.info("%d trainings go one by one: %s", len(points), why_not)
    return [first, *_train_each(routine, points[1:])]


_TRAINERS: dict[Retraining, Trainer] = {
    Retraining.BATCHED: _train_together,
    Retraining.LOOP: _train_each,
}


def draw_direction(
    z: Metaparams,
    settings: SmoothnessSettings,
    index: int,
    groups: Int64[Tensor, " examples"] | None = None,
) -> Metaparams:
    """Draw the ``index``-th direction v, not normalized; a pure function of its arguments.

    Raises:
        ConfigurationError: If directions by group are asked for, and z has no such groups.
    """
    fitting = DirectionKind.GROUP if _have_groups(z, groups) else DirectionKind.EXAMPLE
    by = settings.by or fitting
    drawn = generator(settings.seed, "direction", by.value, index)
    match by:
        case DirectionKind.EXAMPLE:
            return {name: _normal(tuple(t.shape), drawn).to(t) for name, t in z.items()}
        case DirectionKind.GROUP:
            return {name: _by_group(name, t, groups, drawn) for name, t in z.items()}
        case DirectionKind.COORDINATE:
            total = sum(tensor.numel() for tensor in z.values())
            place = int(torch.randint(total, (), generator=drawn))
            direction = {}
            for name, tensor in z.items():
                flat = torch.zeros(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
                if 0 <= place < len(flat):
                    flat[place] = 1
                place -= len(flat)
                direction[name] = flat.view(tensor.shape)
            return direction


def shifted(z: Metaparams, direction: Metaparams, distance: float) -> Metaparams:
    """Return z + distance v."""
    return {name: tensor + distance * direction[name] for name, tensor in z.items()}


def second_difference(at_0: float, at_h: float, at_2h: float, step: float) -> float:
    """Return Definition 1: |f(z + 2 h v) - 2 f(z + h v) + f(z)| / h^2, in units of the output."""
    return abs(at_2h - 2 * at_h + at_0) / step**2


def agreement(
    at_0: Float[Tensor, " params"], at_h: Float[Tensor, " params"], at_2h: Float[Tensor, " params"]
) -> float | None:
    """Return Definition 2: the agreement of the parameters' first and second move.

    sum_i d_i sign(theta_h - theta_0)_i sign(theta_2h - theta_h)_i / sum_i d_i with
    d = |theta_2h - theta_0|, from -1 to 1.

    Returns:
        None if nothing moved at all. If everything came back to where it began, all d are 0 and
        the limit, -1, is returned.
    """
    first, second = (at_h - at_0).double(), (at_2h - at_h).double()
    distance = (at_2h - at_0).double().abs()
    if not first.any() and not second.any():
        return None
    if not distance.any():
        return -1.0
    return float((distance * first.sign() * second.sign()).sum() / distance.sum())


def gather(first: Sequence[float], second: Sequence[float | None], step: float) -> Metasmoothness:
    """Gather the values along each direction.

    Raises:
        ConfigurationError: If no parameter moved along any direction.
    """
    if all(value is None for value in second):
        raise ConfigurationError(
            f"No trained parameter moved along any of {len(second)} directions with a step of "
            f"{step}, so there is nothing to compare. Use a larger step, or directions by example: "
            "a single coordinate may be one that no step reads."
        )
    kept = [
        value if moved is not None else None for value, moved in zip(first, second, strict=True)
    ]
    return Metasmoothness(Score(tuple(kept)), Score(tuple(second)), step)


def explain(found: Metasmoothness) -> list[str]:
    """Say what the numbers mean, next to those of independent and of chaotic trainings."""
    one, two = found.definition_1, found.definition_2
    many = len(two.directions)
    sentences = [
        f"Metasmoothness (Definition 2): {_with_spread(two, 3)} over "
        f"{many} direction{'s' * (many > 1)}, by steps of h = {found.step:g}; 1 is a linear "
        "response.",
        f"For comparison: {INDEPENDENT:.3f} where the second step moves the parameters without "
        f"regard to the first one, {CHAOS:.2f} where training is chaotic.",
        f"Curvature (Definition 1): {_with_spread(one)}, the second difference of the output "
        "by the square of h; lower is smoother.",
        what_it_means(two.mean),
    ]
    unmoved = sum(value is None for value in two.directions)
    if unmoved:
        sentences.append(f"Along {unmoved} directions nothing moved; they are left out.")
    return sentences


def what_it_means(mean: float) -> str:
    """Say what a mean of Definition 2 means for metagradients."""
    if mean >= SMOOTH:
        return (
            "The trained parameters answer almost in proportion, so a metagradient predicts what "
            "a change does. A central difference says how well."
        )
    if mean > INDEPENDENT + 0.2:
        return (
            "The trained parameters answer in proportion for the most part. Short outer steps may "
            "help; compare the metagradient with a central difference."
        )
    if mean > 0.15:
        return (
            "Not smooth: the trained parameters answer no better than by independent increments. "
            "Metagradients of this routine are mostly noise; try a smooth activation such as gelu, "
            "a lower learning rate, a larger batch or a smaller output of the last layer."
        )
    return (
        "Close to chaos: where training ends has little to do with z. A metagradient of "
        "this routine is useless; use a much lower learning rate, a larger batch, or a smooth "
        "activation."
    )


def _with_spread(score: Score, digits: int | None = None) -> str:
    def number(value: float) -> str:
        return f"{value:.3g}" if digits is None else f"{value:.{digits}f}"

    return number(score.mean) + (
        "" if score.spread is None else f" (standard deviation {number(score.spread)})"
    )


def _have_groups(z: Metaparams, groups: Tensor | None) -> bool:
    return groups is not None and all(t.ndim and t.shape[0] == len(groups) for t in z.values())


def _normal(shape: tuple[int, ...], drawn: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=drawn, dtype=torch.float64)


def _by_group(name: str, z: Tensor, groups: Tensor | None, drawn: torch.Generator) -> Tensor:
    if groups is None or z.ndim == 0 or z.shape[0] != len(groups):
        raise ConfigurationError(
            f"Directions by group need the group of each coordinate of {name!r}, which has shape "
            f"{tuple(z.shape)}, and {'none are' if groups is None else f'{len(groups)} are'} "
            "known. Use directions by example or by coordinate."
        )
    each = _normal((int(groups.max()) + 1, *z.shape[1:]), drawn)
    return each[groups.cpu()].to(z)
