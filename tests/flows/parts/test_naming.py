"""What flow runs are called in the lists of Prefect's UI."""

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.utilities.names import generate_slug

from engine.recipes.descent import DescentRecipe
from engine.recipes.files import load_recipe
from engine.recipes.names import run_name
from engine.recipes.titles import run_title
from flows.parts.naming import flow_run_name, is_drawn


def test_names_that_prefect_draws_are_known():
    """One that is taken for a person's would stay, and say nothing."""
    drawn = [generate_slug(2) for _ in range(2000)]

    assert [name for name in drawn if not is_drawn(name)] == []


@pytest.mark.parametrize(
    "name", ["twelve outer steps", "baseline", "run-2", "seed-3-again", "my-first-run", "abc-def"]
)
def test_name_that_a_person_types_is_no_drawn_one(name):
    """It would be thrown away."""
    assert not is_drawn(name)


def test_shipped_recipe_is_named_after_its_run():
    """`mgd show` and the store know the run by the same name."""
    recipe = load_recipe("digits-selection")

    assert run_title(recipe) == run_name(recipe.descent)


def test_name_says_what_differs_from_the_shipped_recipe():
    """Twelve runs of one recipe are told apart by their settings."""
    changed = load_recipe("digits-selection", ["outer.num_steps=12", "training.seed=7"])

    name = run_title(changed)

    assert name.startswith(run_name(changed.descent))
    assert "outer.num_steps=12" in name
    assert "training.seed=7" in name


def test_name_with_many_changes_stays_short():
    """A list has one line for a run."""
    keys = ["num_steps=100", "seed=7", "batch_size=50", "learning_rate=0.2", "threads=1"]
    name = run_title(load_recipe("digits-selection", [f"training.{key}" for key in keys]))

    assert name.endswith("and 1 more")
    assert len(name) < 160


def test_replicas_are_named_by_their_seeds():
    """They are runs of their own in the store, and one in the list."""
    assert run_title(load_recipe("digits-selection"), [0, 1]) == "digits-selection for seeds 0, 1"


@pytest.mark.slow
@pytest.mark.parametrize("typed", [None, "twelve outer steps"])
def test_typed_name_stays_and_a_drawn_one_goes(prefect_server, typed):
    """Prefect asks for a name at the start of every run, also of one that has a person's."""

    @flow(flow_run_name=flow_run_name)
    def named(recipe: DescentRecipe) -> None:
        del recipe

    recipe = load_recipe("digits-selection")
    from prefect.flow_engine import run_flow

    with get_client(sync_client=True) as client:
        made = client.create_flow_run(named, parameters={"recipe": recipe}, name=typed)
        run_flow(named, flow_run=made, parameters={"recipe": recipe})
        found = client.read_flow_run(made.id)

    assert found.name == (typed or run_name(recipe.descent))
