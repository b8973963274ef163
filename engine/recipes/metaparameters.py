"""Settings of z: what a run is differentiated with respect to. This module does not know torch.

A kind is described here, by its name and what others ask of it (``KINDS``); what it does to a run
is in the file of its name in ``engine.metaparameters``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from engine.recipes.comparisons import MIXTURES, POISONS, SELECTIONS, BaselineName
from engine.recipes.settings import Settings, refuse_unread


class MetaparameterName(StrEnum):
    """What is differentiated with respect to."""

    COUNTS = "counts"
    WEIGHTS = "weights"
    LEARNING_RATE = "learning-rate"
    SCALARS = "scalars"
    GROUP_WEIGHTS = "group-weights"
    INPUTS = "inputs"
    INITIAL_PARAMETERS = "initial-parameters"
    OWN = "own"


class GroupName(StrEnum):
    """What a group of examples is, for group weights, besides the problem's own groups."""

    CLASS = "class"
    CLUSTER = "cluster"
    SOURCE = "source"


class ScalarName(StrEnum):
    """Hyperparameters that hold for the whole run and can be metaparameters."""

    WEIGHT_DECAY = "weight_decay"
    MOMENTUM = "momentum"
    BETA1 = "beta1"
    BETA2 = "beta2"
    LABEL_SMOOTHING = "label_smoothing"


def default_injection_step(num_steps: int) -> int:
    """Return k where nobody says it: 90 % of the run.

    The earlier k, the longer momentum swings between it and the end, and the less its sign says;
    the later, the less the derivative knows of training. See decision 73 in ``DESIGN.md``.
    """
    return 9 * num_steps // 10


def at_steps(steps: Sequence[int]) -> str:
    """Name steps in a sentence: ``step 90``, or ``10 steps from 70 to 97``."""
    if len(steps) == 1:
        return f"step {steps[0]}"
    return f"{len(steps)} steps from {min(steps)} to {max(steps)}"


class MetaparametersSettings(Settings):
    """z: what the run is differentiated with respect to, and where it enters."""

    name: MetaparameterName = MetaparameterName.COUNTS
    """Kind: what of the set-up is differentiated by, and moved."""

    injection_step: Annotated[int | None, Field(ge=0)] = None
    """Step k at which counts are perturbed (Algorithm 1); empty means 90 % of the run."""

    injection_steps: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Several such steps in place of one; the metagradient is the sum of theirs."""

    num_key_points: Annotated[int, Field(ge=1)] = 10
    """Points between which the learning rate is interpolated."""

    scalars: tuple[ScalarName, ...] = (ScalarName.WEIGHT_DECAY,)
    """Which numbers are optimized, for the kind scalars; they start from the other settings."""

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.025
    """Share of the training candidates whose inputs may change, for the kind inputs."""

    kept: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training candidates in the first subset, drawn at random, for counts."""

    groups: Annotated[str, Field(pattern=r"^[\w .()%+-]+$")] = "class"
    """What has a weight, for the kind group-weights: class, cluster (of the inputs), source (of
    texts), or the name of groups that the problem has, such as a column that arguments.groups
    names."""

    num_groups: Annotated[int, Field(ge=2)] = 10
    """Clusters that k-means makes of the inputs."""

    own: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_-]+$")] = None
    """Which of the problem's own metaparameters, for the kind own; empty if it has one."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seeds what is drawn: candidates, first subset, clusters, and the random baseline."""

    @model_validator(mode="after")
    def _settings_are_read(self) -> "MetaparametersSettings":
        reads = {name: about.reads for name, about in KINDS.items()}
        refuse_unread(self, "name", reads, "metaparameters.")
        return self

    @property
    def about(self) -> "About":
        """What there is to know of the kind."""
        return KINDS[self.name]

    @property
    def smooths_labels(self) -> bool:
        """Whether the metaparameters set the label smoothing."""
        return "scalars" in self.about.reads and ScalarName.LABEL_SMOOTHING in self.scalars


@dataclass(frozen=True)
class About:
    """What recipes, reports and applications ask of a kind, instead of its name.

    Attributes:
        title: Heading of its figure.
        caption: How to read that figure; ``{start}`` stands for how examples were at the start.
        reads: Settings of ``MetaparametersSettings`` that it reads, besides name and seed.
        baselines: Set-ups without a metagradient that answer the same question.
        selects_examples: Whether there is one number for each candidate, and 0 leaves it out.
        moves_by_whole: Whether updates that move by whole examples suit it.
        sets_rates: Whether it sets the learning rate of every step.
        weighs_groups: Whether it holds logits of the shares of groups.
        changes_inputs: Whether it holds inputs of chosen candidates.
        for_coupled: Whether it has a meaning where a loss compares the examples of a batch.
    """

    title: str
    caption: str
    reads: frozenset[str] = frozenset()
    baselines: tuple[BaselineName, ...] = ()
    selects_examples: bool = False
    moves_by_whole: bool = False
    sets_rates: bool = False
    weighs_groups: bool = False
    changes_inputs: bool = False
    for_coupled: bool = True

    @property
    def is_injected(self) -> bool:
        """Whether it enters by losses that are injected at some steps, and only so."""
        return "injection_step" in self.reads


_EXAMPLES = "Examples by their {what} at the chosen iterate; at the start {{start}}."

KINDS: dict[MetaparameterName, About] = {
    MetaparameterName.COUNTS: About(
        title="Example counts",
        caption=_EXAMPLES.format(what="count in an epoch"),
        reads=frozenset({"injection_step", "injection_steps", "kept"}),
        baselines=SELECTIONS,
        selects_examples=True,
        moves_by_whole=True,
    ),
    MetaparameterName.WEIGHTS: About(
        title="Example weights",
        caption=_EXAMPLES.format(what="weight in the training loss"),
        baselines=SELECTIONS,
        selects_examples=True,
    ),
    MetaparameterName.LEARNING_RATE: About(
        title="Learning rate",
        caption="Learning rate of each step; the dots are the key points.",
        reads=frozenset({"num_key_points"}),
        sets_rates=True,
    ),
    MetaparameterName.SCALARS: About(
        title="Hyperparameters",
        caption="Numbers that hold for the whole run.",
        reads=frozenset({"scalars"}),
    ),
    MetaparameterName.GROUP_WEIGHTS: About(
        title="Mixture",
        caption="Share of each group in the training loss.",
        reads=frozenset({"groups", "num_groups"}),
        baselines=MIXTURES,
        weighs_groups=True,
        for_coupled=False,
    ),
    MetaparameterName.INPUTS: About(
        title="Changed inputs",
        caption="The changed images that moved the objective most, with their label and their "
        "part of it.",
        reads=frozenset({"fraction"}),
        baselines=POISONS,
        changes_inputs=True,
        for_coupled=False,
    ),
    MetaparameterName.INITIAL_PARAMETERS: About(
        title="Initial parameters",
        caption="How far the descent moved the initial parameters.",
    ),
    MetaparameterName.OWN: About(
        title="The problem's own metaparameter",
        caption="How far the descent moved its numbers.",
        reads=frozenset({"own"}),
    ),
}
"""Every kind of metaparameter; a test holds that none is missing."""
