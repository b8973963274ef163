"""Labels of a table: classes, or numbers in units of their spread."""

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import DataError
from engine.problems.tables.alike import refuse_alike
from engine.problems.tables.cells import centre, is_missing, number
from engine.recipes.arguments.data import Target
from engine.secret_urls import beginning

_MOST_CLASSES = 20
"""Most whole numbers of a label that are taken for classes without being told."""


def class_name(value: Any) -> str:  # noqa: ANN401 (a cell)
    """Return the name of a class: a whole number is named alike whatever the file's format."""
    is_finite = isinstance(value, float | Decimal) and math.isfinite(value)
    return str(int(value)) if is_finite and value.as_integer_ratio()[1] == 1 else str(value)


def labels(
    values: Sequence[Any], name: str, target: Target
) -> tuple[tuple[str, ...], tuple[float, float]]:
    """Return the classes of a label, or none, and its mean and spread.

    Raises:
        DataError: If labels are missing, or are no numbers where they have to be.
    """
    _refuse_missing(values, name, "")
    if target is Target.CLASS:
        classes = tuple(sorted({class_name(value) for value in values}))
        refuse_classes(classes, name)
        return classes, (0.0, 1.0)
    numbers = _numbers(values, name, "")
    return (), centre(numbers)


def refuse_classes(classes: Sequence[str], name: str) -> None:
    """Refuse labels that are all the same, and classes that nobody can tell apart.

    The loss of a single class would be 0 whatever is trained.

    Raises:
        DataError: With the class, or the two that look alike.
    """
    refuse_alike(classes, name)
    if len(classes) == 1:
        raise DataError(
            f"All training rows have the label {name}={classes[0]}, so there is nothing to tell "
            "apart. Name the column that holds the classes, or give rows of at least two."
        )


def guessed(values: Sequence[Any], name: str) -> Target:
    """Return whether a label is a class or a number.

    Raises:
        DataError: If it may be either, or is neither.
    """
    known = [value for value in values if not is_missing(value)]
    strange = next((each for each in known if isinstance(each, list | dict | bytes)), None)
    if strange is not None:
        raise DataError(
            f"The column {name!r} of the labels holds {type(strange).__name__}s, but a label is "
            "one word or one number. Write a column of labels; for several labels of one example "
            "begin a problem of your own with mgd new NAME --from script."
        )
    different = set(known)
    if any(isinstance(value, str | bool) for value in known):
        return Target.CLASS
    if not all(number(value).is_integer() for value in known):
        return Target.NUMBER
    if len(different) > _MOST_CLASSES:
        raise DataError(
            f"The column {name!r} of the labels has {len(different)} different whole numbers, "
            "which may be classes or a quantity. Set arguments.target to class or to number."
        )
    return Target.CLASS


def targets(
    values: Sequence[Any],
    name: str,
    classes: tuple[str, ...],
    spread: tuple[float, float],
    split: str,
) -> Tensor:
    """Return the labels of a split as training sees them, shape (rows,).

    Raises:
        DataError: If one is missing, is a class that no training row has, or no number.
    """
    _refuse_missing(values, name, f" of the {split} rows")
    if not classes:
        numbers = torch.from_numpy(_numbers(values, name, f" of the {split} rows"))
        return ((numbers - spread[0]) / spread[1]).to(torch.get_default_dtype())
    places = {each: place for place, each in enumerate(classes)}
    strange = [class_name(value) for value in values if class_name(value) not in places]
    if strange:
        raise DataError(
            f"The {split} rows have the label {name}={strange[0]}, which no training row has. "
            "Remove these rows, or give training rows of it."
        )
    return torch.tensor([places[class_name(value)] for value in values])


def _refuse_missing(values: Sequence[Any], name: str, where: str) -> None:
    missing = sum(map(is_missing, values))
    if missing:
        raise DataError(
            f"The column {name!r} of the labels{where} has {missing} missing values. Remove these "
            "rows."
        )


def _numbers(values: Sequence[Any], name: str, where: str) -> np.ndarray:
    numbers = np.array([number(value) for value in values], dtype=np.float64)
    if not np.isfinite(numbers).all():
        strange = values[int(np.flatnonzero(~np.isfinite(numbers))[0])]
        raise DataError(
            f"The column {name!r} of the labels{where} holds {beginning(strange, 40)!r}, which is "
            "no number to learn from. Remove these rows, or use arguments.target=class."
        )
    return numbers
