"""What a form says, on a worker that has the code of a problem from the store and nowhere else."""

import shutil

import pytest

from engine.errors import ConfigurationError
from engine.problems.built import _build
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import load_recipe
from engine.runs.run import begin_run
from flows.descent import descent
from flows.parts.form import taken_from_form
from tests.helpers.data.own_problem import PROBLEM, RECIPE, write_problem

GROUPED = (
    PROBLEM.replace("import engine", "import pydantic\n\nimport engine")
    .replace(
        "def two_clouds(",
        "class Net(pydantic.BaseModel):\n    width: int = 5\n    scale: float = 1.0\n\n\n"
        "def two_clouds(",
    )
    .replace("width: int = 5) ->", "net: Net = Net()) ->")
    .replace("width: Hidden units.", "net: Its hidden units.")
    .replace("nn.Linear(4, width), nn.GELU(), nn.Linear(width, 2)",
             "nn.Linear(4, made.width), nn.GELU(), nn.Linear(made.width, 2)")
    .replace("generator = torch.Generator()", "made = net\n    generator = torch.Generator()", 1)
)  # fmt: skip
"""With a group of settings among its arguments, which a form sends without its defaults."""


def sent(folder, store, problem=PROBLEM, code="store"):
    """Begin a run, take its files away, and return its recipe as another machine gets it."""
    recipe = load_recipe(write_problem(folder, problem), [f"workers.code={code}"])
    begin_run(recipe, store)
    shutil.rmtree(folder)
    _build.cache_clear()
    return DescentRecipe.model_validate_json(recipe.model_dump_json())


@pytest.mark.parametrize("said", [None, {}, {"number": 30, "wrong": 0.2, "width": None}])
def test_fields_need_no_code(said, tmp_path):
    """Numbers and texts are what they are, whatever the signature says; nothing is loaded."""
    recipe = sent(tmp_path / "mine", str(tmp_path / "store"), code="beside")

    made = taken_from_form(recipe, str(tmp_path / "store"), [], said, outer_steps=5)

    assert made.outer.num_steps == 5
    assert made.arguments["number"] == ((said or {}).get("number") or 40)
    assert (made.folder, made.code) == (recipe.folder, recipe.code)


def test_group_keeps_what_the_form_leaves_out_by_the_code_in_the_store(tmp_path):
    """A whole group in its place would put the others back to their defaults, in silence."""
    recipe = load_recipe(
        write_problem(
            tmp_path / "mine",
            GROUPED,
            RECIPE.replace("wrong: 0.2}", "wrong: 0.2, net: {width: 7, scale: 3.0}}"),
        ),
        ["workers.code=store"],
    )
    store = str(tmp_path / "store")
    begin_run(recipe, store)
    here = taken_from_form(recipe, store, [], {"net": {"width": 9}})
    shutil.rmtree(tmp_path / "mine")

    elsewhere = taken_from_form(recipe, store, [], {"net": {"width": 9}})

    assert elsewhere == here
    assert elsewhere.arguments["net"] == {"width": 9, "scale": 3.0}


def test_group_of_code_that_is_nowhere_is_refused(tmp_path):
    """Not guessed: of a group, and of a plain dict of the same look, different things are meant."""
    recipe = sent(tmp_path / "mine", str(tmp_path / "store"), GROUPED, "beside")

    with pytest.raises(ConfigurationError, match="there is no such file"):
        taken_from_form(recipe, str(tmp_path / "store"), [], {"net": {"width": 9}})


@pytest.mark.slow
def test_flow_runs_where_only_the_store_has_the_code(tmp_path, prefect_server):
    """As on the worker of a deployment; it had the code, and looked for the file all the same."""
    store = str(tmp_path / "store")

    record = descent(sent(tmp_path / "mine", store), store)

    assert len(record.iterates) == 3
