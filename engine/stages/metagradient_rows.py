"""The rows of a stage that hold a metagradient: one for each metaparameter, named after it."""

from collections.abc import Mapping

from torch import Tensor

from engine.types import State

_BEGINNING = "metagradient_"


def is_metagradient(name: str) -> bool:
    """Say whether a row holds a metagradient, by its name."""
    return name.startswith(_BEGINNING)


def as_rows(metagradients: Mapping[str, Tensor]) -> State:
    """Return metagradients, by the names of the metaparameters, as rows."""
    return {f"{_BEGINNING}{name}": each.reshape(-1) for name, each in metagradients.items()}


def metagradients_in(rows: State) -> dict[str, Tensor]:
    """Return the metagradients among rows, flat, by the names of the metaparameters."""
    found = {name: row for name, row in rows.items() if is_metagradient(name)}
    return {name.removeprefix(_BEGINNING): row for name, row in found.items()}


def only_metagradient(rows: State) -> Tensor:
    """Return the metagradient of a run that has one metaparameter, as recipes have.

    Raises:
        ValueError: If there is none, or several.
    """
    (found,) = metagradients_in(rows).values()
    return found
