"""Groups of rows for mixtures, read from a column that names the group of each candidate."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import DataError
from engine.problems.tables.alike import told_alike
from engine.problems.tables.cells import is_missing
from engine.problems.tables.labels import class_name
from engine.recipes.metaparameters import GroupName
from engine.secret_urls import beginning

MISSING = "missing"
"""The group of candidates that name none."""


def check_groups(names: Sequence[str], label: str | None = None) -> None:
    """Refuse columns of groups whose names mean something else in ``metaparameters.groups``.

    Args:
        names: Names of the columns.
        label: Column of the label, whose classes are groups by its name anyway.

    Raises:
        DataError: If it is refused; names the column and the remedy.
    """
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"arguments.groups has {twice!r} twice. Name each column once.")
    taken = next((name for name in names if name in _TAKEN and name != label), None)
    if taken is not None:
        raise DataError(
            f"arguments.groups has {taken!r}, but metaparameters.groups={taken} means something "
            f"else: {_TAKEN[taken]}. Give the column another name."
        )


_TAKEN: dict[str, str] = {
    GroupName.CLASS: "the classes of the label",
    GroupName.CLUSTER: "clusters of the inputs",
}


def groups_of(
    columns: Mapping[str, Sequence[Any]],
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Return the group of each candidate by the name of its column, and what people should know.

    A whole number is one group whatever its format; candidates without a group are one together.

    Args:
        columns: Name to the cell of each candidate.

    Raises:
        DataError: If a cell is no word, number or time.
    """
    groups: dict[str, list[str]] = {}
    notes: list[str] = []
    for name, cells in columns.items():
        strange = next((each for each in cells if isinstance(each, list | dict | bytes)), None)
        if strange is not None:
            raise DataError(
                f"The column {name!r} of the groups holds {type(strange).__name__}s, e.g. "
                f"{beginning(strange, 40)!r}, but a group is one word or one number. Name another "
                "column."
            )
        groups[name] = [MISSING if is_missing(each) else class_name(each) for each in cells]
        notes += told_alike(groups[name], f"The column {name!r} of the groups")
        lost = sum(map(is_missing, cells))
        if lost:
            notes.append(
                f"{lost} training candidates have no {name!r}, and are one group, called "
                f"{MISSING!r}."
            )
    return groups, tuple(notes)
