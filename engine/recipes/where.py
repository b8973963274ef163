"""Where the recipes that ship are; loads nothing, so that a shell's completion answers at once."""

from pathlib import Path

_IN_A_WHEEL = Path(__file__).with_name("shipped")

RECIPES = (
    _IN_A_WHEEL if _IN_A_WHEEL.is_dir() else Path(__file__).parents[2] / "deployments" / "recipes"
)
"""Folder of the shipped recipes: data of the package in a wheel, a folder of its own in a clone."""


def shipped_names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(each.stem for each in RECIPES.glob("*.yaml"))
