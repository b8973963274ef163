"""What the stages of a run are expected to take, where no plan has measured them."""

import pytest

from engine.planning import expected
from engine.planning.expected import Expected, comparison_works
from engine.preflight import injection
from engine.recipes.files import load_recipe


def steps_of_baselines(*changes):
    """Return the plain steps of the stages that make baselines, in their order."""
    recipe = load_recipe("digits-selection", list(changes))
    works = comparison_works(Expected(recipe, None))
    return [work.weight for work in works if work.kind == "baseline"]


@pytest.mark.parametrize(("name", "least"), [("gradient-similarity", 700), ("low-loss", 100)])
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


def test_preflight_of_counts_looks_at_few_candidates_however_many_there_are():
    """It was expected to take what the run's own sweep takes, which looks at all of them."""
    few, many, none = (
        Expected(load_recipe("digits-selection", list(changes)), None).preflight().weight
        for changes in (
            [],
            ["arguments.num_train=50000"],
            ["metaparameters={name: weights}", "outer.update=sign"],
        )
    )

    assert few == many > none
    shorter = load_recipe("digits-selection", ["training.num_steps=100"])
    longer = load_recipe("digits-selection", ["training.num_steps=1001"])
    assert Expected(shorter, None).preflight().weight < few
    assert Expected(longer, None).preflight().weight == none  # nothing is compared there


def test_what_is_expected_of_the_preflight_is_what_it_does():
    """The two know nothing of each other."""
    assert injection.CANDIDATES == expected.INJECTED_EXAMPLES
    assert injection.NEIGHBOURS + 1 == expected.INJECTED_STEPS
    assert injection.LONGEST == expected.LONGEST_INJECTED


def test_candidates_that_enter_at_one_step_are_the_end_of_the_sweep():
    """The steps before it are quick, and said that the sweep was nearly done: a sixth of it was."""
    one = load_recipe("digits-selection", ["arguments.num_train=50000"])
    several = load_recipe(
        "digits-selection",
        ["arguments.num_train=50000", "metaparameters.injection_steps=[180, 185, 190]"],
    )

    *_, last = Expected(one, None).sweep()
    spread = Expected(several, None).sweep()

    assert last.once == 3 * 50_000 / one.training.batch_size
    assert last.share(last.forward, last.reverse) < 0.2
    assert last.weight == pytest.approx(last.forward + last.pull * last.reverse + last.once)
    assert all(each.once == 0 for each in spread)
