"""A metagradient beside the difference of two whole trainings along a random direction.

The trainings know nothing of the reverse sweep. They are compared in the run's own number format.
Where rounding or curvature leaves more room there than number formats differ by, they are compared
once more in float64, in which a term that is missing shows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from engine.numerics.determinism import deterministic, generator
from engine.preflight.derivatives import FORMAT_REFUSAL
from engine.preflight.verdict import Check, Verdict
from engine.progress.meter import doing
from engine.recipes.training import TrainingSettings
from engine.replay.plain_training import evaluate, train_unchecked
from engine.routine.number_format import in_format, output_in_format
from engine.routine.routine import Routine
from engine.types import Metaparams, Output, State

NAME = "central-difference"

Reading = Callable[[Routine, State], float]
"""Reads what was differentiated from a trained state of a run, in the run's number format."""


def reading(own: Routine, output: Output) -> Reading:
    """Return a function that reads an output of a run, in the format of the twin it is given."""

    def read(routine: Routine, state: State) -> float:
        dtype = routine.layout.dtype
        told = output if dtype is own.layout.dtype else output_in_format(output, dtype)
        return float(evaluate(routine, state, told))

    return read


@dataclass(frozen=True)
class Slope:
    """A metagradient in a random direction v, to be compared with two trainings.

    Attributes:
        routine: The run at z.
        read: Reads the output from a trained state.
        gradient: The metagradient, of the shapes of z.
        middle: The output at z.
        seed: Draws v.
        told: What was differentiated, for people; empty if that is clear.
    """

    routine: Routine
    read: Reading
    gradient: Metaparams
    middle: float
    seed: int
    told: str = ""

    @cached_property
    def direction(self) -> Metaparams:
        """The direction v, of norm 1."""
        return random_direction(self.gradient, self.seed)

    @cached_property
    def predicted(self) -> float:
        """<metagradient, v>."""
        pairs = ((g.double(), self.direction[name].double()) for name, g in self.gradient.items())
        return sum(float((one * other).sum()) for one, other in pairs)

    @property
    def eps(self) -> float:
        """Distance of 1 to the next number."""
        return torch.finfo(self.routine.layout.dtype).eps

    def exact(self) -> "Slope":
        """Return the same metagradient beside trainings in float64."""
        return replace(self, routine=in_format(self.routine, torch.float64))

    def compare(self, *, formats: bool = False) -> Check:
        """Train twice, and judge what the metagradient says.

        Args:
            formats: Whether it is from another number format, and may be off by as much as formats
                may differ.
        """
        point = self.routine.point()
        step = _distance(self.eps, self.middle, self.predicted)

        def value_at(shift: float) -> float:
            moved = {name: z + shift * self.direction[name].to(z) for name, z in point.items()}
            return self.read(self.routine, train_unchecked(self.routine, moved))

        above, below = value_at(step), value_at(-step)
        found = (above - below) / (2 * step)
        # Rounding: every step rounds, at random, so an output is off by about eps sqrt(T) of
        # itself. Smoothness: the slope changes by |second difference| h within the distance h; the
        # symmetric part of that cancels in a smooth run, and not in one that jumps.
        size = max(abs(self.middle), 1.0)
        rounding = 4 * self.eps * math.sqrt(self.routine.num_steps) * size / step
        bend = abs(above - 2 * self.middle + below) / step
        tolerance = rounding + bend + (1e-6 + FORMAT_REFUSAL * formats) * abs(self.predicted)
        return _compare(found, self.predicted, tolerance, step, self.told, formats=formats)


def compare_with_trainings(slope: Slope, settings: TrainingSettings) -> list[Check]:
    """Compare a metagradient with two trainings, and with two in float64 where that says more.

    Returns:
        One check, or two. Where rounding and curvature decide nothing in the run's own format,
        there is only that in float64.

    Cost:
        Two trainings, or four.
    """
    with deterministic(settings.threads, tf32=settings.tf32):
        with doing("two trainings at some distance"):
            own = slope.compare()
        if slope.routine.layout.dtype is torch.float64 or (own.limit or 0.0) <= FORMAT_REFUSAL:
            return [own]
        with doing("two trainings in float64"):
            exact = _in_float64(slope)
    if own.verdict is Verdict.WARN:
        return [exact]
    return [own, exact]


def _in_float64(slope: Slope) -> Check:
    """Compare with trainings in float64; the other format may differ from them by its rounding.

    They are other trainings than the run's own, so the output in the middle is theirs too.
    """
    other = slope.exact()
    middle = other.read(other.routine, train_unchecked(other.routine))
    check = replace(other, middle=middle).compare(formats=True)
    cause = f"In float64: {check.cause[:1].lower()}{check.cause[1:]}"
    return check.model_copy(update={"name": f"{NAME}-float64", "cause": cause})


def _compare(
    found: float, predicted: float, tolerance: float, step: float, told: str, *, formats: bool
) -> Check:
    allowed = "rounding, curvature and the number format" if formats else "rounding and curvature"
    size = max(abs(predicted), 1e-300)
    error = abs(found - predicted)
    named = {"name": NAME, "value": error / size, "limit": tolerance / size}
    shown = (
        f"Two trainings at a distance of {step:.2g} show a slope of {found:.6g}{told}, and the "
        f"metagradient says {predicted:.6g}"
    )
    if error > tolerance:
        return Check(
            **named,
            verdict=Verdict.REFUSE,
            cause=f"{shown}: further apart than {allowed} explain ({tolerance:.1e}).",
            remedy="Run mgd check, which looks for the term that is cut from the derivative.",
        )
    if tolerance > 0.5 * size:
        return Check(
            **named,
            verdict=Verdict.WARN,
            cause=f"{shown}; {allowed} allow {tolerance:.1e}, which is too much to "
            "decide anything: the run is not smooth enough in z, or its metagradient too small.",
            remedy="Set training.dtype to float64, or arguments.model.activation to gelu.",
        )
    cause = f"{shown}, within what {allowed} allow ({tolerance:.1e})."
    return Check(**named, verdict=Verdict.PASS, cause=cause)


def random_direction(gradient: Metaparams, seed: int) -> Metaparams:
    """Draw v of norm 1 with half of its square along the metagradient.

    A direction that is random throughout is nearly orthogonal to it where z is long, and its slope
    is then lost in rounding.
    """
    drawn = generator(seed, "verify")
    total = _norm(gradient)
    noise = {n: torch.randn(g.shape, generator=drawn).to(g) for n, g in gradient.items()}
    length = _norm(noise)
    return {
        n: (noise[n] / length + (g / total if total else 0)) / math.sqrt(2)
        for n, g in gradient.items()
    }


def _norm(tensors: Metaparams) -> Tensor:
    return torch.stack([tensor.norm() for tensor in tensors.values()]).norm()


def _distance(eps: float, output: float, slope: float) -> float:
    """Return h at which the outputs differ by about the cube root of the number format's eps.

    There truncation (h squared) and rounding (eps / h) are about equal for a smooth run.
    """
    change = eps ** (1 / 3) * max(abs(output), 1e-3)
    return min(max(change / max(abs(slope), 1e-12), eps ** (1 / 3)), 1.0)
