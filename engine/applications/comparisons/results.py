"""Comparisons of a run with other set-ups, as its record holds them."""

import math

from engine.errors import NonFiniteError
from engine.recipes.rate_search import Searched
from engine.recipes.settings import Document
from engine.stages.commits import read_rows, read_scalars
from engine.stages.references import Ref
from engine.stages.run import Run


class Baseline(Document):
    """One set-up made without a metagradient."""

    name: str
    """What it is called, e.g. random."""

    value: Ref
    """Its metaparameters."""

    final: Ref
    """s_T."""

    scores: dict[str, dict[str, float]]
    """Split (objective, validation, test) to ``loss``, and ``accuracy`` for classifiers."""

    examples: int | None = None
    """Examples that it trains on, for selections."""

    corrupted: int | None = None
    """Those of them whose label is wrong, for selections."""


class Rerun(Document):
    """The first and the chosen z, trained by another routine."""

    name: str
    """What is changed, e.g. seed 1."""

    before: dict[str, dict[str, float]] | None
    """Split to scores at z_0; None if that training diverged."""

    after: dict[str, dict[str, float]] | None
    """Split to scores at the chosen z; None if that training diverged."""

    training_loss: tuple[float | None, float | None]
    """Mean loss over the last tenth of the steps, at z_0 and at the chosen z."""


class ChangedImage(Document):
    """One training example, such as an image, whose input was changed, and what that did."""

    id: int
    """Its position in the data set."""

    place: int = -1
    """Its place among the training candidates; -1 in records that did not say it."""

    name: str = ""
    """What people call it; empty where its position says it."""

    label: int | None
    """Its class, which was not changed; none where labels are no classes."""

    damage: float
    """Its part of the rise of the objective: the metagradient along the path of its pixels."""


class Damage(Document):
    """The images and classes that account for the effect of changed inputs."""

    images: list[ChangedImage]
    """The changed images, the most harmful first."""

    rise: float
    """Rise of the objective from z_0 to the chosen z, which the images' parts add up to, but for
    the error of a sum over finite steps."""

    classes: dict[str, float]
    """Class of the changed images to their part of it; empty where labels are no classes."""

    victims: dict[str, tuple[float, float]]
    """Class to the accuracy on its test examples, at z_0 and at the chosen z; empty likewise."""

    @property
    def parts(self) -> float:
        """What the parts of all changed images add up to."""
        return math.fsum(image.damage for image in self.images)

    @property
    def adds_up(self) -> bool:
        """Whether that is the rise, within a factor of two: else shares of it mean nothing.

        Where a training is chaotic, the sum over finite steps is wrong by powers of ten.
        """
        return self.rise != 0 and 0.5 <= self.parts / self.rise <= 2


class Comparisons(Document):
    """All comparisons of a run."""

    baselines: list[Baseline] = []
    """Set-ups made without a metagradient, in the order of the recipe."""

    reruns: list[Rerun] = []
    """The first and the chosen z, trained by other routines."""

    grid: Searched | None = None
    """For a learning rate: what a grid of one-cycle schedules found."""

    optuna: Searched | None = None
    """For a learning rate: what Optuna found with as many trainings."""


def read_scores(store: str, ref: Ref) -> dict[str, dict[str, float]]:
    """Return the scores by split, of an evaluation or of a training in one stage.

    Raises:
        NonFiniteError: If that training diverged.
    """
    found = read_scalars(store, ref)
    if "diverged" in found:
        raise NonFiniteError(found["diverged"])
    return found.get("splits", found)


def read_rerun(store: str, name: str, before: Ref, after: Ref) -> Rerun:
    """Gather what is known of one rerun."""
    first, second = read_scalars(store, before), read_scalars(store, after)
    return Rerun(
        name=name,
        before=first.get("splits"),
        after=second.get("splits"),
        training_loss=(first.get("training_loss"), second.get("training_loss")),
    )


def count_examples(run: Run, value: Ref) -> tuple[int | None, int | None]:
    """Return how many examples z keeps, and how many of those have a wrong label, if any has.

    Both are None for metaparameters that select no examples.
    """
    if not run.recipe.metaparameters.about.selects_examples:
        return None, None
    kept = read_rows(run.store, value)["value"] > 0
    corrupted = run.problem.data.corrupted
    return int(kept.sum()), int((kept & corrupted).sum()) if corrupted.any() else None
