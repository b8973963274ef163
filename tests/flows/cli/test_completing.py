"""What a shell completes, asked as a shell asks: fast, and never with an error in the prompt."""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from engine.recipes.files import load_recipe
from flows.cli.app import app
from tests.bench import bench_show
from tests.helpers.data.own_problem import PROBLEM, write_problem

runner = CliRunner()


@pytest.fixture
def complete(tmp_path, monkeypatch):
    """Complete the last word of a command line, and return what is offered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def ask(*words):
        asked = {
            "_MGD_COMPLETE": "complete_bash",
            "COMP_WORDS": "\n".join(["mgd", *words]),
            "COMP_CWORD": str(len(words)),
        }
        found = runner.invoke(app, [], prog_name="mgd", env=asked)
        assert found.stderr == ""
        return found.stdout.split("\n")[:-1] if found.stdout.strip() else []

    return ask


@pytest.mark.parametrize("command", ["run", "check", "plan", "recipes", "smoothness", "deploy"])
def test_recipes_are_completed_by_name(complete, command):
    """Wherever a command takes one."""
    assert complete(command, "digits-se") == ["digits-selection"]


def test_runs_are_those_of_the_store(complete, tmp_path):
    """Of a store on this machine; another one may be far away."""
    for name in ("one-0badcafe", "two-0badcafe"):
        bench_show.add_run(tmp_path, name, 2, is_finished=name.startswith("one"))
    store = str(tmp_path)

    assert complete("show", "--store", store, "o") == ["one-0badcafe"]
    assert sorted(complete("open", "--store", store, "")) == ["one-0badcafe", "two-0badcafe"]
    assert complete("resume", "--store", "s3://bucket/folder", "") == []
    assert complete("show", "--store", str(tmp_path / "none"), "") == []


def test_keys_of_settings_come_with_what_they_are_now(complete):
    """A group at a time, then keys with the recipe's values, and the words of a word."""
    groups = complete("run", "digits-selection", "--set", "")
    keys = complete("run", "digits-selection", "--set", "outer.")

    assert groups.count("outer.") == groups.count("arguments.") == 1
    assert f"outer.num_steps={load_recipe('digits-selection').outer.num_steps}" in keys
    assert complete("run", "digits-selection", "--set", "arguments.num_tr") == [
        "arguments.num_train=800"
    ]
    assert "outer.update=sign" in complete("run", "digits-selection", "--set", "outer.update=s")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("outer.update=", {"sign", "masked-sign"}),
        ("outer.update=mask", {"masked-sign"}),
        ("replay.schedule=", {"store-all", "k-ary"}),
        ("outer.nothing=", set()),
    ],
)
def test_a_shell_gets_values_after_the_equals_sign(typed, offered, complete):
    """Bash cuts a word there, asks for the part behind, and offered files in their place."""
    before = ["run", "digits-selection", "--set", "training.seed=1", "--set"]
    asked = complete(*before, typed)
    words = [part for word in [*before, typed] for part in re.split("(=)", word) if part]
    cut = complete(*words)

    assert offered <= set(cut)
    assert [f"{typed.partition('=')[0]}={word}" for word in cut] == asked


def test_what_was_read_once_is_kept_until_it_changes(complete, tmp_path):
    """The second time costs no pydantic; a recipe that was edited is read again."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("kind: descent\ntraining: {num_steps: 7}\n")
    asked = ("run", str(recipe), "--set", "training.num_s")

    assert complete(*asked) == ["training.num_steps=7"]
    (kept,) = (tmp_path / "cache" / "mgd").iterdir()
    content = json.loads(kept.read_text())
    content["settings"]["training.num_steps"]["value"] = "8"
    kept.write_text(json.dumps(content))
    assert complete(*asked) == ["training.num_steps=8"]
    recipe.write_text("kind: descent\ntraining: {num_steps: 12}\n")
    assert complete(*asked) == ["training.num_steps=12"]


@pytest.mark.parametrize("content", ["no: [", "kind: nothing", None, "training: {num_steps: -1}"])
def test_of_what_cannot_be_read_nothing_is_offered(complete, tmp_path, content):
    """An error would be printed into the line that somebody types."""
    if content is not None:
        (tmp_path / "mine.yaml").write_text(content)

    assert complete("run", str(tmp_path / "mine.yaml"), "--set", "outer.") == []


def test_code_is_not_loaded_to_complete(complete, tmp_path):
    """Nobody has run anything yet."""
    marked = 'import pathlib; pathlib.Path(__file__).with_name("loaded").touch()\n' + PROBLEM
    recipe = write_problem(tmp_path / "own", marked)

    assert "training.seed=0" in complete("run", recipe, "--set", "training.se")
    assert not (tmp_path / "own" / "loaded").exists()


def test_what_a_shell_would_carry_out_is_not_offered(complete, tmp_path):
    """Shells take values as they are, and zsh reads some of them twice; a folder is no run."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(r"{problem: table, arguments: {url: '\$(touch x)', label: 'a b'}}")
    (tmp_path / "runs" / "$(touch x)-0badcafe").mkdir(parents=True)
    (tmp_path / "runs" / "$(touch x)-0badcafe" / "recipe.json").touch()

    keys = complete("run", str(recipe), "--set", "arguments.")

    assert {"arguments.url=", "arguments.label="} <= set(keys)
    assert not any("touch" in key for key in keys)
    assert complete("show", "--store", str(tmp_path), "") == []


@pytest.fixture
def shell(tmp_path):
    """Return the environment of a user whose shells find ``mgd``, and complete nothing yet."""
    program = tmp_path / "bin" / "mgd"
    program.parent.mkdir()
    code = 'import sys; sys.argv[0] = "mgd"; from mgd_command import main; sys.exit(main())'
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    program.chmod(0o755)
    (tmp_path / "home").mkdir()
    return os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.getcwd(),
        "HOME": str(tmp_path / "home"),
        "XDG_CONFIG_HOME": str(tmp_path / "home" / ".config"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TERM": "xterm",
    }


def install(name, environment):
    """Let a shell that is there install what completes."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    subprocess.run([name, "-c", "mgd --install-completion; true"], env=environment, check=True)


@pytest.mark.slow
def test_fish_completes_names_values_and_else_files(shell, tmp_path):
    """Its script is asked as fish asks."""
    install("fish", shell)
    (tmp_path / "zebra.yaml").touch()
    lines = {
        "mgd run digits-se": "digits-selection",
        "mgd run digits-selection --set outer.update=mask": "outer.update=masked-sign",
        "mgd run zeb": "zebra.yaml",
    }
    for typed, whole in lines.items():
        asked = ["fish", "-c", f"complete -C '{typed}'"]
        found = subprocess.run(asked, env=shell, cwd=tmp_path, capture_output=True, text=True)
        assert found.stdout.split("\t")[0].split() == [whole], typed


@pytest.mark.slow
def test_zsh_completes_from_the_first_tab_on(shell):
    """Typer's own script does nothing at the first one, and one that only calls, at the second."""
    install("zsh", shell)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-i"], shell | {"PS1": "ready> "})
    try:
        read_until("ready> ", terminal)
        for typed, rest in [("run digits-se", "lection"), ("check digits-exc", "hange")]:
            os.write(terminal, f"mgd {typed}\t".encode())
            read_until(rest, terminal)
            os.write(terminal, b"\x15")
        os.write(terminal, b"mgd run digits-selection --set outer.update=mask\t")
        read_until("ed-sign", terminal)
    finally:
        os.close(terminal)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def read_until(words, terminal, seconds=60):
    """Read what a terminal shows until the words are there."""
    shown, end = "", time.monotonic() + seconds
    while words not in shown:
        assert time.monotonic() < end, f"{words!r} never came after {shown!r}"
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize("words", ["run dig", "show be", "run digits-selection --set outer."])
def test_completion_loads_nothing_heavy(words, tmp_path):
    """It answers while somebody types; settings come from the cache from the second time on."""
    bench_show.add_run(tmp_path / "store", "bench-0badcafe", 2, is_finished=True)
    code = """
import sys

from flows.cli.app import app

try:
    app(prog_name="mgd")
except SystemExit:
    heavy = {"torch", "zarr", "prefect", "sklearn", "matplotlib", "rich"} & sys.modules.keys()
    print("loaded:", *sorted(heavy), file=sys.stderr)
"""
    asked = {
        "_MGD_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(["mgd", *words.split()]),
        "COMP_CWORD": str(len(words.split())),
        "MGD_STORE": str(tmp_path / "store"),
        "XDG_CACHE_HOME": str(tmp_path),
    }
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True
        )
    assert run.stderr.splitlines()[-1] == "loaded:"
    assert run.stdout.strip()
