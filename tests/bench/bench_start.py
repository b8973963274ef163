"""Where the time of the main job goes, from its first instruction to its end, as a timeline.

Question: what does ``mgd run`` do until its first training is committed, and what after that?

Each phase has its wall clock, the computing time of the command itself, and that of the processes
that it has started (Prefect's server). With ``--against`` another checkout is run in turn, each
time in a new store, with one home of Prefect's for each checkout whose database is there. Computing
time is disturbed least by other work; wall clock at a load above the number of cores says little.

    python -m tests.bench.bench_start --date 20261128 [--rounds 3] [--against CHECKOUT]
"""

import argparse
import atexit
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]

PHASES = {
    "Python, command line, recipe read": "< reading the recipe",
    "server begun": "< starting Prefect's server",
    "torch and engine loaded": "< loading torch",
    "data read, one step tried": "< looking at the recipe",
    "Prefect loaded": "< loading Prefect",
    "server waited for": "< waiting for Prefect's server",
    "flow run begun": "> measuring what a step costs",
    "plan measured": "< measuring what a step costs",
    "preflight": "< preflight",
    "first segment trained and committed": "< train",
    "rest of the outer steps": "> baseline",
    "comparisons": "> report",
    "report": "< report",
    "last words to Prefect": "end",
}
"""What is done to the mark at its end; a mark counts when it is met first."""


def inside(file: str, arguments: list[str]) -> None:
    """Carry a command out in this process, and write down when what began and ended."""
    from engine.progress import meter

    marks: list[tuple[str, float, float, float]] = []
    begun, real = _age(), meter.doing

    def mark(words: str) -> None:
        marks.append((words, begun + time.perf_counter(), time.process_time(), _of_children()))

    begun -= time.perf_counter()

    @contextmanager
    def doing(words: str):
        _watch_boards(mark)
        mark(f"> {words}")
        with real(words):
            yield
        mark(f"< {words}")

    def end() -> None:
        mark("end")
        Path(file).write_text(json.dumps(marks))

    meter.doing = doing  # before anybody has asked for it
    atexit.register(end)
    from mgd_command import main as command

    sys.argv = ["mgd", *arguments]
    command()


def _watch_boards(mark) -> None:
    """Mark the beginnings and ends of stages, once boards are loaded."""
    board = sys.modules.get("engine.progress.board")
    if board is None or hasattr(board, "is_watched"):
        return
    board.is_watched = True  # pyright: ignore[reportAttributeAccessIssue]
    for name, sign in (("begin", ">"), ("end", "<")):
        real = getattr(board.Board, name)

        def marked(self, stage, *rest, real=real, sign=sign, **more):
            mark(f"{sign} {stage}")
            return real(self, stage, *rest, **more)

        setattr(board.Board, name, marked)


def _age() -> float:
    """Return for how many seconds this process has been there."""
    ticks = os.sysconf("SC_CLK_TCK")
    up = float(Path("/proc/uptime").read_text().split()[0])
    return up - int(_stat("self")[19]) / ticks


def _of_children() -> float:
    """Return the seconds of computing time of the processes that this one has started."""
    ended = os.times()
    found = ended.children_user + ended.children_system
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread or a child that has just ended
            for child in (task / "children").read_text().split():
                fields = _stat(child)
                found += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def _stat(process: str) -> list[str]:
    return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()


def surroundings(home: Path) -> dict[str, str]:
    """Return the environment of a command that was run before, with a home of Prefect's.

    Python keeps what it has compiled, unless the environment forbids it, as that of many containers
    does: then it compiles our own modules at every start, for half a second.
    """
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    own = {"PREFECT_HOME": str(home), "PYTHONPYCACHEPREFIX": str(home / "compiled")}
    return kept | own


def measured(checkout: Path, home: Path, changes: list[str]) -> list[tuple[str, list[float]]]:
    """Run the main job of a checkout; return each phase's wall clock and two computing times."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "marks.json"
        options = ["run", "digits-selection", "--store", f"{folder}/store", "--quiet", *changes]
        subprocess.run(
            [sys.executable, __file__, "--inside", str(file), *options],
            check=True,
            capture_output=True,
            cwd=folder,
            env=surroundings(home) | {"PYTHONPATH": str(checkout)},
        )
        marks = json.loads(file.read_text())
    found, before, after = [], [0.0, 0.0, 0.0], 0
    for words, mark in PHASES.items():
        place = next((i for i in range(after, len(marks)) if marks[i][0].startswith(mark)), None)
        if place is None:
            found.append((words, [0.0, 0.0, 0.0]))
            continue
        now = marks[place][1:]
        found.append((words, [a - b for a, b in zip(now, before, strict=True)]))
        before, after = now, place
    return found


def main() -> None:
    """Measure each checkout in turn, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="checkout that is compared")
    arguments = parser.parse_args()
    checkouts = {"here": ROOT} | ({"there": arguments.against} if arguments.against else {})
    runs: dict[str, list] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for number in range(arguments.rounds + 1):
            for name, checkout in checkouts.items():
                changes = [] if number else ["--set", "outer.num_steps=1"]  # makes the database
                found = measured(checkout.resolve(), Path(folder) / name, changes)
                if number:
                    runs[name].append(found)
    sys.path.insert(0, str(ROOT))
    from tests.bench.record import write_record

    lines = [
        "Seconds of wall clock; of computing time of the command, and of Prefect's server; medians "
        f"of {arguments.rounds}.",
        "",
        "| phase | " + " | ".join(f"{name}: wall | command | server" for name in checkouts) + " |",
        "| --- |" + " --- |" * (3 * len(checkouts)),
    ]
    sums = {name: [[0.0] * 3 for _ in each] for name, each in runs.items()}
    for place, words in enumerate(PHASES):
        cells = []
        for name, each in runs.items():
            rows = [found[place][1] for found in each]
            sums[name] = [
                [a + b for a, b in zip(s, row, strict=True)]
                for s, row in zip(sums[name], rows, strict=True)
            ]
            cells += [f"{statistics.median(column):.2f}" for column in zip(*rows, strict=True)]
        lines.append(f"| {words} | {' | '.join(cells)} |")
        if words.startswith(("first segment", "last words")):
            label = "**until the first training**" if words[0] == "f" else "**whole main job**"
            cells = [
                f"{statistics.median(column):.2f}"
                for each in sums.values()
                for column in zip(*each, strict=True)
            ]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    print("\n".join(lines))  # noqa: T201
    command = f"python -m tests.bench.bench_start --date {arguments.date}"
    command += f" --rounds {arguments.rounds}" + (" --against CHECKOUT" * bool(arguments.against))
    write_record("start", "Where the time of the main job goes", command, lines, arguments.date)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        sys.path.pop(0)  # this folder, in which modules of other names lie
        inside(sys.argv[2], sys.argv[3:])
    else:
        main()
