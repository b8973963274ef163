"""Settings of the searches that a learning-rate schedule is compared with, and their results.

This module does not know torch.
"""

import itertools
from importlib.util import find_spec
from typing import Annotated

from pydantic import Field

from engine.recipes.settings import Document, Settings

PEAKS = tuple(10 ** (exponent / 4.5 - 1) for exponent in range(10))
"""Peak rate, relative to training.learning_rate: a tenth to ten times."""

POSITIONS = (0.1, 0.25, 0.4, 0.55, 0.7)
"""Where in the run the peak is."""

STARTS = (0.02, 0.1, 0.25, 0.5, 1.0)
"""First rate, relative to the peak."""

ENDS = (1e-4, 0.01, 0.1, 0.5)
"""Last rate, relative to the peak."""


class SchedulesSettings(Settings):
    """What a descent on the learning rate is compared with."""

    grid: Annotated[int, Field(ge=0, le=1000)] = 0
    """One-cycle schedules to train, spread evenly over a grid of 1,000: ten peaks, five positions
    of the peak, five first and four last rates; 0 trains none."""

    chunk: Annotated[int, Field(ge=1)] = 100
    """Schedules of a stage, which are trained as one batched run."""

    optuna: bool = False
    """Let Optuna's TPE choose the key points, with as many trainings as the descent has."""

    @property
    def chunks(self) -> list[range]:
        """The places in the grid of each stage's schedules."""
        starts = range(0, self.grid, self.chunk)
        return [range(start, min(start + self.chunk, self.grid)) for start in starts]


class OneCycle(Document):
    """A rate that rises linearly to a peak and falls linearly from it."""

    peak: float
    """Highest rate, relative to training.learning_rate."""

    position: float
    """Where in the run it is, from 0 to 1."""

    start: float
    """First rate, relative to the highest."""

    end: float
    """Last rate, relative to the highest."""


class Searched(Document):
    """What a search found, chosen by the validation split as the descent's iterate is."""

    trainings: int
    """How many schedules were trained."""

    failed: int
    """Those of them that diverged."""

    best: dict[str, float]
    """Loss on each split, of the schedule with the lowest validation loss."""

    rates: list[float]
    """That schedule's rate at each step."""

    losses: list[float]
    """Validation losses of all that did not diverge, the lowest first."""

    def rank(self, loss: float) -> int:
        """Return the place that a validation loss has among those found; 1 is better than all."""
        return 1 + sum(each < loss for each in self.losses)


def one_cycles(number: int) -> list[OneCycle]:
    """Return schedules spread evenly over the grid, in its order."""
    whole = list(itertools.product(PEAKS, POSITIONS, STARTS, ENDS))
    chosen = [whole[i * len(whole) // number] for i in range(number)]
    return [OneCycle(peak=a, position=b, start=c, end=d) for a, b, c, d in chosen]


def has_optuna() -> bool:
    """Say whether Optuna is installed, which is an extra."""
    return find_spec("optuna") is not None
