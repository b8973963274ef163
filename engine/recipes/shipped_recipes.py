"""Paths of the shipped recipes; loads nothing, so that a shell's completion answers at once."""

from pathlib import Path
from typing import Any

_IN_A_WHEEL = Path(__file__).with_name("shipped")

RECIPES = (
    _IN_A_WHEEL if _IN_A_WHEEL.is_dir() else Path(__file__).parents[2] / "deployments" / "recipes"
)
"""Folder of the shipped recipes: data of the package in a wheel, a folder of its own in a clone."""


EXPECTED = RECIPES / "expected.json"
"""Seconds that a run of a recipe is expected to take on one CPU core, by its name; measured by
``tests/bench/bench_recipes.py``."""

_DATA = {
    "digits": "none",
    "fashion_mnist": "Fashion-MNIST",
    "fashion_captions": "Fashion-MNIST",
    "cifar_10": "CIFAR-10",
    "texts": "texts",
    "pairs": "pairs",
}
"""Problem to the data that have to be there."""

_ON_A_GPU = ("cifar-selection", "datacomp-small", "instruction-selection")
"""Recipes that are of no use without a GPU at the size that they ship with."""


def shipped_names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(each.stem for each in RECIPES.glob("*.yaml"))


def expected_seconds() -> dict[str, float]:
    """Return the seconds of runs of shipped recipes on one CPU core, by name, where known."""
    import json

    return json.loads(EXPECTED.read_text(encoding="utf-8")) if EXPECTED.is_file() else {}


def shipped_summaries() -> list[dict[str, Any]]:
    """Return name, sentence and needs of each shipped recipe, as its file says; loads no kind.

    Name, kind and description; the data that have to be there; whether it is of no use without a
    GPU; and the seconds that a run takes on one CPU core, None if nobody has measured them.

    That they are right is tested, and not looked at by whoever lists them.
    """
    from engine.recipes.reading.yaml import parse_yaml, read_text

    found, seconds = [], expected_seconds()
    for name in shipped_names():
        content = parse_yaml(read_text((RECIPES / f"{name}.yaml").read_bytes()))
        kind, description = content.get("kind", "descent"), content.get("description", "")
        found.append(
            {
                "recipe": name,
                "kind": kind,
                "description": description,
                "data": _DATA.get(content.get("problem", ""), "its own"),
                "gpu": name in _ON_A_GPU,
                "seconds": seconds.get(name),
            }
        )
    return found
