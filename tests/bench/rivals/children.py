"""Starts a contender in its own Python, and talks to it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


class ContenderError(Exception):
    """A contender cannot do what was asked; the message goes into the table."""


@dataclass(frozen=True)
class Entry:
    """A row of the comparison.

    Attributes:
        label: Its name in the table.
        module: File of this folder that is run.
        python: The Python that runs it; empty if there is none.
        options: What the contender is told.
    """

    label: str
    module: str
    python: str
    options: dict[str, Any] = field(default_factory=dict)


class Child:
    """A contender in a process of its own; closes with ``close``.

    Everybody gets the same threads, and the same setting of glibc's allocator, without which pages
    go back to the system after every step.
    """

    def __init__(self, entry: Entry, threads: int, log: Path) -> None:
        """See ``Contender.__init__``."""
        if not entry.python or not Path(entry.python).exists():
            raise ContenderError(
                f"no Python at {entry.python!r}" if entry.python else "no environment was given"
            )
        self.entry = entry
        self._log = log.open("w")
        self._log_path = log
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
            "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
        }
        cores = sorted(os.sched_getaffinity(0))[:threads]
        self._process = subprocess.Popen(
            # XLA has no setting for its threads: it takes as many as the cores it may use.
            [
                sys.executable,
                "-c",
                _ON_CORES,
                json.dumps(cores),
                entry.python,
                "-m",
                f"tests.bench.rivals.{entry.module}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command, wait for its answer.

        Raises:
            ContenderError: If the contender declines, fails or dies.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            raise ContenderError(f"ended with status {status}: {self._last_words()}")
        answer = json.loads(line)
        if not answer.pop("ok"):
            raise ContenderError(answer["reason"])
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _last_words(self) -> str:
        lines = self._log_path.read_text().strip().splitlines()
        return lines[-1][:200] if lines else "it said nothing"


# What a library prints while it is imported must not be taken for an answer: those have number 3.
_ON_CORES = (
    "import json, os, sys;"
    "os.sched_setaffinity(0, json.loads(sys.argv[1]));"
    "os.dup2(1, 3); os.dup2(2, 1);"
    "os.execv(sys.argv[2], sys.argv[2:])"
)
