"""Settings of the data: which set, how it is cut, and which labels are made wrong."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from engine.recipes.settings import Settings
from engine.secret_urls import SafeUrl


class DataName(StrEnum):
    """Data sets with a reader of their own, and texts, which the group text names."""

    DIGITS = "digits"
    FASHION_MNIST = "fashion-mnist"
    CIFAR_10 = "cifar-10"
    TEXT = "text"
    FASHION_CAPTIONS = "fashion-captions"
    IMAGE_TEXT = "image-text"


PAIRS = (DataName.FASHION_CAPTIONS, DataName.IMAGE_TEXT)
"""Data sets of images with captions, which two towers are trained on."""


class Target(StrEnum):
    """What the label of a row of a table is."""

    AUTO = "auto"
    """Words, truth values and few different whole numbers are classes, fractions are numbers; for
    many whole numbers the recipe has to say it."""

    CLASS = "class"
    NUMBER = "number"


class DataSettings(Settings):
    """Which examples, how they are split, and how many training labels are wrong."""

    name: DataName = DataName.DIGITS
    """Data set."""

    url: SafeUrl | None = None
    """Folder of the data files, or the archive of CIFAR-10, any fsspec URL; empty means the data
    set's own default."""

    checksum: Annotated[str | None, Field(pattern=r"^[0-9a-f]{32}$")] = None
    """MD5 that the archive must have; empty means that of the official one. CIFAR-10 only."""

    num_train: Annotated[int, Field(ge=1)] = 800
    """Training candidates."""

    num_objective: Annotated[int, Field(ge=1)] = 400
    """Held-out examples whose mean loss is the output phi that is differentiated."""

    num_validation: Annotated[int, Field(ge=1)] = 200
    """Held-out examples that choose the iterate; the objective never sees them."""

    num_test: Annotated[int | None, Field(ge=1)] = None
    """Held-out examples for the final numbers; empty means all that are left."""

    flip_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the training labels replaced by another class, drawn uniformly; for pairs, of the
    training captions that describe something else."""

    target_classes: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Keep these classes only in the held-out splits: the task that counts; empty keeps all."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seeds the split and the flipped labels."""
