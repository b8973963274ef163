"""Kinds of recipes: the parts of each, which its application declares.

A folder of ``engine/applications`` that has a module ``kind`` is found by it. What it names is
loaded when it is asked for, so that a command which reads one recipe loads the settings of one
kind.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.recipes.descent import DescentRecipe

_APPLICATIONS = Path(__file__).parents[1] / "applications"

DESCENT = "descent"
"""The kind of a recipe that names none."""


@dataclass(frozen=True)
class Kind:
    """What a kind of recipe is made of, each as ``module:name``.

    Attributes:
        recipe: Model that validates it, a ``DescentRecipe``; its module loads no torch.
        record: Class of ``FinishedRun`` of what a run leaves.
        flow: Runs it; takes ``recipe`` and ``store``.
        check: What ``mgd check`` makes: a function of a recipe and a store that returns a
            ``CheckReport``.
        works: What a run will do, for whoever says how long it takes: a function of a recipe and an
            ``Expected`` that returns works.
        verify: What ``mgd verify`` makes again: a function of a record, a store and a seed that
            returns a ``Verified``; None where no part of a run is verified by itself.
    """

    recipe: str
    record: str
    flow: str
    check: str = "engine.applications.kinds:check_twins"
    works: str = "engine.planning.expected:works_of_descent"
    verify: str | None = None


@cache
def kinds() -> dict[str, Kind]:
    """Return the kinds by their names, the descent first; loads no torch.

    Raises:
        ValueError: If two applications have one name for a kind.
    """
    found: dict[str, Kind] = {}
    for file in sorted(_APPLICATIONS.glob("*/kind.py")):
        own = import_module(f"engine.applications.{file.parent.name}.kind").KINDS
        if twice := found.keys() & own.keys():
            raise ValueError(f"Two applications are of kind {min(twice)}; rename it in {file}.")
        found |= own
    return {DESCENT: found.pop(DESCENT)} | found


def find(place: str) -> Any:  # noqa: ANN401 (whatever a kind names)
    """Return the object that a kind names as ``module:name``."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


class Models(Mapping[str, "type[DescentRecipe]"]):
    """Kind of recipe to the model that validates it, each loaded when it is looked up."""

    def __getitem__(self, kind: str) -> "type[DescentRecipe]":
        return find(kinds()[kind].recipe)

    def __iter__(self) -> Iterator[str]:
        return iter(kinds())

    def __len__(self) -> int:
        return len(kinds())

    def __contains__(self, kind: object) -> bool:
        return kind in kinds()
