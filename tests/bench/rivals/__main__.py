"""Our engine beside its rivals, on the same problems, in one run.

Question: what does a whole metagradient cost, in plain trainings, in memory and in bytes stored,
and how far is it from float64? Every contender runs in a child process with its own Python and
says how long it took; rounds go through all of them, forwards and backwards in turn; medians. A
contender without an environment is left out, with the reason.

    python -m tests.bench.rivals --steps 36 --bergson-python ~/bergson/bin/python ...

An environment for each rival: ``pip install torch`` of the version here, then ``bergson`` or
``torchopt``; ``jax`` alone. Torchvision and torchaudio must fit torch or be absent.
"""

import argparse
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tests.bench.rivals.children import ROOT, Child, ContenderError
from tests.bench.rivals.entries import UNIT, contenders, reference
from tests.bench.rivals.problems import OPTIMIZERS, SIZES, Problem, write
from tests.bench.rivals.results import Row, table

OWN_OPTIMIZER = {"gpt": "adamw", "resnet": "sgd", "gpt2-small": "adamw", "resnet-cifar": "sgd"}


def main() -> None:
    """Measure, print the tables, and write them to a record if asked."""
    arguments = read_arguments()
    problems = [
        Problem(size, optimizer, 4, batch_size=4)
        if arguments.quick
        else Problem(size, optimizer, arguments.steps)
        for size in arguments.problem or ("gpt", "resnet")
        for optimizer in arguments.optimizer or (OWN_OPTIMIZER[size],)
    ]
    started, load = time.perf_counter(), os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        parts = [_compare(problem, Path(folder), arguments) for problem in problems]
    text = "\n\n".join([_head(arguments, load, time.perf_counter() - started), *parts]) + "\n"
    print(text)  # noqa: T201
    if arguments.record:
        Path(arguments.record).write_text(text)


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line; of this process's own by default."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--problem", action="append", choices=SIZES, help="repeat for several")
    parser.add_argument("--optimizer", action="append", choices=OPTIMIZERS, help="repeat for both")
    parser.add_argument("--steps", type=int, default=36, help="T")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--patience",
        type=float,
        default=2.5,
        help="slower than this many times the best: one round",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", action="append", help="part of a label; the unit is always there")
    parser.add_argument(
        "--quick", action="store_true", help="T = 4, batches of 4, one round: do they agree?"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--precision", type=_precision, default="float32", help="float32 or tf32, never mixed"
    )
    for rival in ("bergson", "jax", "torchopt"):
        default = os.environ.get(f"RIVALS_{rival.upper()}_PYTHON", "")
        parser.add_argument(f"--{rival}-python", default=default)
    parser.add_argument("--record", help="Markdown file to write")
    arguments = parser.parse_args(given)
    arguments.rounds = 1 if arguments.quick else arguments.rounds
    return arguments


def _precision(name: str) -> str:
    if name not in ("float32", "tf32"):
        raise argparse.ArgumentTypeError(
            f"{name} is refused: second derivatives in bfloat16 or float16 lose their sign, so its "
            "times would be those of another, wrong metagradient; use float32 or tf32"
        )
    return name


def _compare(problem: Problem, folder: Path, arguments: argparse.Namespace) -> str:
    rows, expected, doubt = compared(problem, folder, arguments)
    title = f"## {problem.name.replace('-', ', ')}"
    about = [f"- {row.label}: {row.about}" for row in rows if row.about]
    return "\n\n".join([title, doubt + table(rows, UNIT, expected), "\n".join(about)])


def compared(
    problem: Problem, folder: Path, arguments: argparse.Namespace
) -> tuple[list[Row], np.ndarray | None, str]:
    """Measure everybody on one problem.

    Returns:
        The rows, the metagradient in float64, and why there is none, if so.
    """
    place = folder / problem.name
    write(problem, place)
    told = {name: getattr(arguments, name) for name in ("threads", "device", "precision")}
    try:
        expected, doubt = _expected(place, {**told, "precision": "float32"}), ""
    except ContenderError as error:
        expected, doubt = None, f"There are no errors: {error}.\n\n"
    rows: dict[str, Row] = {}
    with _children(arguments, place, told, rows) as children:
        for turn in range(arguments.rounds):
            fastest = min(
                min(row.seconds("whole").values(), default=math.inf) for row in rows.values()
            )
            for label in list(children) if turn % 2 == 0 else list(reversed(children)):
                if (
                    min(rows[label].seconds("whole").values(), default=0)
                    <= arguments.patience * fastest
                ):
                    _measure(children, rows[label], turn, place)
    return list(rows.values()), expected, doubt


def _expected(place: Path, told: dict[str, object]) -> np.ndarray:
    _say("the float64 reference and its central difference")
    child = Child(reference(), int(str(told["threads"])), place / "reference.log")
    try:
        options = {**child.entry.options, **told}
        child.ask(do="prepare", folder=str(place), options=options)
        child.ask(do="whole", to=str(place / "reference.npy"))
    finally:
        child.close()
    return np.load(place / "reference.npy")


@contextmanager
def _children(
    arguments: argparse.Namespace, place: Path, told: dict[str, object], rows: dict[str, Row]
) -> Iterator[dict[str, Child]]:
    """Start and warm up whoever can take part; end them all."""
    children: dict[str, Child] = {}
    everybody = contenders(
        arguments.bergson_python, arguments.jax_python, arguments.torchopt_python
    )
    try:
        for number, entry in enumerate(everybody):
            wanted = arguments.only is None or any(part in entry.label for part in arguments.only)
            if entry.label != UNIT and not wanted:
                continue
            row = rows[entry.label] = Row(entry.label)
            _say(f"{entry.label}: start")
            try:
                child = Child(entry, arguments.threads, place / f"{number}.log")
                children[entry.label] = child
                options = {**entry.options, **told}
                ready = child.ask(do="prepare", folder=str(place), options=options)
                row.about, row.start_rss = ready["about"], ready["rss"]
                warmed = child.ask(do="warm")
                row.about["start_seconds"] = round(ready["seconds"] + warmed["seconds"], 1)
            except ContenderError as error:
                _drop(children, row, error)
        yield children
    finally:
        for child in children.values():
            child.close()


def _measure(children: dict[str, Child], row: Row, turn: int, place: Path) -> None:
    for command in ("plain", "forward", "whole"):
        if row.label not in children:
            return
        to = place / f"{turn}.npy"
        try:
            answer = children[row.label].ask(do=command, to=str(to))
        except ContenderError as error:
            if command == "whole" and not row.label.startswith(UNIT):
                _drop(children, row, error)
            continue
        row.add(command, turn, answer)
        if command == "whole":
            row.gradient = np.load(to)
        _say(f"{row.label}: {command} {answer['seconds']:.2f} s")


def _drop(children: dict[str, Child], row: Row, error: ContenderError) -> None:
    row.reason = str(error)
    _say(f"{row.label}: left out, {error}")
    child = children.pop(row.label, None)
    if child is not None:
        child.close()


def _head(arguments: argparse.Namespace, load: tuple[float, ...], seconds: float) -> str:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    shown = [word for word in sys.argv[1:] if "/" not in word and not word.endswith("-python")]
    facts = {
        "command": f"`python -m tests.bench.rivals {' '.join(shown)}`",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, {arguments.device}",
        "load (1, 5, 15 minutes)": f"{_shown(load)} before, {_shown(os.getloadavg())} after",
        "threads": str(arguments.threads),
        "precision": arguments.precision,
        "rounds": f"{arguments.rounds}, alternating",
        "Python": platform.python_version(),
        "seconds in all": f"{seconds:.0f}",
    }
    lines = ["# Our engine and its rivals", "", "| what | value |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in facts.items())])


def _shown(load: tuple[float, ...]) -> str:
    return " ".join(f"{each:.1f}" for each in load)


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
