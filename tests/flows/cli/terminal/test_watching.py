"""What a command shows while it works: in a terminal, in a log file, and quietly."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from engine.preflight.verdict import Check, CheckReport, Verdict
from engine.progress.displays import LINES
from engine.progress.meter import Meter, doing, listening
from flows.cli import running
from flows.cli.terminal.signals import before_last_words
from flows.cli.terminal.watching import QUIET, prepare_process, watched
from flows.deploying import ENVIRONMENT
from tests.helpers.runs.made_records import make_record
from tests.helpers.runs.tiny_recipe import SMALL, as_options


def test_log_file_has_lines_with_times(capsys):
    """What is at work, what the program says, and warnings of the engine."""
    with watched(), doing("reading the data"):
        LINES.info("Run: digits-12ab34cd")
        logging.getLogger("engine.stages").warning("made again")
        logging.getLogger("engine.stages").info("of no interest")
        time.sleep(0.7)

    lines = capsys.readouterr().err.splitlines()
    assert all(re.match(r"\[\d\d:\d\d:\d\d\] ", line) for line in lines)
    said = [line[11:] for line in lines]
    assert said[:2] == ["Run: digits-12ab34cd", "made again"]
    assert "Reading the data" in said
    assert listening() is None


@pytest.mark.parametrize("term", ["dumb", "xterm-256color"])
def test_terminal_that_cannot_draw_gets_lines(term, monkeypatch):
    """In an editor's terminal a run was silent until its first outer step."""
    monkeypatch.setenv("TERM", term)
    ours, theirs = pty.openpty()
    with open(theirs, "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stream)
        with watched(), doing("reading the data"):
            time.sleep(0.7)
    shown = os.read(ours, 65536).decode()
    os.close(ours)

    assert ("] Reading the data" in shown) is (term == "dumb")
    assert ("\x1b[" in shown) is not (term == "dumb")


@pytest.mark.slow
def test_nothing_is_sent_elsewhere_and_nobody_is_told_that_it_is(monkeypatch):
    """Prefect's notice of that was the first thing that a run printed."""
    for name in ("PREFECT_SERVER_ANALYTICS_ENABLED", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "x")  # what it was comes back after the test
        monkeypatch.delenv(name)

    prepare_process(debug=False)

    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    said = subprocess.run(
        [sys.executable, "-c", ENABLED],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert said.stdout == "False False\n"


ENABLED = """
from prefect._internal.analytics import is_telemetry_enabled
from prefect.settings import get_current_settings

print(is_telemetry_enabled(), get_current_settings().server.analytics_enabled)
"""


def test_quiet_keeps_warnings_alone(capsys):
    """For scripts that read standard error."""
    with watched(quiet=True) as said, doing("reading the data"):
        LINES.info("Run: digits-12ab34cd")
        LINES.warning("preflight, growth: ...")
        logging.getLogger("engine.stages").warning("made again")
        time.sleep(0.7)

    assert capsys.readouterr().err.splitlines() == ["preflight, growth: ...", "made again"]
    assert said == {"preflight, growth: ...", "made again"}


def test_both_ways_to_run_leave_the_same_rows_out_of_the_log():
    """626 of 764 rows were about states of task runs and hooks."""
    assert QUIET.items() <= ENVIRONMENT.items()


CODE = """
import os, signal
from flows.cli.terminal.signals import before_last_words, goes_on, stop_on_signals
stop_on_signals()
goes_on(["digits-12ab34cd"], "/a folder", lambda run: True)
with before_last_words(lambda: os.write(2, b"picture off")):
    os.kill(os.getpid(), signal.SIGINT)
"""


def test_picture_is_taken_off_before_the_last_words():
    """Its last drawing would be over them."""
    ended = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=Path(__file__).parents[4], capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ended.returncode == 130
    assert ended.stderr.index("picture off") < ended.stderr.index("Finished stages are kept")


def test_nothing_is_printed_behind_the_last_words(capsys):
    """The line of an outer step stood below the command that goes on."""
    from flows.cli.terminal import signals, watching

    with watching._picture(Meter()) as write:
        write("an outer step")
        for action in signals._before:
            action()
        write("a later one")

    shown = capsys.readouterr().err
    assert "an outer step" in shown
    assert "a later one" not in shown


def test_what_is_taken_off_by_itself_is_not_taken_off_again():
    """A signal that comes later finds no picture."""
    taken = []
    with before_last_words(lambda: taken.append(1)):
        pass

    from flows.cli.terminal import signals

    assert signals._before == []
    assert taken == []


def in_a_terminal(home, *arguments):
    """Carry a command out in a terminal; return its exit code and what it wrote there."""
    home.mkdir()
    names = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = names | {
        "PREFECT_HOME": str(home / "prefect"),
        "PYTHONPATH": str(Path(__file__).parents[4]),
        "TERM": "xterm-256color",
        "COLUMNS": "100",
    }
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(home)
        command = [sys.executable, "-m", "flows.cli.app", *arguments]
        os.execvpe(sys.executable, command, environment)
    written = b""
    while True:
        try:
            more = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        written += more
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), written.decode(errors="replace")


@pytest.mark.servers
@pytest.mark.timeout(900)
def test_terminal_says_what_is_at_work_from_the_start_to_the_end(tmp_path):
    """A minute of a spinner that said "Prefect starts" was the first impression."""
    options = as_options(SMALL)

    code, text = in_a_terminal(
        tmp_path / "home", "run", *options, "--store", str(tmp_path / "store")
    )

    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert code == 0, plain
    order = [
        # Torch takes seconds to load; what is over before the next picture is not seen.
        *("Loading torch", "Run: digits-selection-", "Store: "),
        *("Outer step 0 of 2: validation loss", "Outer step 2 of 2"),
        *("Nothing improved: ", "Report:"),
    ]
    places = [plain.find(words) for words in order]
    assert -1 not in places, dict(zip(order, places, strict=True))
    assert places == sorted(places)
    assert "In Prefect" not in plain  # the command's own server has no pages
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is there again


SAME_PLACE = """
from flows.cli.terminal.screen import same_place

print(same_place())
"""


GROWN = Check(
    name="adjoint",
    verdict=Verdict.WARN,
    value=1.5,
    limit=1.2,
    cause="It grows.",
    remedy="Slow it.",
)


@pytest.mark.parametrize("other", [subprocess.STDOUT, subprocess.PIPE])
def test_a_warning_is_said_once_where_both_streams_end_in_one_place(other, tmp_path):
    """A script that reads one of the two has to find it there."""
    command = [sys.executable, "-c", SAME_PLACE]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=other, check=True, text=True)

    assert done.stdout == f"{other is subprocess.STDOUT}\n"

    record = make_record().model_copy(update={"checks": CheckReport.of([GROWN])})
    (warning,) = record.checks.warnings()
    assert warning in record.sentences()
    for told, times in ((set(), 1), ({warning}, 0)):
        with redirect_stdout(io.StringIO()) as printed:
            running._tell(record, str(tmp_path), False, told)
        assert printed.getvalue().count(warning) == times
        assert ("The warning said above is in the report, too." in printed.getvalue()) is (
            times == 0
        )
