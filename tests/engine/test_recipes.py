"""Recipes: found, changed, validated, and refused in words that say what to do."""

import pytest

from engine.config import DescentRecipe, MetaparameterName, OuterUpdate
from engine.errors import ConfigurationError
from engine.recipes import DEFAULT_RECIPE, list_recipes, load_recipe, validate_recipe

SELECTION, SCHEDULE = "digits-selection", "digits-schedule"


def write(folder, text, name="own.yaml"):
    path = folder / name
    path.write_text(text)
    return str(path)


def test_shipped_recipes_load():
    """They are what the README runs; the main job is among them."""
    recipes = list_recipes()

    assert {SELECTION, SCHEDULE, DEFAULT_RECIPE} <= recipes.keys()
    assert all(recipe.name == name for name, recipe in recipes.items())


def test_main_job_selects_examples_by_algorithm_1():
    """Counts, moved by masked sign steps, with 40 % of the labels wrong."""
    recipe = load_recipe(DEFAULT_RECIPE)

    assert recipe.metaparameters.name is MetaparameterName.COUNTS
    assert recipe.outer.update is OuterUpdate.MASKED_SIGN
    assert recipe.data.flip_fraction == 0.4
    assert recipe.injection_step == int(0.7 * recipe.training.num_steps)


def test_empty_recipe_is_the_defaults_under_its_files_name(tmp_path):
    """A recipe says only what differs; its name is that of its file."""
    recipe = load_recipe(write(tmp_path, "kind: descent", "my-run.yaml"))

    assert recipe == DescentRecipe(name="my-run")


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("outer.num_steps=3", lambda recipe: recipe.outer.num_steps == 3),
        ("training.learning_rate=1e-3", lambda recipe: recipe.training.learning_rate == 1e-3),
        ("optimizer.nesterov=true", lambda recipe: recipe.optimizer.nesterov),
        ("data.num_test=null", lambda recipe: recipe.data.num_test is None),
        ("data={num_train: 30}", lambda recipe: recipe.data.num_train == 30),
        (" training.num_steps = 9", lambda recipe: recipe.training.num_steps == 9),
        ("description=a=b", lambda recipe: recipe.description == "a=b"),
    ],
)
def test_change_sets_one_value_as_yaml_reads_it(change, read):
    """People try a value on the command line before they write a file."""
    assert read(load_recipe(SELECTION, [change]))


def test_later_change_wins_and_others_stay():
    """Changes are applied in order, each to its own setting."""
    changes = ["outer.num_steps=3", "outer.step_size=2", "outer.num_steps=4"]

    outer = load_recipe(SELECTION, changes).outer

    assert (outer.num_steps, outer.step_size) == (4, 2.0)
    assert outer.probability == load_recipe(SELECTION).outer.probability


BAD = {
    "unknown": ("trainig.num_steps=5", "trainig: unknown setting", "training, metaparameters"),
    "unknown-nested": ("training.steps=5", "training.steps: unknown setting", "num_steps, batch"),
    "unknown-deep": ("outer.mask.p=1", "outer.mask: unknown setting", "probability"),
    "word": ("training.num_steps=many", "training.num_steps is 'many'.*integer", "optimizer steps"),
    "fraction": ("training.batch_size=1.5", "training.batch_size is 1.5.*integer", "a step"),
    "truth": ("training.num_steps=true", "training.num_steps is True.*neither", "optimizer steps"),
    "infinite": ("outer.step_size=.inf", "outer.step_size is inf.*finite", "sign step"),
    "list": ("outer.step_size=[1, 2]", r"outer.step_size is \[1, 2\].*number", "sign step"),
    "group": ("training=3", "training is 3.*dictionary", "Inner run"),
    "empty-group": ("outer=null", "outer is None.*dictionary", "Outer descent"),
    "arity": ("replay.arity=1", "replay.arity is 1.*greater than or equal to 2", "children"),
    "no-steps": ("training.num_steps=0", "training.num_steps is 0.*equal to 1", "optimizer steps"),
    "negative-rate": ("training.learning_rate=-0.1", "learning_rate is -0.1.*than 0", "peak rate"),
    "rate-nan": ("training.learning_rate=.nan", "learning_rate is nan", "peak rate"),
    "probability": ("outer.probability=1.1", "outer.probability is 1.1.*equal to 1", "coordinates"),
    "name": ("model.name=transformer", "model.name is 'transformer'.*'mlp'", "Architecture"),
    "float16": ("training.dtype=float16", "training.dtype is 'float16'.*'float32'", "format"),
    "device": ("training.device=tpu", "training.device is 'tpu'.*pattern", "cuda:N"),
    "run-name": ("name=My Run", "name is 'My Run'.*pattern", "lower-case"),
    "kind": ("kind=ascent", "kind is 'ascent', and no flow runs that", "descent"),
    "kind-list": ("kind=[1]", r"kind is \[1\], and no flow runs that", "descent"),
    "not-assignment": ("outer.num_steps", "'outer.num_steps' is not an assignment", "key=value"),
    "no-key": ("=3", "'=3' is not an assignment", "key=value"),
    "into-scalar": ("training.num_steps.x=1", "'num_steps' is a single setting", "the recipe"),
    "bad-yaml": ("outer.num_steps=[1", "the value is not YAML", "Quote"),
}


@pytest.mark.parametrize(("change", "problem", "remedy"), BAD.values(), ids=BAD)
def test_bad_setting_is_refused_by_name_with_its_value_and_a_remedy(change, problem, remedy):
    """The first thing a new user meets is a typo; a stack of pydantic's words is no answer."""
    with pytest.raises(ConfigurationError, match=problem) as refusal:
        load_recipe(SELECTION, [change])

    assert remedy in str(refusal.value)
    assert "pydantic" not in str(refusal.value)


def test_all_bad_settings_are_named_at_once():
    """Mending one at a time is a run of attempts; one error names the three."""
    changes = ["training.num_steps=0", "model.width=-1", "outer.x=3"]

    with pytest.raises(ConfigurationError) as refusal:
        load_recipe(SELECTION, changes)

    lines = str(refusal.value).splitlines()
    assert len(lines) == 4
    assert all(
        any(key in line for line in lines) for key in ("num_steps is 0", "width is -1", "x:")
    )


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (SELECTION, ["replay.vjp=auto"], "replay.vjp is auto.*other bits.*Name the mode"),
        (
            SCHEDULE,
            ["outer.update=masked-sign"],
            "outer.update is masked-sign.*name is learning-rate.*Use sign or",
        ),
        (
            SELECTION,
            ["metaparameters.injection_step=200"],
            "injection_step is 200, but the run has only 200 steps.*below training.num_steps",
        ),
        (
            SELECTION,
            ["metaparameters.injection_step=50", "training.num_steps=50"],
            "injection_step is 50, but the run has only 50 steps",
        ),
        (
            SCHEDULE,
            ["training.rate_schedule=one-cycle"],
            "rate_schedule is one-cycle, which would be ignored.*Use flat",
        ),
        (
            SELECTION,
            ["optimizer.name=adamw", "optimizer.momentum=0.5"],
            "optimizer.momentum is 0.5, but adamw does not read it",
        ),
    ],
    ids=[
        "auto",
        "masked-sign",
        "beyond-the-run",
        "run-shortened",
        "two-schedules",
        "foreign-setting",
    ],
)
def test_settings_that_do_not_fit_together_are_refused(recipe, changes, message):
    """Each is possible by itself; together they would train for hours and move nothing."""
    with pytest.raises(ConfigurationError, match=message):
        load_recipe(recipe, changes)


def test_last_step_is_a_possible_injection_step():
    """The bound is half-open: step T - 1 exists."""
    changes = ["training.num_steps=50", "metaparameters.injection_step=49"]

    assert load_recipe(SELECTION, changes).injection_step == 49


def test_unknown_recipe_lists_those_there_are(tmp_path):
    """A name, a path and a folder are tried; the answer names what would have worked."""
    with pytest.raises(
        ConfigurationError, match=rf"no recipe '{tmp_path}'.*{SELECTION}.*path of a"
    ):
        load_recipe(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("outer: [1", r"own\.yaml is not YAML.*Correct"),
        ("- a\n- b", r"own\.yaml holds list.*mapping.*digits-selection"),
        ("just words", r"own\.yaml holds str.*mapping"),
        ("", r"own\.yaml holds nothing.*mapping"),
        ("!!python/object:os.system {}", r"own\.yaml is not YAML"),
    ],
    ids=["broken", "list", "words", "empty", "code"],
)
def test_file_that_is_no_recipe_is_refused(text, message, tmp_path):
    """A recipe may come from anybody, so it is data: YAML's own types and nothing that runs."""
    with pytest.raises(ConfigurationError) as refusal:
        load_recipe(write(tmp_path, text))

    assert refusal.match(f"(?s){message}")


def test_file_that_is_not_text_is_refused(tmp_path):
    """The wrong file by tab completion, e.g. a checkpoint, must not end in a decoder's trace."""
    path = tmp_path / "own.yaml"
    path.write_bytes(b"\x80\x04\x95\x81")

    with pytest.raises(ConfigurationError, match="is not YAML"):
        load_recipe(str(path))


def test_origin_is_named():
    """Settings from a form or a notebook have no file, but they come from somewhere."""
    with pytest.raises(ConfigurationError, match="^the form cannot be run"):
        validate_recipe({"name": "a", "x": 1}, "the form")


def test_recipe_cannot_be_changed():
    """It names the stages, so a change after the fact would name other work by the same key."""
    recipe = load_recipe(SELECTION)

    with pytest.raises(ValueError, match="frozen"):
        recipe.training.num_steps = 3
