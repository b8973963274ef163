"""``mgd new``: what it writes works before anybody has changed a line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import engine
from engine.problems.built import build_problem
from engine.recipes.files import load_recipe
from engine.replay.plain_training import train_unchecked
from flows.cli import new
from flows.cli.app import app
from flows.cli.new import StartingPoint

cli = CliRunner()
ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        StartingPoint.SCRIPT,
        *(
            pytest.param(each, marks=pytest.mark.exhaustive)
            for each in StartingPoint
            if each != "script"
        ),
    ],
)
def test_test_of_a_new_problem_passes_as_written(start, tmp_path):
    """In a process of its own, as a user runs it."""
    if start is StartingPoint.HF_DATASET:
        pytest.importorskip("datasets", reason="needs the extra datasets")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    result = cli.invoke(app, ["new", "my_problem", "--from", start, "--folder", str(tmp_path)])

    assert result.exit_code == 0, result.output
    assert "mgd run" in result.output
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_problem.py"],
        cwd=tmp_path, env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


_CURVED = "{name: adam, eps_root: 0}"
"""With it and a wide net the central difference that the test took is off by 2e-3."""


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_test_of_a_sound_problem_passes_where_adam_bends_the_slope(factor, tmp_path):
    """A run that torch's own Adam makes is told from one whose metagradient is off by a percent."""
    cli.invoke(app, ["new", "mine", "--from", "script", "--folder", str(tmp_path)])
    recipe, test = tmp_path / "mine.yaml", tmp_path / "test_mine.py"
    text = recipe.read_text().replace("{name: sgd, momentum: 0.9}", _CURVED)
    text = text.replace("learning_rate: 0.05", "learning_rate: 0.3")
    recipe.write_text(text.replace("{num_train: 300}", "{num_train: 300, width: 256}"))
    test.write_text(test.read_text().replace("metagradient @", f"{factor} * metagradient @"))
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"],
        cwd=tmp_path, env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ("1 passed" in done.stdout) is (factor == 1.0), done.stdout + done.stderr


@pytest.mark.slow
def test_first_example_gains_over_all_data_and_a_random_choice(tmp_path):
    """A newcomer's first report says something: the metagradient finds the wrong labels."""
    cli.invoke(app, ["new", "mine", "--from", "script", "--folder", str(tmp_path)])
    recipe = load_recipe(str(tmp_path / "mine.yaml"))

    found = engine.descend(recipe, check=False)

    built = build_problem(recipe)
    generator = torch.Generator().manual_seed(0)
    drawn = found.value[torch.randperm(len(found.value), generator=generator)]
    by_chance = built.scores(train_unchecked(built.routine.at(drawn)))["test"]["loss"]
    before, after = (found.iterates[n].scores["test"]["loss"] for n in (0, found.chosen))
    assert after < 0.7 * before
    assert after < 0.7 * by_chance
    dropped = found.value == 0
    wrong = built.data.corrupted
    assert wrong[dropped].double().mean() > 1.25 * wrong.double().mean()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["new", "two words"], "cannot be the name of a function"),
        (
            ["new", "x", "--from", "nothing"],
            "Use one of script, image_folder, table, texts, instructions",
        ),
        (["new", "x", "--from", "tabel"], "Did you mean table?"),
        (["new", "there"], "is there already"),
        (["new", "class"], "class is a word of Python's"),
        (["new", "torch"], "torch is an installed package, which a file torch.py would stand"),
        (["new", "engine"], "engine is an installed package"),
        (["new", "nn"], "nn is another name in the file"),
        (["new", "accuracy"], "accuracy is another name in the file"),
        (["new", "print"], "print is a word of Python's"),
        (["new", "test_it"], "test_it is what pytest looks for"),
        (["new", "x" * 300], "The name has 300 characters"),
        (["new", "random"], "random is a module of Python's, which a file random.py would stand"),
    ],
)
def test_new_problem_that_cannot_be_is_one_message(arguments, words, tmp_path):
    """Nothing of the user's is overwritten."""
    (tmp_path / "there.yaml").write_text("mine")

    result = cli.invoke(app, [*arguments, "--folder", str(tmp_path)])

    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["there.yaml"]


@pytest.mark.parametrize("file", ["engine.py", "engine/__init__.py"])
def test_folder_with_another_engine_is_no_place_for_a_problem(file, tmp_path):
    """Pytest puts the folder of a test first, so that the test would import that one."""
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("")

    result = cli.invoke(app, ["new", "mine", "--folder", str(tmp_path)])
    elsewhere = cli.invoke(app, ["new", "mine", "--folder", str(tmp_path / "problem")])

    assert result.exit_code == 2
    assert f"{file} has the name of the package" in result.output.replace("\n", "")
    assert elsewhere.exit_code == 0, elsewhere.output


NEEDS = {
    StartingPoint.TABLE: "CSV and Parquet need the package pyarrow. Run: pip install -c "
    "constraints.txt -e '.[parquet]'",
    StartingPoint.PAIRS: "The data, and the test, need the package pillow. Run: pip install",
    StartingPoint.INSTRUCTIONS: "need the package transformers. Run: pip install",
    StartingPoint.SCRIPT: None,
}


@pytest.mark.parametrize("start", NEEDS)
def test_package_that_a_beginning_needs_is_told_at_once(start, tmp_path, monkeypatch):
    """After the README's own install a CSV was refused only when the run began."""
    monkeypatch.setattr(new, "find_spec", lambda name: None)

    result = cli.invoke(app, ["new", "mine", "--from", start, "--folder", str(tmp_path)])

    said = " ".join(result.output.split())
    assert result.exit_code == 0
    assert ("need the package" in said) == (NEEDS[start] is not None)
    assert NEEDS[start] is None or NEEDS[start] in said


def test_test_of_a_table_needs_no_package_but_those_of_the_pipeline(tmp_path, monkeypatch):
    """It makes npz, which is read without pyarrow."""
    cli.invoke(app, ["new", "mine", "--from", "table", "--folder", str(tmp_path)])
    space = {}
    exec((tmp_path / "test_mine.py").read_text(), space | {"__file__": ""}, space)
    monkeypatch.setattr("engine.problems.tables.files.find_spec", lambda name: None)

    recipe = load_recipe(str(tmp_path / "mine.yaml"), space["arguments"](tmp_path))

    assert build_problem(recipe).data.groups["kind"].count("a") > 5
