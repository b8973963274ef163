"""Writes the record of an experiment: what was run where, and what came out."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def write_record(
    name: str, title: str, command: str, lines: Sequence[str], date: str, threads: int = 1
) -> Path:
    """Write ``results/NAME_MACHINE_DATE.md`` and return where it is."""
    load = os.getloadavg()
    content = [
        f"# {title}",
        "",
        "| what | value |",
        "| --- | --- |",
        f"| command | `{command}` |",
        f"| commit | {commit()} |",
        f"| hardware | {machine()} |",
        f"| load when it ended | {load[0]:.1f} over a minute, {load[2]:.1f} over fifteen |",
        f"| versions | torch {torch.__version__}, {threads} thread(s) |",
        "",
        *lines,
    ]
    place = RESULTS / f"{name}_{kind_of_machine()}_{date}.md"
    place.write_text("\n".join(content).rstrip() + "\n")
    return place


def kind_of_machine(device: str | None = None) -> str:
    """Return what a record's name says of its machine, e.g. ``cpu-2core`` or ``gpu-h200``.

    Args:
        device: On which the figures were measured; a GPU, where there is one, by default.
    """
    on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    if not on_gpu:
        return f"cpu-{os.cpu_count()}core"
    name = torch.cuda.get_device_name().lower().removeprefix("nvidia ")
    return f"gpu-{re.sub(r'[^a-z0-9]+', '-', name).strip('-')}"


def commit() -> str:
    """Return the commit of the code that runs, and whether files differ from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return found.stdout.strip() or "unknown"


def machine() -> str:
    """Return what this machine computes with."""
    cpu = f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}; {cpu}"
    return f"{cpu}; no GPU"
