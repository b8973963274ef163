"""Recipes: found, changed, validated, and refused in words that say what to do."""

from itertools import pairwise

import pytest

from engine.errors import ConfigurationError
from engine.recipes.descent import DescentRecipe, OuterUpdate
from engine.recipes.files import DEFAULT_RECIPE, list_recipes, load_recipe, validate_recipe
from engine.recipes.metaparameters import MetaparameterName

SELECTION, SCHEDULE = "digits-selection", "digits-schedule"


def write(folder, text, name="own.yaml"):
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.slow
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
    assert recipe.arguments["flip_fraction"] == 0.4
    assert recipe.injection_steps == (180,)


def test_empty_recipe_is_the_defaults_under_its_files_name(tmp_path):
    """A recipe says only what differs; its name is that of its file."""
    recipe = load_recipe(write(tmp_path, "kind: descent", "my-run.yaml"))

    assert recipe == DescentRecipe(name="my-run", folder=str(tmp_path))


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("outer.num_steps=3", lambda recipe: recipe.outer.num_steps == 3),
        ("training.learning_rate=1e-3", lambda recipe: recipe.training.learning_rate == 1e-3),
        ("optimizer.nesterov=true", lambda recipe: recipe.optimizer.nesterov),
        ("arguments.num_test=null", lambda recipe: recipe.arguments["num_test"] is None),
        ("arguments={num_train: 30}", lambda recipe: recipe.arguments["num_train"] == 30),
        (" training.num_steps = 9", lambda recipe: recipe.training.num_steps == 9),
        ("description=a=b", lambda recipe: recipe.description == "a=b"),
    ],
)
def test_change_sets_one_value_as_yaml_reads_it(change, read):
    """People try a value on the command line before they write a file."""
    assert read(load_recipe(SELECTION, [change]))


def test_changes_are_carried_out_and_others_stay():
    """Each is of its own setting."""
    changes = ["outer.step_size=2", "outer.num_steps=4"]

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
    "group": ("training=3", "training is 3, but it is a group of settings", "training.num_steps"),
    "empty-group": ("outer=null", "outer is None, but it is a group", "e.g. outer."),
    "inner-group": (
        "arguments.model=[1]",
        "model is .1., but it is a group",
        "arguments.model.name",
    ),
    "arity": ("replay.arity=1", "replay.arity is 1.*greater than or equal to 2", "children"),
    "no-steps": ("training.num_steps=0", "training.num_steps is 0.*equal to 1", "optimizer steps"),
    "negative-rate": ("training.learning_rate=-0.1", "learning_rate is -0.1.*than 0", "peak rate"),
    "rate-nan": ("training.learning_rate=.nan", "learning_rate is nan", "peak rate"),
    "probability": ("outer.probability=1.1", "outer.probability is 1.1.*equal to 1", "coordinates"),
    "name": (
        "arguments.model.name=transformer",
        "arguments.model.name is 'transformer'.*'mlp'",
        "Architecture",
    ),
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
    changes = ["training.num_steps=0", "arguments.model.width=-1", "outer.x=3"]

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
        (
            SCHEDULE,
            ["outer.update=masked-sign"],
            "name is learning-rate, but outer.update is masked-sign.*Leave it out",
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
            "momentum is 0.5, but optimizer.name is adamw, which does not read it. Use muon or",
        ),
        (
            "digits-attribution",
            ["outer.num_steps=3"],
            "outer.num_steps is set, but attribution moves no weights.*Leave outer out",
        ),
    ],
    ids=[
        "masked-sign",
        "beyond-the-run",
        "run-shortened",
        "two-schedules",
        "foreign-setting",
        "no-descent",
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
        ("outer: [1", r"own\.yaml is not YAML of a recipe: line 1, column 10: expected.*Correct"),
        ("a: 1\nouter: {num_steps: [}\n", r"own\.yaml .*: line 2, column 21: expected the node"),
        ("- a\n- b", r"own\.yaml holds list.*mapping.*digits-selection"),
        ("just words", r"own\.yaml holds str.*mapping"),
        ("", r"own\.yaml holds nothing.*mapping"),
        ("!!python/object:os.system {}", r"own\.yaml is not YAML"),
    ],
    ids=["broken", "broken later", "list", "words", "empty", "code"],
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


def test_file_of_any_size_takes_no_memory(tmp_path):
    """A sparse file takes no space on the disk, and the device of zeros has no end."""
    path = tmp_path / "own.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 43)

    with pytest.raises(ConfigurationError, match="more than 1048576 bytes"):
        load_recipe(str(path))
    with pytest.raises(ConfigurationError, match="no recipe"):
        load_recipe("/dev/zero")


def test_setting_that_is_nested_beyond_measure_is_refused():
    """One message, and no stack that is full."""
    with pytest.raises(ConfigurationError):
        load_recipe(SELECTION, [f"{'.'.join(['a'] * 5000)}=1"])
    with pytest.raises(ConfigurationError):
        load_recipe(SELECTION, [f"arguments.{'.'.join(['a'] * 5000)}=1"])


def test_origin_is_named():
    """Settings from a form or a notebook have no file, but they come from somewhere."""
    with pytest.raises(ConfigurationError, match="^the form cannot be run"):
        validate_recipe({"name": "a", "x": 1}, "the form")


def test_recipe_cannot_be_changed():
    """It names the stages, so a change after the fact would name other work by the same key."""
    recipe = load_recipe(SELECTION)

    with pytest.raises(ValueError, match="frozen"):
        recipe.training.num_steps = 3


TRAINING = "kind: descent\nname: tiny\ntraining:\n  num_steps: 8\n  learning_rate: 0.01\n"

REFUSED = {
    "a group twice": (TRAINING + "training: {seed: 3}\n", "'training' stands twice.*3 and 6"),
    "a setting twice": (TRAINING + "  num_steps: 9\n", "'num_steps' stands twice.*4 and 6"),
    "twice, quoted": (TRAINING + '  "num_steps": 9\n', "'num_steps' stands twice"),
    "twice in one line": ("training: {seed: 1, seed: 2}", "'seed' stands twice.*on line 1"),
    "twice, deep in a list": ("reruns: [{a: {b: 1, b: 1}}]", "'b' stands twice"),
    "empty": ("", "holds nothing.*needs at least its kind"),
    "only comments": ("# nothing\n# at all\n", "holds nothing.*needs at least its kind"),
    "an empty mapping": ("{}", "names no setting.*needs at least its kind"),
    "a name alone": ("name: x\ndescription: y\n", "names no setting.*needs at least its kind"),
    "empty groups alone": ("training:\ndata: {}\n", "names no setting.*needs at least"),
    "null": ("null", "holds nothing.*needs at least its kind"),
    "a number": ("3", "holds int.*needs at least its kind"),
    "a list": ("- a\n- b\n", "holds list.*needs at least its kind"),
    "two documents": (TRAINING + "---\n" + TRAINING, "several documents"),
    "an empty second document": (TRAINING + "---\n", "several documents"),
    "a tab": ("training:\n\tseed: 1\n", "Indent by spaces, never by tabs"),
    "a tag of Python": ("a: !!python/object/apply:os.system [echo]", "python/object.*no tags"),
    "a tag of its own": ("kind: !mine descent", "!mine.*no tags"),
    "many laughs": (
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]\n" for p, c in pairwise("abcdefgh")),
        "more than 100000 values",
    ),
    "merges that grow": (
        "a: &a {x: 1}\n"
        + "".join(
            f"{c}: &{c} {{<<: [{', '.join([f'*{p}'] * 9)}]}}\n" for p, c in pairwise("abcdefgh")
        ),
        "more than 100000 values",
    ),
    "an anchor in itself": ("a: &a [*a]", "holds itself"),
    "too deep": ("a: " + "[" * 20_000, "nested too deeply"),
    "a long number": (f"training: {{seed: {'9' * 5000}}}", "is too long"),
    "the base 8": ("training: {seed: 010}", "begins with 0"),
    "too large": ("a: " + "x" * 2**20, "which no recipe has"),
    "Latin 1": ("kind: descent\ndescription: caf\u00e9".encode("latin-1"), "byte 30, on line 2"),
    "a control character": ("kind: descent\x0b", "special characters"),
    "a key that is a list": ("? [a]\n: 1\n", "is no name"),
    "half of a surrogate pair": ('kind: descent\ndescription: "\\ud83d"', "line 2 holds half of a"),
    "a NUL": ('kind: descent\ndescription: "\\0"', "or a NUL"),
    "no truth value": ("a: !!bool x", "a value cannot be read"),
    "no date": ("a: !!timestamp x", "a value cannot be read"),
    "no set": ("a: !!set [x]", "no tags"),
    "a vocabulary for all memory": (
        "problem: texts\narguments: {sources: [x], target: x, vocabulary: 1000000000}",
        "vocabulary is 1000000000",
    ),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_file_that_loses_explodes_or_says_nothing_is_refused(content, message, tmp_path):
    """A learning rate that is quietly the default again is a run of something else."""
    path = tmp_path / "own.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(ConfigurationError) as refusal:
        load_recipe(str(path))

    assert refusal.match(f"(?s)own\\.yaml .*{message}")


READ = {
    "mark of byte order": ("\ufeff" + TRAINING).encode(),
    "UTF-16": TRAINING.encode("utf-16"),
    "UTF-32": TRAINING.encode("utf-32"),
    "CRLF": TRAINING.replace("\n", "\r\n").encode(),
    "JSON": b'{"kind": "descent", "name": "tiny", "training": {"num_steps": 8,\n'
    b' "learning_rate": 1e-2}}',
    "exponents": TRAINING.replace("0.01", "1e-2").replace("8", "8e0").encode(),
    "a merge that is overridden": (
        TRAINING.replace("training:\n", "training:\n  <<: {num_steps: 99, learning_rate: 0.5}\n")
    ).encode(),
    "an anchor": TRAINING.replace("num_steps: 8", "num_steps: &n 8\n  batch_size: *n").encode(),
    "one document with its marks": f"---\n{TRAINING}...\n".encode(),
}


@pytest.mark.parametrize("content", READ.values(), ids=READ)
def test_file_is_read_however_its_editor_wrote_it(content, tmp_path):
    """What is the same recipe for its writer is the same recipe."""
    path = tmp_path / "own.yaml"
    path.write_bytes(content)

    recipe = load_recipe(str(path))

    assert (recipe.name, recipe.training.num_steps) == ("tiny", 8)
    assert recipe.training.learning_rate == 0.01


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("name=no", lambda recipe: recipe.name == "no"),
        ("name=2024-01-01", lambda recipe: recipe.name == "2024-01-01"),
        ("name=on", lambda recipe: recipe.name == "on"),
        ("optimizer.nesterov=yes", lambda recipe: recipe.optimizer.nesterov is True),
        ("optimizer.nesterov=off", lambda recipe: recipe.optimizer.nesterov is False),
        ("training.num_steps=1e3", lambda recipe: recipe.training.num_steps == 1000),
        ("training.num_steps=1_000", lambda recipe: recipe.training.num_steps == 1000),
        ("training.num_steps=0x20", lambda recipe: recipe.training.num_steps == 32),
        ("training.learning_rate=1e-05", lambda recipe: recipe.training.learning_rate == 1e-5),
        ("training.learning_rate=.5", lambda recipe: recipe.training.learning_rate == 0.5),
        ("arguments.num_test=~", lambda recipe: recipe.arguments["num_test"] is None),
    ],
)
def test_words_and_numbers_mean_what_they_look_like(change, read):
    """YAML 1.1 took ``no`` for false, ``1e3`` for a word and ``1:30`` for 90."""
    changes = ["metaparameters.injection_step=3", change]

    assert read(load_recipe(SELECTION, changes))


@pytest.mark.parametrize(
    "change",
    [
        "training.num_steps=1:30",
        "training.num_steps=010",
        "training.num_steps=1e400",
        "training.learning_rate=1e400",
        "training.learning_rate=nan",
        "training.seed={a: 1, a: 2}",
        "name=" + "x" * 101,
    ],
)
def test_values_that_look_like_numbers_and_are_none_are_refused(change):
    """Another number than the one that was typed would train without a word."""
    with pytest.raises(ConfigurationError):
        load_recipe(SELECTION, [change])


@pytest.mark.parametrize(
    "name", ["x" * 300, "a\0b", "~nobody-here/x", "../recipes/digits-selection"]
)
def test_name_that_no_file_can_have_is_refused(name):
    """The system's own error would be a traceback."""
    with pytest.raises(ConfigurationError, match="There is no recipe"):
        load_recipe(name)
