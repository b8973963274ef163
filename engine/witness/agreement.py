"""Limit on the difference of two numbers of one step, by rounding in the run's number format."""

import math

import torch
from torch import Tensor

from engine.routine.layout import real
from engine.routine.routine import Routine


def relative(own: Tensor, theirs: Tensor, scale: float = 0.0) -> float:
    """Return the size of a difference by that of what it should be; infinite where one is NaN."""
    own, theirs = real(own), real(theirs)
    difference = float((own.double() - theirs.double()).norm())
    size = max(float(theirs.double().norm()), scale)
    if math.isnan(difference):
        return math.inf
    return difference / size if size else (0.0 if difference == 0 else math.inf)


def gradient_limit(routine: Routine) -> float:
    """Return the relative difference that roundings of the run's number format may make."""
    return 10 * torch.finfo(routine.layout.dtype).eps ** 0.5


def value_limit(routine: Routine) -> float:
    """Return the relative difference that roundings may make of losses and of an output.

    The same operations make them on both sides, and no difference of large numbers is in between,
    as there may be in a gradient.
    """
    return max(2000 * torch.finfo(routine.layout.dtype).eps, 1e-8)


def least_size(routine: Routine) -> float:
    """Return the size below which a value counts as that much: a hundred roundings of 1 pass."""
    return 100 * torch.finfo(routine.layout.dtype).eps / value_limit(routine)
