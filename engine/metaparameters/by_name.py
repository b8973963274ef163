"""Kinds of metaparameters by the names that recipes have for them."""

from engine.metaparameters.base import Metaparameter
from engine.recipes.members import find_member
from engine.recipes.metaparameters import MetaparameterName


def kind_of(name: MetaparameterName) -> type[Metaparameter]:
    """Return the kind of a name: the last line of the file of that name."""
    return find_member("engine.metaparameters", name.value, "KIND")
