"""Writes the record of an experiment: what was run where, and what came out."""

import platform
from collections.abc import Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def write_record(
    name: str, title: str, command: str, lines: Sequence[str], date: str, threads: int = 1
) -> Path:
    """Write ``results/NAME_cpu-2core_DATE.md`` and return where it is."""
    capability = torch.backends.cpu.get_cpu_capability()
    content = [
        f"# {title}",
        "",
        "| what | value |",
        "| --- | --- |",
        f"| command | `{command}` |",
        f"| hardware | {platform.machine()} with {capability}, CPU only; shared by other work |",
        f"| versions | torch {torch.__version__}, {threads} thread(s) |",
        "",
        *lines,
    ]
    place = RESULTS / f"{name}_cpu-2core_{date}.md"
    place.write_text("\n".join(content).rstrip() + "\n")
    return place
