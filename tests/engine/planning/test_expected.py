"""What the stages of a run are expected to take, where no plan has measured them."""

import pytest

from engine.planning.expected import Expected, comparison_works
from engine.recipes.files import load_recipe


def steps_of_baselines(*changes):
    """Return the plain steps of the stages that make baselines, in their order."""
    recipe = load_recipe("digits-selection", list(changes))
    works = comparison_works(Expected(recipe, None))
    return [work.weight for work in works if work.kind == "baseline"]


@pytest.mark.parametrize(("name", "least"), [("gradient-similarity", 1000), ("low-loss", 100)])
def test_baselines_that_look_at_every_candidate_take_as_long_as_there_are(name, least):
    """With 50,000 images they are a quarter of a run, which the time left knew nothing of."""
    few, *_ = steps_of_baselines(f"baselines=[{name}]")
    many, *_ = steps_of_baselines(
        f"baselines=[{name}]", "arguments.num_train=50000", "training.batch_size=128"
    )

    assert few < 80
    assert least < many < 2 * least


def test_baselines_that_look_at_no_candidate_take_no_longer_for_more():
    """A random choice is one."""
    few = steps_of_baselines("baselines=[random]")
    many = steps_of_baselines("baselines=[random]", "arguments.num_train=50000")

    assert few == many
