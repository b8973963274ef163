"""Run the fault rows and write their table.

``python -m tests.faults`` runs every row in full, for hours; ``--sample`` a few trials of each.
A row is a module with ``trials(folder, count, seed)``, which yields trials that know if they hold.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch


class Row(NamedTuple):
    """A fault that a run must survive."""

    title: str
    """What happens."""

    must_hold: str
    """What is asked."""

    module: str
    """Has ``trials``, and ``why_not`` where it cannot run everywhere."""

    asked: int
    """Trials of a full run."""

    sample: int
    """Trials of a sample."""


ROWS = {
    "corruption": Row(
        "bit flip, truncation, deletion, zero fill or swap of a random stored file",
        "detected and named, or harmless; never a different number; only the damaged made again",
        "tests.faults.corruption",
        500,
        10,
    ),
    "s3-away": Row(
        "S3 server refuses, answers 503, or does not answer for a while in mid-run",
        "transient error or none; completes with the same bits; nothing lost",
        "tests.faults.store_away",
        50,
        3,
    ),
    "disk-full": Row(
        "disk full while a stage is written",
        "clear error, resumable, no torn stage accepted",
        "tests.faults.disk_full",
        20,
        2,
    ),
    "two-flows": Row(
        "two identical runs started together",
        "each stage computed once, both finish equal",
        "tests.faults.two_flows",
        50,
        2,
    ),
    "server-restart": Row(
        "Prefect server restarted in mid-run",
        "run completes",
        "tests.faults.server_restart",
        20,
        2,
    ),
    "sigkill-flow": Row(
        "SIGKILL of the flow process at a random moment",
        "every resumed result bit-identical, no stage done twice after its commit",
        "tests.faults.sigkill_flow",
        200,
        2,
    ),
    "sigkill-worker": Row(
        "SIGKILL of a Dask worker during a stage",
        "run completes, bit-identical",
        "tests.faults.sigkill_worker",
        50,
        1,
    ),
}


def carry_out(name, count, seed, log):
    """Try a row; return its line of the table and whether every trial held."""
    row, done, failed, started = ROWS[name], 0, 0, time.monotonic()
    module = importlib.import_module(row.module)
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
        if reason := getattr(module, "why_not", lambda folder: None)(Path(folder)):
            return f"| {row.title} | {row.must_hold} | {row.asked} | 0 | skipped: {reason} |", True
        for trial in module.trials(Path(folder), count, seed=seed):
            done, failed = done + 1, failed + (not trial.holds)
            log.write(f"{name} {trial} {'holds' if trial.holds else 'FAILS'}\n")
            log.flush()
    seconds = time.monotonic() - started
    result = f"{done - failed} hold, {failed} fail; {seconds:.0f} s"
    return f"| {row.title} | {row.must_hold} | {row.asked} | {done} | {result} |", not failed


def main():
    """Run what was asked for; print each trial, and at the end the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--row", action="append", choices=sorted(ROWS), help="default: all")
    parser.add_argument("--sample", action="store_true", help="a few trials of each row")
    parser.add_argument("--trials", type=int, help="trials of each row, in place of its own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="Markdown file for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines, hold = [], True
    for name in options.row or ROWS:
        count = options.trials or (ROWS[name].sample if options.sample else ROWS[name].asked)
        line, held = carry_out(name, count, options.seed, sys.stdout)
        lines, hold = [*lines, line], hold and held
    table = "\n".join(
        [
            "| fault | must hold | trials asked | tried | result |",
            "| --- | --- | --- | --- | --- |",
            *lines,
        ]
    )
    sys.stdout.write(table + "\n")
    if options.record:
        options.record.write_text(table + "\n")
    return 0 if hold else 1


if __name__ == "__main__":
    os.environ.pop("PREFECT_API_URL", None)
    raise SystemExit(main())
