"""Every command on every kind of store: one message and an exit code, and never a traceback.

The stores here are those that cannot be used at all, or only looked at; those that are damaged are
read by ``tests.faults.store_reads``.
"""

import contextlib
import importlib
import json
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.storage import location, readable
from flows.cli import app as cli
from tests.bench import bench_show

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RUN, OTHER = "bench-0badcafe", "bench-1badcafe"
NOBODY = 65534

LOOKING = {
    "show": ["show"],
    "show as JSON": ["show", "--json"],
    "show a run": ["show", RUN],
    "compare": ["compare", RUN, OTHER, "--json"],
    "clean": ["clean", "--keep", "0", "--grace", "0s"],
    "clean --intermediate": ["clean", "--intermediate", "--json"],
    "open": ["open", RUN],
    "send": ["send", RUN, "--to", "tensorboard:{tmp}/events"],
    "export": ["export", RUN, "{tmp}/model.pt"],
    "verify": ["verify", RUN, "--seed", "1"],
    "resume": ["resume", RUN],
}
"""Commands that begin by looking at what is there."""

SMALL = [
    *("--set", "training.num_steps=2", "--set", "arguments.num_train=20"),
    *("--set", "training.batch_size=10", "--set", "metaparameters.injection_step=1"),
]
WRITING = {
    "clean --yes": ["clean", "--keep", "0", "--grace", "0s", "--yes"],
    "run": ["run", *SMALL],
    "run with seeds": ["run", *SMALL, "--seeds", "0,1"],
    "check": ["check", *SMALL],
    "plan": ["plan", *SMALL],
    "smoothness": ["smoothness", *SMALL],
}
"""Commands that write."""

COMMANDS = LOOKING | WRITING


def test_every_command_that_has_a_store_is_here():
    """A new one is asked the same."""
    with_store = {
        name or getattr(command.callback, "__name__", "")
        for command in cli.app.registered_commands
        for name in [command.name]
        if "store" in command.callback.__annotations__
    }

    assert with_store - {words[0] for words in COMMANDS.values()} == {"deploy", "ui"}


@contextlib.contextmanager
def no_server(**options):
    """Stand for the server of a command, which begins to start while the recipe is read."""
    yield None


@pytest.fixture(autouse=True)
def without_a_server(monkeypatch):
    """Whatever is refused has to be refused before a flow starts."""

    def refuse(server):
        raise AssertionError("a flow was started for a store that cannot be used")

    monkeypatch.setattr("flows.cli.server.local_server.server_of_a_command", no_server)
    monkeypatch.setattr("flows.cli.server.local_server.connected", refuse)
    monkeypatch.setattr("flows.cli.running.prepare_process", lambda debug: None)
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    # One attempt and a second of patience, so that a test need not wait for ten of them.
    soon = {"connect_timeout": 1, "read_timeout": 1, "retries": {"max_attempts": 1}}
    monkeypatch.setattr(readable, "_IMPATIENT", soon)
    monkeypatch.setattr(location, "_IMPATIENT", soon)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")


def ask(words, store, tmp_path):
    given = [word.replace("{tmp}", str(tmp_path)) for word in words]
    return CliRunner().invoke(cli.app, [*given, "--store", store])


def assert_one_message(done, codes):
    """One paragraph with a remedy, a code, and nothing that a terminal obeys."""
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    assert "an unexpected error" not in done.output
    assert "\x1b" not in done.output
    assert done.output.strip()
    assert done.exit_code in codes, done.output


@pytest.fixture
def silent():
    """The address of a server that takes every connection, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(
    "kind", ["file", "device", "pipe", "below a file", "nobody answers", "silent", "protocol"]
)
def test_what_is_no_store_is_told_in_one_message(kind, words, tmp_path, monkeypatch, silent):
    """Nobody has done anything wrong but a letter of a path, or their network is away."""
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    places = {
        "file": str(tmp_path / "file"),
        "device": "/dev/null",
        "pipe": str(tmp_path / "pipe"),
        "below a file": str(tmp_path / "file" / "store"),
        "protocol": "nothing://x",
    }
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent if kind == "silent" else "http://127.0.0.1:9")

    done = ask(words, places.get(kind, "s3://bucket/store"), tmp_path)

    assert_one_message(done, {1, 2})


@pytest.mark.parametrize("words", LOOKING.values(), ids=LOOKING)
@pytest.mark.parametrize("kind", ["absent", "empty", "foreign", "newer", "of another kind"])
def test_store_without_such_a_run_is_told_in_one_message(kind, words, tmp_path):
    """A folder may be new, somebody's project, or what a later version of this program wrote."""
    store = tmp_path / "store"
    if kind != "absent":
        store.mkdir()
    if kind == "foreign":
        for name in ("runs/exp1/events.out", "results/table.csv", "stages/a/b/notes.txt"):
            (store / name).parent.mkdir(parents=True)
            (store / name).write_text("mine")
    if kind in ("newer", "of another kind"):
        bench_show.add_run(store, RUN, 2, is_finished=True)
        bench_show.add_run(store, OTHER, 2, is_finished=True)
        mark = {"owner": "metagradient-descent", "version": 99, "made": "2030-01-01"}
        (store / "store.json").write_text(json.dumps(mark))
        for recipe in store.glob("runs/*/recipe.json"):
            content = {"name": "bench", "kind": "of 2030", "settings": [1]}
            recipe.write_text(json.dumps(content if kind == "newer" else {"name": "bench"}))

    done = ask(words, str(store), tmp_path)

    assert_one_message(done, {0} if words[:2] in (["show"], ["show", "--json"]) else {0, 1, 2})
    if kind in ("absent", "empty", "foreign"):
        assert (done.exit_code == 0) == (words[0] == "show" and RUN not in words)


@contextlib.contextmanager
def as_nobody():
    """Go on as a user without rights, of whom files of root are not."""
    if os.geteuid():
        yield  # already
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def shelf():
    """A folder that anybody may enter, as those of pytest may not."""
    folder = Path(tempfile.mkdtemp(prefix="mgd-shelf-"))
    folder.chmod(0o755)
    yield folder
    for each in folder.rglob("*"):
        if each.is_dir() and not each.is_symlink():
            each.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("kind", ["unreadable", "unreadable inside", "read-only"])
def test_store_of_somebody_else_is_told_in_one_message(kind, words, shelf, tmp_path):
    """On a shared machine a store may be shown, and no more, or not even that."""
    store = shelf / "store"
    bench_show.add_run(store, RUN, 2, is_finished=True)
    bench_show.add_run(store, OTHER, 2, is_finished=False)
    # Once with rights: a Python below /root can import nothing more as somebody else.
    ask(words, str(shutil.copytree(store, tmp_path / "store")), tmp_path)
    for module in ("html.parser", "engine.applications.descent.report", "flows.cli.checking"):
        importlib.import_module(module)
    own = Path(tempfile.mkdtemp(dir=shelf))
    own.chmod(0o777)
    closed = {"unreadable": [store], "unreadable inside": [store / "runs", store / "stages"]}
    for folder in closed.get(kind, []):
        folder.chmod(0o700 if os.geteuid() == 0 else 0)
    before = sorted(store.rglob("*"))

    with as_nobody():
        done = ask(words, str(store), own)

    looks = kind == "read-only" and words[0] in ("show", "open", "clean")
    assert_one_message(done, {0, 1, 2} if looks else {1, 2})
    if words[0] == "show" and looks:
        assert done.exit_code == 0
    assert sorted(store.rglob("*")) == before
