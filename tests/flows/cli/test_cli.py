"""The command line: what it prints, what it refuses, and what it leaves behind."""

import json
import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from engine.recipes.files import load_recipe
from engine.recipes.shipped_recipes import expected_seconds, shipped_names
from flows.cli.app import app
from flows.descent import descent
from tests.helpers.runs.tiny_recipe import SMALL, as_options

runner = CliRunner()


def small_options():
    return as_options(SMALL)


def test_version_is_that_of_the_package():
    """Bug reports begin with it."""
    result = runner.invoke(app, ["--version"])

    assert result.exit_code == 0
    assert result.stdout.startswith("mgd 0.")


SAYS_NOTHING_TO_PROGRAMS = {"new", "open", "ui"}
"""Their result are files, and windows."""

TAKES_TIME = {"run", "smoothness", "resume", "check", "verify", "plan"}
"""Says what is at work; ``ui`` and ``deploy`` say some lines, and are at it for seconds."""


@pytest.mark.parametrize("name", sorted(typer.main.get_command(app).commands))
def test_every_command_has_the_same_options(name):
    """Whoever has learned one command writes a script with any other."""
    options = {
        each for one in typer.main.get_command(app).commands[name].params for each in one.opts
    }

    assert "--debug" in options
    assert ("--json" in options) is (name not in SAYS_NOTHING_TO_PROGRAMS)
    assert ({"--quiet", "-q"} <= options) is (name in TAKES_TIME)


@pytest.mark.slow
def test_recipes_lists_what_run_takes():
    """A user looks here for names to run."""
    result = runner.invoke(app, ["recipes"])

    assert result.exit_code == 0
    assert all(
        name in result.stdout
        for name in ("digits-selection", "digits-schedule", "fashion-selection")
    )
    assert "needs: Fashion-MNIST" in result.stdout
    assert "a few seconds" not in result.stdout, "the README says half a minute, with the start"
    assert "takes: 10 s" in result.stdout
    known = expected_seconds()
    assert set(known) < set(shipped_names())
    assert all(0 < seconds < 3600 for seconds in known.values())  # on one core, in a lunch break


# Arguments, and what the one message must name: the value, the reason, the remedy.
REFUSALS = {
    "unknown recipe": (["digits-selektion"], ["digits-selektion", "digits-selection"]),
    "unknown key": (["--set", "outer.steps=3"], ["outer.steps", "unknown", "num_steps"]),
    "unknown group": (["--set", "outter.num_steps=3"], ["outter", "unknown", "outer"]),
    "wrong type": (["--set", "training.num_steps=many"], ["training.num_steps", "many"]),
    "no steps": (["--set", "training.num_steps=0"], ["training.num_steps is 0", "T, optimizer"]),
    "arity 1": (["--set", "replay.arity=1"], ["replay.arity is 1", "greater than or equal to 2"]),
    "not an assignment": (["--set", "outer.num_steps"], ["outer.num_steps", "dotted.key=value"]),
    "late injection": (
        ["--set", "metaparameters.injection_step=999"],
        ["injection_step is 999", "200 steps", "below"],
    ),
    "too many examples": (
        ["--set", "arguments.num_train=5000"],
        ["5000", "1797", "arguments.num_train"],
    ),
    "absent data": (
        ["fashion-selection", "--set", "arguments.url=/nowhere/at/all"],
        ["/nowhere/at/all", "arguments.url", "dataset-fashion-mnist"],
    ),
    "no seed": (["--seeds", "0,x"], ["--seeds '0,x'", "'x' is no seed", "0,1,2"]),
    "seed twice": (["--seeds", "4,4"], ["4 is there twice", "different"]),
    "threads left open": (
        ["fashion-selection", "--set", "workers.runner=dask"],
        ["workers.runner is dask", "training.threads is empty", "Set training.threads"],
    ),
    "absent gpu": (["--set", "training.device=cuda:7"], ["cuda:7", "training.device"]),
    "unknown protocol": (["--store", "nope://x/y"], ["nope", "--store"]),
}


SEEN_BY_THE_RUN = {"too many examples", "absent data", "absent gpu"}
"""What only the run itself sees, which starts a server of its own before."""


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if case in SEEN_BY_THE_RUN else ())
        for case in REFUSALS
    ],
)
def test_bad_input_is_refused_in_one_message_before_anything_is_written(case, tmp_path):
    """A refusal names the value, the reason and the remedy, exits with 2, and leaves nothing."""
    arguments, words = REFUSALS[case]
    store = [] if "--store" in arguments else ["--store", str(tmp_path / "store")]

    result = runner.invoke(app, ["run", *arguments, *store])

    assert result.exit_code == 2, result.output
    assert all(word in result.stderr for word in words), result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback_of_a_refusal(tmp_path):
    """The one message hides where it came from; a developer asks for that."""
    result = runner.invoke(app, ["run", "--set", "replay.arity=1", "--debug"])

    assert "ConfigurationError" in repr(result.exception)


def test_show_says_that_a_store_has_no_run(tmp_path):
    """It is no matter of the name then."""
    result = runner.invoke(app, ["show", "digits", "--store", str(tmp_path)])

    assert result.exit_code == 2
    assert f"There is no run in {tmp_path}" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_run_ends_with_one_json_object_on_stdout(prefect_server, tmp_path):
    """Scripts read the last line of stdout; everything for people goes to stderr."""
    command = [sys.executable, "-m", "flows.cli.app", "run", *small_options(), "--json"]

    done = subprocess.run(
        [*command, "--store", str(tmp_path)],
        env={**os.environ, "PREFECT_API_URL": prefect_server},
        capture_output=True,
        text=True,
        check=True,
    )

    content = json.loads(done.stdout.splitlines()[-1])
    assert content.keys() >= {
        "run", "recipe", "store", "seconds", "objective", "validation", "test", "stages",
        "auc", "digest", "report",
    }  # fmt: skip
    assert content["recipe"] == "digits-selection"
    assert len(content["objective"]) == 2
    assert content["test"]["before"].keys() == {"loss", "accuracy"}
    assert content["stages"] == {"total": 20, "cached": 0, "retried": 0}
    assert os.path.exists(content["report"])
    assert "Outer step 2 of 2" in done.stderr

    shown = runner.invoke(app, ["show", content["run"], "--store", str(tmp_path)])
    assert "chosen" in shown.stdout


@pytest.mark.slow
def test_diverging_run_stops_with_the_step_and_the_remedy(prefect_server, tmp_path):
    """A NaN in step t is not a refusal: the run began, so it exits with 1 and says the step."""
    divergent = ["--set", "training.learning_rate=1e30", "--set", "preflight=advise"]
    divergent += ["--store", str(tmp_path)]

    done = runner.invoke(app, ["run", *small_options(), *divergent])

    assert done.exit_code == 1
    assert "in step" in done.stderr
    assert "training.learning_rate" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_killed_run_is_resumed_by_name_with_the_same_bits(prefect_server, tmp_path):
    """Pre-emption is the usual end of a long run: nothing but the store may be needed to go on."""
    mgd = [sys.executable, "-m", "flows.cli.app"]
    environment = {**os.environ, "PREFECT_API_URL": prefect_server}
    killed, undisturbed = str(tmp_path / "killed"), str(tmp_path / "undisturbed")
    expected = descent(load_recipe("digits-selection", [*SMALL, "outer.num_steps=6"]), undisturbed)
    options = as_options([*SMALL, "outer.num_steps=6"])
    command = [*mgd, "run", *options, "--store", killed]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        next(line for line in process.stderr if "Outer step 2" in line)
        process.kill()

    done = subprocess.run(
        [*mgd, "resume", "digits-sel", "--store", killed, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    content = json.loads(done.stdout.splitlines()[-1])
    assert content["digest"] == expected.digest
    assert content["stages"]["cached"] > 0


@pytest.mark.slow
def test_smoothness_ends_with_both_definitions_on_stdout(prefect_server, tmp_path):
    """The keys that scripts read, and beside them for people the values that mean nothing."""
    options = ["--directions", "2", "--by", "example", "--step", "0.1", "--json"]
    options += ["--set", "smoothness.landscape=1", "--store", str(tmp_path)]

    done = runner.invoke(app, ["smoothness", *small_options(), *options])

    content = json.loads(done.stdout.splitlines()[-1])
    for definition in ("definition_1", "definition_2"):
        assert content[definition].keys() == {"mean", "spread", "directions"}
        assert len(content[definition]["directions"]) == 2
    assert content["step"] == 0.1
    assert os.path.exists(content["figure"])
    assert "0.414" in done.stderr

    shown = runner.invoke(app, ["show", content["run"], "--store", str(tmp_path)])
    assert "0.414" in shown.stdout
