"""Settings of a descent that no machine could carry out are refused when they are read."""

import pytest

from engine.errors import ConfigurationError
from engine.recipes.files import load_recipe

ENDLESS = {
    "steps": ("training.num_steps=100000000000", "training.num_steps"),
    "outer steps": ("outer.num_steps=1000000000", "outer.num_steps"),
    "stages": ("training.num_steps=10000000", "replay.steps_per_segment is .* Use at least"),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_run_that_would_never_end_is_refused(what):
    """A typing error of some zeros filled the memory with a list of its stages."""
    change, words = ENDLESS[what]

    with pytest.raises(ConfigurationError, match=words):
        load_recipe("digits-selection", [change])


def test_a_long_run_in_long_segments_is_none():
    """What counts is how many stages there are."""
    changes = ["training.num_steps=10000000", "replay.steps_per_segment=100000"]

    recipe = load_recipe("digits-selection", changes).descent

    assert recipe.training.num_steps == 10_000_000
