"""Attributions of a tiny net, as the content of recipes."""

from typing import Any


def tiny_attribution(num_train: int = 40, batch_size: int = 10, **groups: Any) -> dict[str, Any]:
    """Return a recipe of six steps whose objective and validation splits are half as large.

    Args:
        num_train: Training examples.
        batch_size: Of a step.
        **groups: Further groups of the recipe.
    """
    half = num_train // 2
    return {
        "kind": "attribution",
        "name": "tiny",
        "arguments": {
            "num_train": num_train,
            "num_objective": half,
            "num_validation": half,
            "model": {"width": 4, "depth": 1},
        },
        "training": {
            "num_steps": 6,
            "batch_size": batch_size,
            "threads": 1,
            "dtype": "float64",
        },
        **groups,
    }
