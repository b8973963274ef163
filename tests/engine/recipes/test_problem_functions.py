"""How a recipe's problem is found, checked and known again: a function by name, and its source."""

import json
import re
import sys

import pytest

from engine.errors import ConfigurationError
from engine.problems.built import build_problem
from engine.recipes.code.signatures import arguments_of, call
from engine.recipes.files import load_recipe
from engine.recipes.names import run_name
from engine.recipes.problem_functions import (
    arguments_schema,
    find_function,
    shipped_problems,
    sources,
)
from tests.helpers.data.own_problem import PROBLEM, write_problem


def test_arguments_are_those_of_the_signature_with_their_defaults(tmp_path):
    """The form, the key and the record have every argument, also those that nobody wrote."""
    recipe = load_recipe(write_problem(tmp_path))

    assert recipe.arguments == {"number": 40, "wrong": 0.2, "width": 5}
    assert recipe.folder == str(tmp_path)
    assert set(recipe.code) == {"my_clouds.py", "my_helpers.py"}
    fields = arguments_of(find_function(recipe.problem, recipe.folder)).model_fields
    assert fields["wrong"].description == "Share of the labels that are wrong."


def test_every_shipped_problem_has_a_sentence_and_described_arguments():
    """They go through the door of a user's function, form and all."""
    for name in shipped_problems():
        function = find_function(name, None)
        assert function.__doc__, name
        for argument, field in arguments_of(function).model_fields.items():
            assert field.description, (name, argument)


@pytest.mark.parametrize("file", ["my_clouds.py", "my_helpers.py"])
def test_edit_of_any_file_is_another_run(file, tmp_path):
    """A helper that the problem imports shapes the numbers as well."""
    path = write_problem(tmp_path)
    before = run_name(load_recipe(path))
    with (tmp_path / file).open("a") as stream:
        stream.write("\n# edited\n")

    assert run_name(load_recipe(path)) != before


def test_folder_is_no_part_of_the_name(tmp_path):
    """The same problem elsewhere is the same run."""
    one, other = (load_recipe(write_problem(tmp_path / name)) for name in ("a", "b"))

    assert one.folder != other.folder
    assert run_name(one) == run_name(other)


def test_neighbours_of_two_folders_are_told_apart(tmp_path):
    """Both have a module my_helpers, and a process may run both recipes."""
    write_problem(tmp_path / "a")
    write_problem(tmp_path / "b")
    helpers = tmp_path / "b" / "my_helpers.py"
    helpers.write_text(helpers.read_text().replace("labels[:, None]", "2 * labels[:, None]"))

    made = [
        find_function("my_clouds.py:two_clouds", str(tmp_path / name))().train["x"]
        for name in ("a", "b", "a")
    ]

    assert not made[0].equal(made[1])
    assert made[0].equal(made[2])


def test_recipe_with_digests_loads_no_code(tmp_path):
    """The recipe of a store would otherwise run whatever file it names."""
    path = write_problem(tmp_path)
    content = load_recipe(path).model_dump(mode="json")
    (tmp_path / "my_clouds.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")

    type(load_recipe("digits-selection")).model_validate(content)

    assert not (tmp_path / "ran").exists()


WRONG = {
    "syntax error": ("def two_clouds(:\n", r"syntax error in line 1 of .*my_clouds\.py"),
    "missing import": ("import a_package_that_is_not\n", r"imports 'a_package_that_is_not'"),
    "error while it loads": ("x = 1 / 0\n", r"ZeroDivisionError in line 1 of .*my_clouds\.py"),
    "other name": (PROBLEM.replace("def two_clouds", "def clouds3"), r"no function 'two_clouds'"),
    "no annotation": (PROBLEM.replace(" -> engine.Problem", ""), r"-> engine\.Problem"),
    "async": (PROBLEM.replace("def two_clouds", "async def two_clouds"), "which is async"),
    "generator": (PROBLEM.replace("    return engine.Problem(", "    yield engine.Problem("),
                  "which is a generator"),
    "class": (
        PROBLEM.replace("def two_clouds", "def other") + "\n\nclass two_clouds:\n    pass\n",
        "two_clouds is a class there, and a recipe calls functions. Write a function",
    ),
    "object": (
        PROBLEM.replace("def two_clouds", "def other") + "\n\ntwo_clouds = 3\n",
        "two_clouds is a int there|two_clouds is an? int there",
    ),
    "star arguments": (
        PROBLEM.replace("number: int = 40,", "*numbers: int,"), r"takes \*numbers"
    ),
    "type of an argument": (
        PROBLEM.replace("wrong: float", "wrong: nn.Module"), r"cannot be settings of a recipe"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "words"), WRONG.values(), ids=WRONG)
def test_wrong_file_is_one_message_before_anything_is_trained(source, words, tmp_path):
    """It says in which line, and what to write."""
    path = write_problem(tmp_path, source)

    with pytest.raises(ConfigurationError, match=words) as error:
        load_recipe(path)

    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("arguments.numer=3", r"arguments\.numer: unknown setting. Settings here: number, wrong"),
        ("arguments.number=many", r"arguments\.number is 'many'.* means: Training candidates"),
        ("arguments.number=true", r"arguments\.number is True.*neither a number nor a name"),
        ("arguments=[1]", r"arguments is \[1\].*Write a mapping"),
        ("problem=nowhere.py:f", r"no such file in"),
        ("problem=digitz", r"does not ship. Use one of cifar_10, digits"),
        ("problem=no.such.package:f", r"no package 'no'|cannot be imported"),
        ("problem=os:getcwd", r"problem"),
        ("problem=clouds.ipynb:f", r"is a notebook.*Save the function"),
        ("problem=shutil:rmtree", r"does not say that it returns a problem"),
        ("problem='a b'", r"names no function"),
    ],
)
def test_wrong_setting_names_what_is_right(change, words, tmp_path):
    """Names of arguments are typed by people, and a recipe may call nothing but problems."""
    path = write_problem(tmp_path)

    with pytest.raises(ConfigurationError, match=words):
        load_recipe(path, [change])


def test_missing_argument_is_named(tmp_path):
    """A parameter without a default has to be given."""
    path = write_problem(
        tmp_path,
        PROBLEM.replace(
            "= 40, wrong: float = 0.2, width: int = 5", "= 40, wrong: float = 0.2, *, width: int"
        ),
    )

    with pytest.raises(ConfigurationError, match=r"arguments\.width: missing"):
        load_recipe(path)


def test_secret_in_an_argument_is_refused(tmp_path):
    """Arguments are kept in stores, reports and databases."""
    path = write_problem(
        tmp_path, PROBLEM.replace("width: int = 5", "width: int = 5, url: str = ''")
    )

    with pytest.raises(ConfigurationError, match=r"arguments\.url is https://\*\*\*@host"):
        load_recipe(path, ["arguments.url=https://somebody:secret@host/data"])


def test_package_is_known_by_version_and_files(tmp_path, monkeypatch):
    """Another version of an installed package is other code."""
    package = tmp_path / "a_package_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "problems.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    before = sources("a_package_of_mine.problems:f", None, {})
    (package / "problems.py").write_text("x = 2\n")

    assert re.fullmatch(r"[0-9a-f]{32}", before["package a_package_of_mine"])
    assert sources("a_package_of_mine.problems:f", None, {}) != before


@pytest.fixture(autouse=True)
def _path():
    """Folders of problems that a test added to the path do not stay there."""
    before = list(sys.path)
    yield
    sys.path[:] = before


def test_schema_of_a_form_has_a_typed_field_for_each_argument(tmp_path):
    """With the sentence of its docstring, its default and its bounds; of one's own problem too."""
    write_problem(tmp_path)

    own = arguments_schema("my_clouds.py:two_clouds", str(tmp_path))
    table = arguments_schema("table")

    assert own["description"] == "Which points of two clouds have a wrong label."
    assert own["properties"]["wrong"] == {
        "default": 0.2,
        "description": "Share of the labels that are wrong.",
        "title": "Wrong",
        "type": "number",
    }
    assert set(table["required"]) == {"url", "label"}
    held_out = table["properties"]["held_out"]
    assert (held_out["minimum"], held_out["maximum"]) == (0, 1)
    assert "Args" not in table["description"]


@pytest.mark.slow
def test_every_shipped_problem_has_a_form():
    """Without torch, as a deployment is made."""
    for name in shipped_problems():
        schema = arguments_schema(name)
        assert all("title" in field for field in schema["properties"].values()), name
        json.dumps(schema)


def test_parameter_that_json_cannot_hold_has_no_form(tmp_path):
    """It could be set by nobody."""
    text = PROBLEM.replace("number: int = 40", "number: Callable = int")
    write_problem(tmp_path, "from collections.abc import Callable\n" + text)

    with pytest.raises(ConfigurationError, match="have no form"):
        arguments_schema("my_clouds.py:two_clouds", str(tmp_path))


def test_default_of_none_is_a_value_whatever_the_type_says(tmp_path):
    """``width: int = None`` is how many people write what may be left out."""
    path = write_problem(tmp_path, PROBLEM.replace("width: int = 5", "width: int = None").replace(
        "    generator = torch", "    width = width or 5\n    generator = torch"
    ))  # fmt: skip
    recipe = load_recipe(path)
    function = find_function(recipe.problem, recipe.folder)

    assert recipe.arguments["width"] is None
    assert call(function, recipe.arguments).model[0].out_features == 5
    with pytest.raises(ConfigurationError, match="arguments.width is 'wide'"):
        load_recipe(path, ["arguments.width=wide"])


@pytest.mark.parametrize("where", ["head", "function"])
def test_what_a_problem_prints_goes_to_stderr(where, tmp_path, capfd):
    """Standard output is that of ``--json``, which programs read."""
    place = "\nimport torch\n" if where == "head" else "    generator = torch.Generator()"
    source = PROBLEM.replace(place, f"{place}\nprint('heard')\n" if where == "head" else
                             f"    print('heard')\n{place}", 1)  # fmt: skip
    build_problem(load_recipe(write_problem(tmp_path, source)))

    told = capfd.readouterr()
    assert "heard" in told.err
    assert "heard" not in told.out


def test_relative_path_says_where_it_was_looked_for(tmp_path):
    """A recipe is run from any folder; a script found its data because it stood beside them."""
    source = PROBLEM.replace(
        "    generator = torch", "    open('rows.csv')\n    generator = torch", 1
    )

    with pytest.raises(
        ConfigurationError, match=r"where the command runs.*with_name\('rows.csv'\)"
    ):
        build_problem(load_recipe(write_problem(tmp_path, source)))


def test_source_with_a_zero_byte_is_refused_without_a_line(tmp_path):
    """Python names none."""
    path = write_problem(tmp_path, PROBLEM + "\0")

    with pytest.raises(ConfigurationError, match=r"syntax error in .*my_clouds.py: .*null bytes"):
        load_recipe(path)


def test_import_that_is_misspelt_is_asked_about(tmp_path):
    """The file that was meant is beside it."""
    path = write_problem(tmp_path)
    file = tmp_path / "my_clouds.py"
    file.write_text(file.read_text().replace("my_helpers", "my_helper"))

    with pytest.raises(ConfigurationError, match=r"'my_helper'.* Did you mean my_helpers\?"):
        load_recipe(path)


def test_error_without_words_is_told_by_its_kind_and_line(tmp_path):
    """Two stops in a row told that something was missing."""
    path = write_problem(tmp_path)
    file = tmp_path / "my_clouds.py"
    file.write_text(
        file.read_text().replace(
            "    return engine.Problem(", "    assert False\n    return engine.Problem("
        )
    )

    with pytest.raises(
        ConfigurationError, match=r"raised AssertionError in line \d+ of .*: it says no more\. "
    ):
        build_problem(load_recipe(path))
