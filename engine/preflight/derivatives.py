"""Checks of the metagradient against two references that share little code with REPLAY.

Autograd through the whole run shares the step's code, so it finds what the reverse sweep loses.
Central differences share no derivative at all, so they find what the user's code hides from
autograd: a detached term, a custom backward that is wrong. They need a run without jumps, which
kinks (ReLU, max pooling) make, so a failure is refused only if the differences agree among
themselves at several distances and the metagradient does not.
"""

from dataclasses import dataclass
from itertools import cycle, pairwise

import torch
from torch import Tensor

from engine.numerics.determinism import generator
from engine.preflight.cuts import find_cut
from engine.preflight.oracle import central_difference, central_differences, whole_run_gradient
from engine.preflight.verdict import Check, Verdict
from engine.recipes.replay import ReplaySettings
from engine.replay.metagradient import differentiate
from engine.routine.routine import Routine
from engine.types import Metaparams, Output

AUTOGRAD_LIMIT = 1e-9
"""Relative error in float64. Sums in another order leave 1e-13; a lost term leaves 1e-3 or more."""

DIFFERENCE_LIMIT = 1e-5
"""Relative error of a central difference at the best of several distances, in float64.

Rounding and truncation leave 1e-9 to 1e-7 at h = 1e-5, with Adam near v = 0 up to 2e-6. A term that
is detached leaves about its own size: a weight decay of 1e-3 at a learning rate of 0.1, 1e-3.
"""

DISTANCES = (1e-5, 1e-4, 1e-6, 1e-7)
"""h, in units of z: the first for all directions, the others for those that fail there."""

FORMAT_WARNING, FORMAT_REFUSAL = 1e-3, 3e-2
"""Relative error of the run's own number format against float64, over the exact twin's steps."""


def check_autograd(routine: Routine, output: Output, found: Metaparams) -> Check:
    """Compare a metagradient with autograd through the whole run, in float64."""
    _, expected = whole_run_gradient(routine, output)
    error = relative_error(found, expected)
    zero = [name for name, value in found.items() if not value.any()]
    named = {"name": "whole-run-autograd", "value": error, "limit": AUTOGRAD_LIMIT}
    if zero:
        return Check(
            **named,
            verdict=Verdict.REFUSE,
            cause=f"The metagradient of {zero[0]!r} is exactly 0 everywhere: it enters the run, "
            "but multiplied by 0, or filled with zeros in place of a missing gradient.",
            remedy="Look for zeros_like, allow_unused or nan_to_num between z and the loss.",
        )
    if error > AUTOGRAD_LIMIT:
        return Check(
            **named,
            verdict=Verdict.REFUSE,
            cause="The metagradient is not what autograd finds through the whole run, relative "
            f"error {error:.1e}: the reverse sweep loses a part that the graph of the run has.",
            remedy="Compare with schedule='store-all', and report the difference.",
            settings=("replay.schedule",),
        )
    return Check(
        **named,
        verdict=Verdict.PASS,
        cause="In float64 the metagradient is that of autograd through the whole run.",
    )


def relative_error(found: Metaparams, expected: Metaparams) -> float:
    """Return the largest relative error over the metaparameters, each by its norm."""
    errors = [
        float((found[name].double() - value.double()).norm() / value.double().norm())
        for name, value in expected.items()
        if value.any() or found[name].any()
    ]
    return max(errors, default=0.0)


@dataclass
class Direction:
    """One direction in z, along one metaparameter, and the differences found along it.

    Attributes:
        vector: v.
        predicted: <metagradient, v>.
        scale: Size of such a product, which errors are relative to.
        differences: Central difference by distance h.
    """

    vector: Metaparams
    predicted: float
    scale: float
    differences: dict[float, float]

    @property
    def error(self) -> float:
        """Relative error at the best distance."""
        return min(abs(found - self.predicted) for found in self.differences.values()) / self.scale

    @property
    def agrees(self) -> bool:
        """Say whether the metagradient is right along this direction."""
        return self.error <= DIFFERENCE_LIMIT

    @property
    def is_steady(self) -> bool:
        """Say whether neighbouring distances give one difference, far from the prediction.

        Then it is a derivative, and another one than the metagradient; if not, the run jumps.
        """
        found = [self.differences[h] for h in sorted(self.differences)]
        spread = min(abs(a - b) for a, b in pairwise(found)) / self.scale
        return spread <= 0.1 * self.error


def check_differences(
    routine: Routine, output: Output, found: Metaparams, kinks: set[str], num_directions: int
) -> Check:
    """Compare a metagradient with central differences along random directions, in float64."""
    directions = _measured_directions(routine, output, found, num_directions)
    failed = [direction for direction in directions if not direction.agrees]
    steady = [direction for direction in failed if direction.is_steady]
    named = {
        "name": "central-differences",
        "value": max(direction.error for direction in directions),
        "limit": DIFFERENCE_LIMIT,
    }
    words = " and ".join(sorted(kinks))
    if not failed:
        cause = f"Central differences along {num_directions} directions agree."
        if kinks:
            have = "have" if len(kinks) > 1 else "has"
            cause += f" Over long runs they need not: {words} {have} kinks, where the run jumps."
        return Check(**named, verdict=Verdict.PASS, cause=cause)
    if 2 * len(steady) > len(failed) or (steady and not kinks):
        cut = find_cut(routine, found)
        return Check(
            **named,
            verdict=Verdict.REFUSE,
            cause=f"Along {len(failed)} of {num_directions} directions two trainings show another "
            f"derivative than the metagradient. {cut}",
            remedy="Look there for detach(), .data, item(), no_grad() or a custom backward; "
            "engine.stop_gradient(x) in place of x.detach() has a derivative.",
        )
    if kinks:
        return Check(
            **named,
            verdict=Verdict.PASS,
            cause=f"Along {len(failed)} of {num_directions} directions the differences depend on "
            f"their distance: {words} has kinks, where the run jumps and has no derivative. This "
            "is no error of the metagradient, which autograd through the whole run confirms.",
            remedy="For a run that differences can prove, use a smooth activation such as gelu.",
            settings=("arguments.model.activation",),
        )
    return Check(
        **named,
        verdict=Verdict.WARN,
        cause=f"Along {len(failed)} of {num_directions} directions the differences depend on their "
        "distance, although no operation has a kink: the run is chaotic, or rounds or branches.",
        remedy="Lower learning_rate or, with Adam, raise eps_root.",
        settings=("training.learning_rate", "optimizer.eps_root"),
    )


def _measured_directions(
    routine: Routine, output: Output, found: Metaparams, count: int
) -> list[Direction]:
    """Return random directions with central differences along them, at as few as suffice."""
    directions = _directions(found, count)
    vectors = [direction.vector for direction in directions]
    together = central_differences(routine, output, vectors, DISTANCES[0])
    for direction, difference in zip(directions, together or [], strict=False):
        direction.differences[DISTANCES[0]] = difference
    # What does not agree there is trained again by itself, so only such trainings refuse a run.
    for direction in directions:
        if direction.differences and direction.agrees:
            continue
        direction.differences.clear()
        for h in DISTANCES:
            direction.differences[h] = central_difference(
                routine, output, direction.vector, step_size=h
            )
            if direction.agrees:
                break
    return directions


def _directions(found: Metaparams, count: int) -> list[Direction]:
    directions = []
    for number, name in zip(range(count), cycle(found), strict=False):
        gradient = found[name].cpu()
        drawn = generator(0, "preflight", number)
        vector = torch.randn(gradient.shape, generator=drawn, dtype=gradient.dtype)
        directions.append(
            Direction(
                {name: vector.to(found[name].device)},
                float((gradient * vector).sum()),
                max(float(gradient.norm()), torch.finfo(gradient.dtype).tiny),
                {},
            )
        )
    return directions


def check_format(
    dtype: torch.dtype, own: Metaparams, exact: Metaparams, low_precision: set[str]
) -> Check:
    """Compare the metagradient in the run's number format with that in float64.

    Args:
        dtype: The run's number format.
        own: Metagradient of the twin in that format.
        exact: Metagradient of the same twin in float64.
        low_precision: Formats of fewer than 32 bits that a step computes in.
    """
    error = relative_error({name: value.to(exact[name]) for name, value in own.items()}, exact)
    named = {"name": "number-format", "value": error, "limit": FORMAT_WARNING}
    shown = str(dtype).removeprefix("torch.")
    if low_precision:
        return Check(
            **named,
            verdict=Verdict.REFUSE,
            cause=f"The step computes in {' and '.join(sorted(low_precision))}, whose metagradient "
            f"has a relative error of {error:.1e} after a few steps: digits, and signs, are noise.",
            remedy="Convert model and examples to float32 or float64, and leave out autocast().",
            settings=("training.dtype",),
        )
    if dtype == torch.float64:
        cause = "The run itself is in float64."
        return Check(**named, verdict=Verdict.PASS, cause=cause)
    if error <= FORMAT_WARNING:
        cause = f"In {shown} the metagradient is that of float64."
        return Check(**named, verdict=Verdict.PASS, cause=cause)
    return Check(
        **named,
        verdict=Verdict.REFUSE if error > FORMAT_REFUSAL else Verdict.WARN,
        cause=f"In {shown} the metagradient has a relative error of {error:.1e} against float64, "
        "after few steps: digits cancel, as where Adam divides by a very small root.",
        remedy="Convert model and examples to float64 or, with Adam, raise eps_root.",
        settings=("training.dtype", "optimizer.eps_root"),
    )


def metagradient_of(routine: Routine, output: Output, replay: ReplaySettings) -> Metaparams:
    """Return the metagradient by REPLAY, with the deepest tree there is.

    The product of a step is the run's own; which schedule makes its states again changes no bit.
    """
    deep = ReplaySettings(arity=2, vjp=replay.vjp, micro_batch=replay.micro_batch)
    (found,) = differentiate(routine, [output], None, deep, twice=False)  # the run's own was
    return found.gradient


def norm(gradient: Metaparams) -> Tensor:
    """Return the norm over all metaparameters."""
    return torch.stack([value.double().norm().cpu() for value in gradient.values()]).norm()
