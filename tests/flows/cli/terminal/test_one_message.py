"""Every command on every store ends with one message and an exit code."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from engine.errors import (
    BudgetSpentError,
    ConfigurationError,
    StoreRefusedError,
    UntrustworthyError,
)
from engine.storage.location import store_errors
from flows.cli import app as cli
from flows.cli.terminal import signals
from flows.cli.terminal.one_message import one_message

READING = [["show"], ["show", "a"], ["clean"], ["verify", "a"], ["resume", "a"]]


def mgd(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


def is_one_message(done):
    """Whether a command ended by itself, without a traceback, and said something."""
    ended = done.exception is None or isinstance(done.exception, SystemExit)
    return ended and "Traceback" not in done.output and bool(done.output.strip())


@pytest.fixture(params=["file", "empty", "absent", "proc", "null", "s3", "protocol", "ftp"])
def store(request, tmp_path, monkeypatch):
    """Places that are no store, or cannot be read."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    places = {
        "proc": "/proc",
        "null": "/dev/null",
        "s3": "s3://bucket/store",
        "protocol": "nothing://x",
        "ftp": "ftp://127.0.0.1:9/x",
    }
    return places.get(request.param, str(tmp_path / request.param))


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_place_that_is_no_store_is_told_in_one_message(command, store, monkeypatch):
    """Nobody has done anything wrong but a letter of a path, or their network is away."""
    monkeypatch.setattr("flows.cli.terminal.watching.prepare_process", lambda debug: None)
    monkeypatch.setattr(
        "flows.cli.server.local_server.server_of_a_command", lambda **_: nullcontext()
    )

    done = mgd(*command, "--store", store)

    assert is_one_message(done), done.output
    assert done.exit_code in (0, 1, 2)
    if command != ["show"]:
        assert done.exit_code


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_damaged_run_is_told_in_one_message(command, tmp_path, monkeypatch):
    """Also where all of its documents are deep, of another version, or somebody's."""
    monkeypatch.setattr(
        "flows.cli.server.local_server.server_of_a_command", lambda **_: nullcontext()
    )
    monkeypatch.setattr("flows.cli.terminal.watching.prepare_process", lambda debug: None)
    run = tmp_path / "runs" / "a-0123abcd"
    (run / "stages").mkdir(parents=True)
    (run / "recipe.json").write_text("[" * 100_000)
    (run / "run.json").write_text(json.dumps({"run": "\x1b]0;x\x07", "summary": 3}))
    (run / "certificate.json").write_text("{}")

    done = mgd(*command, "--store", str(tmp_path))

    assert is_one_message(done), done.output
    assert "\x1b" not in done.output


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UntrustworthyError("not to be trusted"), 3, "not to be trusted"),
        (ConfigurationError("wrong setting"), 2, "wrong setting"),
        (BudgetSpentError("spent"), 4, "spent"),
        (StoreRefusedError("read-only"), 1, "read-only"),
        (RuntimeError("Prefect's own server did not start\nmore"), 1, "own server did not start"),
        (PermissionError(13, "Permission denied", "/home/x/profiles.toml"), 1, "profiles.toml"),
        (KeyError("iterates"), 1, "an unexpected error: KeyError: 'iterates'"),
        (RecursionError("deep"), 1, "deep"),
        (MemoryError(), 1, "memory of this machine"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"), 1, "batch_size"),
        (ValueError("[/red] \x1b[2J"), 1, "[/red]"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_error_of_any_kind_has_one_message_and_a_code(error, code, words, capsys):
    """A traceback tells a user nothing; --debug is for whoever asks for it."""
    with pytest.raises(typer.Exit) as ended, one_message(False):
        raise error

    said = capsys.readouterr().err
    assert ended.value.exit_code == code
    assert words in said
    assert "\x1b]" not in said
    assert len(said.strip().splitlines()) == 1
    with pytest.raises(type(error)), one_message(True):
        raise error


def test_torch_says_so_when_memory_runs_out(capsys):
    """The words are those of the installed torch, which may change."""
    with pytest.raises(typer.Exit), one_message(False):
        torch.empty(2**50)

    assert "memory of this machine" in capsys.readouterr().err


def test_store_that_turns_read_only_ends_a_run_with_the_code_of_a_stop():
    """Exit code 2 says that nothing was trained; by then three stages were."""
    with pytest.raises(StoreRefusedError) as refused, store_errors("/store"):
        raise OSError(30, "Read-only file system")

    assert not isinstance(refused.value, ConfigurationError)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["recipes"], ["show", "--store", "absent", "--json"]])
def test_output_that_cannot_be_written_is_one_message(command):
    """Python would print a traceback of its own at the end."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli.app", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])},
        )

    assert done.returncode == 1
    assert "output cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("ending", [typer.Exit(3), typer.Abort(), BrokenPipeError()])
def test_ways_to_end_that_are_no_errors_pass(ending):
    """A verdict has an exit code of its own, and whoever reads by `head` has seen enough."""
    with pytest.raises(type(ending)) as ended, one_message(False):
        raise ending

    assert ended.value is ending


def test_an_exit_by_a_signal_keeps_its_code(monkeypatch):
    """It has said what is kept, and scripts know a signal by its number."""
    monkeypatch.setattr(signals, "_asked", [])

    with pytest.raises(SystemExit) as ended, one_message(False):
        signal.raise_signal(signal.SIGTERM)

    assert ended.value.code == 143


@pytest.mark.parametrize("command", [["show"], ["run"], ["recipes"]], ids=" ".join)
def test_working_folder_that_was_deleted_is_told(command, tmp_path, monkeypatch):
    """The library of linear algebra ends the process there, and says that it cannot be loaded."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()

    done = mgd(*command)

    assert done.exit_code == 2
    assert is_one_message(done)
    assert "working folder is not there any more" in done.output


def test_a_panic_of_a_library_in_rust_is_one_message():
    """It is no Exception, so that nobody catches it by mistake."""

    class PanicException(BaseException):
        pass

    def command():
        with one_message(debug=False):
            raise PanicException("index out of bounds")

    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, [])

    assert done.exit_code == 1
    assert is_one_message(done)
    assert "PanicException: index out of bounds" in done.output


@pytest.mark.parametrize("code", [0, 3, None, "words"])
def test_an_exit_of_code_that_was_called_is_no_success(code, capsys):
    """A loss that calls exit() ended `mgd check` with 0 and without a word: a script went on."""
    with pytest.raises(typer.Exit) as ended, one_message(debug=False):
        sys.exit(code)

    assert ended.value.exit_code == 1
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(r"ends the process in line \d+ of \S+test_one_message.py \(exit\)", told)


def test_an_interrupt_is_told(capsys):
    """Commands that are no runs say that they have stopped, too."""
    with pytest.raises(typer.Exit) as ended, one_message(debug=False):
        raise KeyboardInterrupt

    assert ended.value.exit_code == 130
    assert "Stopped by Ctrl-C" in capsys.readouterr().err


ENDING = """
import os, sys, time
import typer
from flows.cli import app as module, start

def command():
    {then}

module.app = typer.Typer()
module.app.command()(command)
sys.argv = ["mgd"]
start.main()
"""


def end_of(then):
    """Return how a command ends that calls some code."""
    return subprocess.run(
        [sys.executable, "-c", ENDING.format(then=then)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(("status", "code"), [(0, 1), (7, 7)])
def test_an_end_on_the_spot_is_told_and_is_no_success(status, code):
    """A loss that calls `os._exit(0)` ended `mgd check` with 0, and a script took it for a pass."""
    done = end_of(f"os._exit({status})")

    assert done.returncode == code
    assert re.match(r"Code that the command called ends the process in line \d+ of", done.stderr)
    assert "(os._exit)" in done.stderr


def test_a_child_of_a_command_ends_as_it_has_to():
    """Those of multiprocessing do, such as the ones that load data."""
    done = end_of("os.fork() or os._exit(0); print(os.waitstatus_to_exitcode(os.wait()[1]))")

    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_what_the_main_thread_still_does_is_waited_for():
    """The patience is for what is left after it, however long it takes itself."""
    done = end_of("start.PATIENCE = 0.1; start._end_in_time(3); time.sleep(1.0); print('done')")

    assert (done.returncode, done.stdout) == (0, "done\n")


LEFT = {
    "a thread": "threading.Thread(target=time.sleep, args=(600,)).start()",
    "an exit handler": "atexit.register(time.sleep, 600)",
    "a process": "multiprocessing.Process(target=time.sleep, args=(601,)).start()",
}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
@pytest.mark.parametrize("code", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_what_called_code_has_left_does_not_keep_a_command_alive(left, code):
    """`mgd check` had said its verdict, and never ended."""
    script = f"""
import atexit, multiprocessing, threading, time
import typer
from flows.cli import app as module, start

def command():
    {left}
    raise typer.Exit({code})

module.app = typer.Typer()
module.app.command()(command)
start.PATIENCE = 1.0
import sys
sys.argv = ["mgd"]
start.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False
    )

    assert done.returncode == code
    assert "does not wait any longer" in done.stderr
    assert "Traceback" not in done.stderr


def test_traceback_of_a_command_has_no_secret(tmp_path):
    """It is printed by the interpreter, with the error of the library that was the cause."""
    program = tmp_path / "program.py"
    program.write_text(
        "import typer\n"
        "from flows.cli.terminal.one_message import one_message\n"
        "app = typer.Typer(pretty_exceptions_enable=False)\n"
        "@app.command()\n"
        "def command():\n"
        "    with one_message(debug=True):\n"
        "        try:\n"
        "            raise OSError('403 of https://host/x?X-Amz-Signature=' + 'hid' + 'den')\n"
        "        except OSError as error:\n"
        "            raise ValueError('https://user:' + 'hid' + 'den@host/') from error\n"
        "app()\n"
    )

    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)

    assert done.returncode == 1
    assert "hidden" not in done.stdout + done.stderr
    assert "403 of https://host/x?X-Amz-Signature=***" in done.stderr
    assert "ValueError: https://user:***@host/" in done.stderr
    assert "Traceback (most recent call last)" in done.stderr
