"""What looking at a large store costs: the list of runs, one run, and a clean that only looks.

Questions: does ``mgd show RUN`` take at most 5 s of CPU in a store of 50,000 stages and 200 runs
(goal: yes), whatever the others are? Are the list and a clean no slower than before?

The store is synthetic: every stage has a record, a lease, a claim and the six files of one row, all
of them small, with the names and contents that the engine gives them. Commands are run as people
run them, each in a process of its own, with its start counted.

    python -m tests.bench.bench_show [--runs 200] [--stages 250] [--folder /tmp] [--rounds 3]
        [--root CHECKOUT] [--real STORE]

``--root`` measures the commands of another checkout on the same store, e.g. of an older commit.
``--real`` is a store with two finished runs, which are put among the others: what opens a run reads
its record, which synthetic ones have not.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECORD = {
    "scalars": {"losses": [0.5] * 20},
    "started": "2026-01-01T12:00:00+00:00",
    "seconds": 1.5,
    "bytes": 1200,
    "fingerprints": [{"params": "0" * 32}],
    "environment": {"device": "cpu", "cuda": None, "torch": "2"},
    "machine": {"hostname": "bench"},
    "engine": "0" * 16,
    "digest": "0" * 64,
}
KINDS = ["initial", "train", "train", "train", "seed", "reverse", "reverse", "update", "evaluate"]


COMPLETION = """
import os, sys
from flows.cli.app import app
words = f"mgd show --store {sys.argv[-1]} "
os.environ |= {"_MGD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "4"}
app(prog_name="mgd")
"""
"""Asks as a shell does what may stand where a run is due."""


def key_of(word: str, digits: int = 32) -> str:
    return hashlib.sha256(word.encode()).hexdigest()[:digits]


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))


def add_stage(store: Path, run: str, number: int, token: str) -> tuple[str, str]:
    """Write a stage and the claim of its run, which is the only one."""
    stage, key = KINDS[number % len(KINDS)], key_of(f"{run} {number}")
    folder, attempt = store / "stages" / stage / key, "00000001-0badcafe"
    ref = {"stage": stage, "key": key, "content": "0" * 16}
    before = {"stage": KINDS[(number - 1) % len(KINDS)], "key": key_of(f"{run} {number - 1}")}
    inputs = {"start": None if number == 0 else before | {"content": "0" * 16}}
    write(
        folder / "record.json",
        {"ref": ref, "attempt": attempt, "inputs": inputs, "run": run, **RECORD},
    )
    lease = {"owner": {"machine": "bench", "pid": 1, "start": 1}, "nonce": "0badcafe"}
    write(folder / "leases" / "00000001.json", lease | {"renewed": 0, "released": True})
    rows = folder / "attempts" / attempt
    for name in ("zarr.json", "params/zarr.json", "committed/zarr.json"):
        write(rows / name, {"zarr_format": 3})
    write(rows / "committed" / "00000000" / "zarr.json", {"zarr_format": 3})
    write(rows / "params" / "c" / "0" / "0", "0" * 100)
    write(store / "results" / f"{stage}-{key}", ref)
    claim = {"stage": stage, "key": key, "name": f"{stage}[{number}]", "cached": False}
    claim |= {"claimed": f"2026-01-01T12:00:00.{number:06d}+00:00", "token": token}
    write(store / "runs" / run / "stages" / f"{stage}-{key}.json", claim)
    return stage, key


def make_store(store: Path, runs: int, stages: int) -> list[str]:
    """Write runs of so many stages each; all but every tenth have finished."""
    names = [f"bench-{key_of(f'run {i}', 8)}" for i in range(runs)]
    for i, run in enumerate(names):
        add_run(store, run, stages, is_finished=i % 10 > 0)
    return names


def add_run(store: Path, run: str, stages: int, *, is_finished: bool) -> None:
    """Write a run of so many stages, and the mark of the store."""
    mark = {"owner": "metagradient-descent", "version": 1, "made": "2026-01-01T12:00:00+00:00"}
    write(store / "store.json", mark)
    tokens = [key_of(f"token {run} {number}") for number in range(stages)]
    made = [add_stage(store, run, number, tokens[number]) for number in range(stages)]
    write(store / "runs" / run / "recipe.json", {"name": "bench", "kind": "descent"})
    (store / "runs" / run / "report.html").write_text("<html></html>")
    if is_finished:
        ending = {"claims": sorted(tokens), "keeps": ["/".join(each) for each in made[::3]]}
        ending |= {"summary": ["Nothing improved."], "computing_seconds": 1.5 * stages}
        content = {"run": run, "started": "2026-01-01T12:00:00+00:00", "seconds": 400.0}
        content |= {"iterates": [], "chosen": 0, "ending": ending}
        write(store / "runs" / run / "run.json", content)


def measure(command: list[str], root: Path) -> dict[str, float]:
    """Run the command line once; return its seconds and CPU seconds."""
    environment = os.environ | {"PYTHONPATH": str(root), "COLUMNS": "200", "BROWSER": "true"}
    program = [sys.executable, "-m", "flows.cli.app", *command]
    if command[0] == COMPLETION:
        program = [sys.executable, "-c", COMPLETION, *command[1:]]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        program,
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    seconds, after = (
        time.perf_counter() - started,
        resource.getrusage(resource.RUSAGE_CHILDREN),
    )
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"exit": done.returncode, "seconds": seconds, "cpu": cpu}


def main() -> None:
    """Print one JSON line for the machine, and one for each command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--stages", type=int, default=250)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--real", default=None)
    parser.add_argument("--root", default=str(Path(__file__).parents[2]))
    arguments = parser.parse_args()
    root = Path(arguments.root).resolve()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True
    ).stdout.strip()
    print(json.dumps({"commit": commit, "load": os.getloadavg()}))  # noqa: T201
    store = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        names = make_store(store, arguments.runs, arguments.stages)
        place = ["--store", str(store)]
        commands = {
            "help": ["--help"],
            "show": ["show", *place, "--json"],
            "show an unfinished RUN": ["show", names[0], *place, "--json"],
            "show a finished RUN": ["show", names[1], *place],
            "clean": ["clean", *place],
            "clean --intermediate": ["clean", *place, "--intermediate", "--grace", "0s"],
        }
        if arguments.real is not None:
            shutil.copytree(arguments.real, store, dirs_exist_ok=True)
            first, second = sorted(os.listdir(Path(arguments.real, "runs")))[:2]
            commands |= {
                "compare RUN RUN": ["compare", first, second, *place, "--json"],
                "open RUN": ["open", first, *place],
                "export RUN": ["export", first, str(store / "model.pt"), *place],
                "completion of runs": [COMPLETION, *place],
            }
        for name, command in commands.items():
            found = [measure(command, root) for _ in range(arguments.rounds)]
            medians = {
                what: round(statistics.median(each[what] for each in found), 2)
                for what in ("exit", "seconds", "cpu")
            }
            print(json.dumps({"command": name, **medians, "load": os.getloadavg()}))  # noqa: T201
    finally:
        shutil.rmtree(store, ignore_errors=True)


if __name__ == "__main__":
    main()
