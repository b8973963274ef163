"""How the driver talks to a contender: one JSON object a line, in and out of a child process.

Imported in the rivals' environments too: the standard library and numpy only, torch where found.
A contender is an object with the methods of ``Contender``; ``serve`` runs the loop. What it prints
goes to stderr; answers have a descriptor of their own.
"""

import ctypes
import gc
import json
import os
import platform
import resource
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

ANSWERS = 3
"""File descriptor of the answers; ``children.py`` makes it."""


class Unable(Exception):
    """What was asked is not something this contender does; the message is shown in the table."""


@dataclass(frozen=True)
class Task:
    """One problem as its files say it, and what a contender is told beside.

    Attributes:
        folder: Holds ``problem.json``, ``initial.npz``, ``data.npz`` (see ``problems.write``).
        options: The contender's own settings, from the driver.
    """

    folder: Path
    options: dict[str, Any]

    @property
    def content(self) -> dict[str, Any]:
        """What ``problem.json`` says."""
        return json.loads((self.folder / "problem.json").read_text())

    def initial(self) -> dict[str, np.ndarray]:
        """Return the initial parameters by name."""
        return dict(np.load(self.folder / "initial.npz"))

    def data(self) -> dict[str, np.ndarray]:
        """Return examples, held-out examples and weights."""
        return dict(np.load(self.folder / "data.npz"))


class Contender(Protocol):
    """One way to a metagradient. A second call of anything must compute it all again."""

    def prepare(self, task: Task) -> dict[str, Any]:
        """Load, build and compile; return versions and ``computes``, a sentence."""
        ...

    def warm(self) -> None:
        """Do everything once, on few steps if that will do."""
        ...

    def plain(self) -> None:
        """Train all steps as fast as it can, keeping nothing."""
        ...

    def forward(self) -> None:
        """Train all steps and keep what the reverse sweep needs."""
        ...

    def whole(self) -> tuple[float, np.ndarray]:
        """Return the output and its metagradient, computed from the start."""
        ...

    def stored_bytes(self) -> int | None:
        """Return the most bytes of states that ``whole`` kept at once; None if it cannot know."""
        ...


def serve(contender: Contender) -> None:
    """Answer commands on stdin until it closes."""
    answers = os.fdopen(ANSWERS, "w", buffering=1)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"ok": True, **_carry_out(contender, command)}
        except Unable as error:
            answer = {"ok": False, "reason": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"ok": False, "reason": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(answer) + "\n")


def _carry_out(contender: Contender, command: dict[str, Any]) -> dict[str, Any]:
    if command["do"] == "prepare":
        task = Task(Path(command["folder"]), command["options"])
        started = time.perf_counter()
        about = contender.prepare(task)
        return {"about": about, "seconds": time.perf_counter() - started, "rss": resident()[0]}
    gc.collect()
    _reset_peak()
    before, _ = resident()
    started, found = time.perf_counter(), None
    found = getattr(contender, command["do"])()
    _synchronize()
    answer = {"seconds": time.perf_counter() - started, "rss_before": before}
    answer["rss_peak"] = resident()[1]
    answer["device_peak"] = _device_peak()
    if command["do"] == "whole":
        output, gradient = found
        np.save(command["to"], gradient.astype(np.float64))
        answer |= {"output": float(output), "stored": contender.stored_bytes()}
    return answer


def free_memory() -> int:
    """Return the bytes that the machine can still give."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (free,) = [line.split()[1] for line in lines if line.startswith("MemAvailable")]
    return int(free) * 1024


def _reset_peak() -> None:
    """Give freed memory back and start the record of peak memory anew."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def resident() -> tuple[int, int]:
    """Return resident bytes now, and their peak since the last reset."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return peak, peak
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return int(sizes["VmRSS"]) * 1024, int(sizes["VmHWM"]) * 1024


def _synchronize() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def _device_peak() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return torch.cuda.max_memory_allocated()
