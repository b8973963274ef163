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


def shipped_summaries() -> list[dict[str, str]]:
    """Return name, kind and description of each shipped recipe, as its file says; loads no kind.

    That they are right is tested, and not looked at by whoever lists them.
    """
    from engine.recipes.reading.yaml import parse_yaml, read_text

    found = []
    for name in shipped_names():
        content = parse_yaml(read_text((RECIPES / f"{name}.yaml").read_bytes()))
        kind, description = content.get("kind", "descent"), content.get("description", "")
        found.append({"recipe": name, "kind": kind, "description": description})
    return found
