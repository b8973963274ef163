"""Assignments to settings of a recipe: what one takes away is told."""

import pytest

from engine.errors import ConfigurationError
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import changed, load_recipe
from engine.recipes.reading.yaml import refuse_repeated

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


@pytest.mark.parametrize(
    "second", ["outer.num_steps=2", " outer.num_steps =3", "outer={step_size: 0.1}", "outer="]
)
def test_a_setting_that_is_set_twice_is_refused_with_both(second):
    """The last one would win without a word."""
    with pytest.raises(ConfigurationError) as refusal:
        refuse_repeated(["outer.num_steps=3", "training.seed=1", second])

    assert "outer.num_steps is set twice" in str(refusal.value)
    assert "'outer.num_steps=3'" in str(refusal.value)
    assert repr(second) in str(refusal.value)


def test_secrets_of_what_is_set_twice_are_hidden():
    """Both are repeated, and what is in them is not."""
    with pytest.raises(ConfigurationError) as refusal:
        refuse_repeated(f"arguments.url=https://user:S3CRET{i}@host/" for i in range(2))

    assert "twice" in str(refusal.value)
    assert "S3CRET" not in str(refusal.value)


def test_a_group_and_then_one_of_its_settings_are_two_changes():
    """Nothing is lost: the second one is made in what the first one says."""
    refuse_repeated(["outer={num_steps: 3}", "outer.step_size=1", "outers=2", "outer.step=1"])
