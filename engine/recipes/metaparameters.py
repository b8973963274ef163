"""Settings of z: what a run is differentiated with respect to. This module does not know torch."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from engine.recipes.settings import Settings


class MetaparameterName(StrEnum):
    """What is differentiated with respect to."""

    COUNTS = "counts"
    WEIGHTS = "weights"
    LEARNING_RATE = "learning-rate"
    SCALARS = "scalars"
    GROUP_WEIGHTS = "group-weights"
    INPUTS = "inputs"
    INITIAL_PARAMETERS = "initial-parameters"


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


class MetaparametersConfig(Settings):
    """z: what the run is differentiated with respect to, and where it enters."""

    name: MetaparameterName = MetaparameterName.COUNTS
    """Kind."""

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

    groups: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] = "class"
    """What has a weight, for the kind group-weights: class, cluster (of the inputs), source (of
    texts), or the name of groups that the problem has."""

    num_groups: Annotated[int, Field(ge=2)] = 10
    """Clusters that k-means makes of the inputs."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seeds what is drawn: candidates, first subset, clusters, and the random baseline."""
