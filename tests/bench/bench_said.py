"""What a terminal says of a run: how soon it names what is at work, and its longest silence.

The command is carried out as people type it, in a terminal of its own of 100 columns. A silence is
the time between two changes of what can be read there. After some minutes the run is stopped by
Ctrl-C, and the last words are noted too.

Usage: ``python -m tests.bench.bench_said --date 20261128 [--recipe fashion-selection]
[--seconds 900]``.
"""

import argparse
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from tests.bench.record import write_record

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|[\r\n\u2800-\u28ff]")
"""Moves of the cursor and colours, and a spinner, which says nothing."""


def changes(command, environment, seconds, folder):
    """Carry a command out in a terminal.

    Returns:
        Seconds and visible text of each change, its exit code, and how long it took to end after
        Ctrl-C, None if it ended by itself.
    """
    main, other = pty.openpty()
    began = time.monotonic()
    child = subprocess.Popen(
        command, env=environment, cwd=folder, stdin=other, stdout=other, stderr=other,
        start_new_session=True,
    )  # fmt: skip
    os.close(other)
    found, last, asked = [], "", None
    while True:
        now = time.monotonic() - began
        if asked is None and now > seconds:
            asked = now
            child.send_signal(signal.SIGINT)
        ready, _, _ = select.select([main], [], [], 0.05)
        if not ready:
            if child.poll() is not None:  # what it has started may still hold the terminal
                break
            continue
        try:
            written = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not written:
            break
        text = " ".join(_CONTROL.sub(" ", written.decode(errors="replace")).split())
        if text and text != last:
            found.append((time.monotonic() - began, text))
            last = text
    code = child.wait()
    ended = None if asked is None else time.monotonic() - began - asked
    return found, code, ended


def main():
    """Watch a run, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--date", required=True)
    parser.add_argument("--recipe", default="fashion-selection")
    parser.add_argument("--seconds", type=float, default=900.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {
            "PREFECT_HOME": str(Path(folder) / "prefect"),
            "PYTHONPATH": os.getcwd(),
            "TERM": "xterm-256color",
            "COLUMNS": "100",
            "LINES": "40",
        }
        command = [sys.executable, "-m", "flows.cli.app", "run", options.recipe]
        before = os.getloadavg()
        found, code, ended = changes(command, environment, options.seconds, folder)
        after_it = os.getloadavg()
    if len(found) < 2:
        raise SystemExit(f"It said too little: {found}, and ended with {code}.")
    times = [at for at, _ in found]
    gaps = [(other - one, place) for place, (one, other) in enumerate(pairwise(times))]
    longest = sorted(gaps, reverse=True)[:3]
    lines = [
        f"`mgd run {options.recipe}`, watched for {times[-1]:.0f} s.",
        "",
        "| what | measured |",
        "| --- | --- |",
        f"| seconds until it says what is at work: {found[0][1][:60]!r} | {times[0]:.2f} |",
        *(
            f"| silence of so many seconds, at {times[place]:.0f} s, after "
            f"{found[place][1][:60]!r} | {gap:.2f} |"
            for gap, place in longest
        ),
        f"| changes of what can be read | {len(found)} |",
        f"| load of the machine when it began and ended ({os.cpu_count()} cores) "
        f"| {before[0]:.1f}, {after_it[0]:.1f} |",
        f"| exit code{'' if ended is None else f', {ended:.1f} s after Ctrl-C'} | {code} |",
    ]
    said = f"python -m tests.bench.bench_said --date {options.date}"
    said += f" --recipe {options.recipe} --seconds {options.seconds:.0f}"
    write_record("said", "What a terminal says of a run", said, lines, options.date)


if __name__ == "__main__":
    main()
