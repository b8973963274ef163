"""Assignments to settings of a recipe: what one takes away is told."""

import pytest

from engine.recipes.descent import DescentRecipe
from engine.recipes.files import changed, load_recipe

REPLACED = [
    ("training={seed: 91}", "num_steps, batch_size, threads", "training.seed"),
    ("arguments={num_train: 191}", "flip_fraction", "arguments.num_train"),
    ("outer={num_steps: 92, update: masked-sign}", "probability", "outer.num_steps"),
]


@pytest.mark.parametrize(("change", "lost", "instead"), REPLACED)
def test_mapping_that_takes_settings_away_is_told(change, lost, instead, caplog):
    """It replaces the group, as a file would; who meant one setting trains with other defaults."""
    with caplog.at_level("WARNING"):
        recipe = load_recipe("digits-selection", [change])
        again = changed(load_recipe("digits-selection"), [change])

    key = change.partition("=")[0]
    told = [each.getMessage() for each in caplog.records]
    assert told
    assert all(f"replaces all of {key}, so" in each for each in told)
    assert lost in told[0]
    assert f"say --set {instead}=" in told[0]
    group, defaults = getattr(recipe, key), getattr(DescentRecipe(name="x"), key)
    for name in lost.split(", "):
        have = [
            each[name] if key == "arguments" else getattr(each, name) for each in (group, defaults)
        ]
        assert have[0] == have[1]
    assert getattr(again, key) == group


@pytest.mark.parametrize(
    "change", ["training.seed=93", "optimizer={name: adamw}", "baselines=[random]", "workers={}"]
)
def test_change_that_loses_nothing_is_not_told(change, caplog):
    """One setting, another kind of thing, and a group of which nothing was set."""
    with caplog.at_level("WARNING"):
        changed(load_recipe("digits-selection"), [change])
        load_recipe("digits-selection", [change])

    assert not caplog.records


def _of(group, name):
    return group[name] if isinstance(group, dict) else getattr(group, name)
