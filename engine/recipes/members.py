"""Finds what a name in a recipe stands for: the description that ends the file of that name.

A recipe knows a name and what can be set; what the name does is in one file of the same name. So
anyone who adds a member writes an entry here in ``engine/recipes`` and that file, and nothing else.
"""

from importlib import import_module
from typing import Any


def find_member(package: str, name: str, last: str) -> Any:  # noqa: ANN401 (what the file ends with)
    """Return the attribute ``last`` of a member's file, which is imported on first use.

    Args:
        package: Folder of the members, ``engine.models`` for example.
        name: As recipes write it; ``learning-rate`` has the module ``learning_rate``.
        last: Name that the file gives its description, ``MODEL`` for example.
    """
    return getattr(import_module(f"{package}.{name.replace('-', '_')}"), last)
