"""Settings of the data: which set, its splits, and which labels are made wrong."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from engine.errors import ConfigurationError
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
    """Kind of label in a table: a class or a number."""

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


HELD_OUT = ("objective", "validation", "test")
"""Splits that are held out."""


def check_drawn(
    data: DataSettings, own: Mapping[str, str], target: tuple[str, str | None]
) -> tuple[str, ...]:
    """Return the held-out splits that are drawn; refuse what is set for the others.

    Those without files of their own are drawn from the task's files, or, where no such files are
    named, from those of the candidates; but where only the objective has files of its own, the
    others are cut from these.

    Args:
        data: How many are drawn.
        own: Held-out split to its files.
        target: Setting that names the task's files, and what it is.

    Raises:
        ConfigurationError: If a setting is not read; says why.
    """
    setting, named = target
    if named is not None and len(own) == len(HELD_OUT):
        raise ConfigurationError(
            f"{setting} is {named}, but objective, validation and test are separate files, so "
            "nothing is held out from the training data. Leave the setting out."
        )
    are_cut = named is None and "objective" in own
    for name in HELD_OUT:
        value = getattr(data, f"num_{name}")
        if value == DataSettings.model_fields[f"num_{name}"].default:
            continue
        if name in own or are_cut:
            why = (
                f"all of arguments.{name} is read"
                if name in own
                else "these examples are cut from those of arguments.objective"
            )
            raise ConfigurationError(
                f"arguments.num_{name} is {value}, but {why}, so that no such number is drawn. "
                "Leave it out."
            )
    return () if are_cut else tuple(name for name in HELD_OUT if name not in own)
