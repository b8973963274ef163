"""Stores that are damaged, hostile or of another version, read by everything that reads a store.

A fuzzer with a seed: it damages one thing of a finished store at a time, lets every command read,
and puts it back. A read may end in a result or in one ``EngineError``, which a command tells in one
message; anything else is a fault: a traceback, a wait, an escape sequence on the terminal.

``python -m tests.faults.fuzzed_stores READS SEED`` counts.
"""

import contextlib
import copy
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from engine.applications.descent import certificate as verify
from engine.applications.descent import record as runs
from engine.errors import CheckpointMissingError, EngineError
from engine.planning.forecast import read_forecast
from engine.preflight.verdict import CheckReport, Verdict
from engine.recipes.execution import BudgetConfig
from engine.recipes.files import change_workers, load_recipe
from engine.recipes.names import run_name
from engine.recipes.settings import digest
from engine.runs import budget
from engine.runs import cleaning as housekeeping
from engine.runs import run as stored
from engine.runs.certificates import Certificate, read_certificate
from engine.runs.clean_plan import CleanRules
from engine.runs.stored_places import check_places
from engine.schedules.segments import Segment
from engine.stages import commits, lease
from engine.storage.location import copy_folder, join, store_errors
from engine.storage.readable import check_readable
from flows.cli import showing
from tests.faults.opened_reads import opened_reads, unfinished
from tests.finished import finish

LIMIT_SECONDS = 10
"""Longest that one read of a store this small may take; more is a hang."""

RECIPE = [
    *(
        "baselines=[]",
        "arguments.num_train=40",
        "arguments.num_objective=20",
        "arguments.num_validation=20",
    ),
    *(
        "arguments.num_test=20",
        "arguments.model.width=4",
        "arguments.model.depth=1",
        "training.num_steps=4",
    ),
    *("training.batch_size=10", "outer.num_steps=1", "replay.steps_per_segment=2"),
    *("training.threads=1", "metaparameters.injection_step=2"),
]

ESCAPE = "\x1b]52;c;cm0gLXJmIH4=\x07\x1b[2J[/red]"

VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, 1e308, -1e308, "", "x", [], {}, [[]]),
    *(ESCAPE, "[link=https://evil.example]x[/link]", "\ud800", "\x00", "\u202eabc", "%s{}$"),
    *("a" * 5000, "../../../../etc", "/etc/passwd", "a/b", "..", "*", "[ab]", [None]),
    *("http://127.0.0.1:9/x", "tcp://127.0.0.1:9", "dask", "attribution", "metasmoothness"),
    *("2026-01-01", "pickle", "gzip", "<U1", "|O", "NaN", {"stage": "..", "key": "../x"}),
    *({"__class__": "subprocess.getoutput", "data": {"cmd": "true"}}, list(range(1000))),
]  # fmt: skip


@dataclass
class Count:
    """What came of the reads."""

    results: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    damages: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def reads(self) -> int:
        """All of them."""
        return self.results + sum(self.errors.values()) + len(self.faults)


class Hang(BaseException):
    """A read that takes longer than it may; not an Exception, so that nothing catches it."""


def finished_store(folder: Path) -> str:
    """Make a store with a finished descent, a plan, a certificate and a budget; return the run.

    Beside it lie another finished run and one that was stopped.
    """
    recipe, other, third = (
        load_recipe("digits-selection", [*RECIPE, f"training.seed={seed}"]) for seed in (0, 1, 2)
    )
    store = str(folder)
    record = finish(recipe, store)
    finish(other, store)
    unfinished(third, store)
    run = Path(store, "runs", record.run)
    reverse = next(each.gradient for each in record.iterates if each.gradient is not None)
    certificate = Certificate(
        run=record.run,
        verdict=Verdict.PASS,
        made=record.started,
        seed=1,
        outer_step=0,
        segment=Segment(start=2, stop=4),
        checks=[],
        environment={"reverse": reverse.key},
    )
    _write(run / "certificate.json", certificate.model_dump(mode="json"))
    _write(run / "budget.json", {"granted_seconds": 1.5})
    seconds = {"outer_step": 1.0, "run": 2.0}
    plan = {
        **{"schedule": "recompute", "segments": 2, "unroll": 1, "forward_steps": 4},
        **{"reverse_steps": 4, "peak_bytes": {"graphs": 1, "device": 1, "host": 0, "store": 1}},
        **{"written_bytes": 1, "seconds": seconds, "alternatives": []},
        "settings": {"replay.schedule": "recompute", "replay.steps_per_segment": 2},
    }
    _write(run / "plan.json", plan)
    return record.run


def reads(store: str, run: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Name what each command reads of a store."""
    for as_json in (False, True):
        yield "show", partial(showing.show_runs, store, as_json=as_json)
        yield "show RUN", partial(showing.show_run, store, run, as_json=as_json)
    yield "clean", lambda: _clean(store, CleanRules(older_than_seconds=1e9, grace_seconds=0))
    yield "clean --intermediate", lambda: _clean(store, CleanRules(intermediate=True))
    yield "clean --keep", lambda: _clean(store, CleanRules(keep=0, grace_seconds=0))
    yield "resume", partial(_resume, store, run)
    yield "verify", partial(_verify, store, run)
    yield "check", partial(_check, store)
    yield "run", partial(_run, store, run)
    yield from opened_reads(store, [run, *_others()])


@cache
def _others() -> list[str]:
    """Return the names of the runs beside the first one."""
    changes = [[*RECIPE, f"training.seed={seed}"] for seed in (1, 2)]
    return [run_name(load_recipe("digits-selection", each).descent) for each in changes]


def _clean(store: str, rules: CleanRules) -> None:
    showing.show_clean(housekeeping.plan_clean(store, rules).report, as_json=False)


def _resume(store: str, run: str) -> None:
    check_readable(store)
    name = stored.find_run(store, run[:-3])
    recipe = stored.read_recipe(store, name)
    check_places(recipe, name, store)
    assert change_workers(recipe, []).workers.address is None
    budget.Budget(BudgetConfig(max_seconds=5), store, name)


def _verify(store: str, run: str) -> None:
    """Do what ``mgd verify`` does before it computes."""
    check_readable(store)
    record = runs.read_run(store, stored.find_run(store, run))
    read_certificate(store, run)
    for iterate in record.iterates:
        if iterate.gradient is None:
            continue
        for reverse in commits.lineage(store, iterate.gradient, "adjoint"):
            verify.read_segment(store, reverse)
            for name in ("value", "start", "end", "adjoint"):
                each = commits.read_input(store, reverse, name)
                if each is not None:
                    with tempfile.TemporaryDirectory() as scratch:
                        copy_folder(
                            commits.committed_folder(store, each),
                            commits.committed_folder(scratch, each),
                        )
        verify._output(store, iterate.gradient)
        commits.read_rows(store, iterate.gradient)
        commits.find(iterate.gradient.stage, iterate.gradient.key, store)


def _check(store: str) -> None:
    for key in _keys(store, "preflight"):
        ref = commits.find("preflight", key, store)
        if ref is not None:
            commits.read_scalars_as(store, ref, CheckReport)


def _run(store: str, run: str) -> None:
    """Do what a start does before it computes: look for every stage, its plan and its lease."""
    read_forecast(store, run)
    for stage in ("preflight", "initial", "train", "seed", "reverse", "evaluate", "update"):
        for key in _keys(store, stage):
            ref = commits.find(stage, key, store)
            folder = join(store, "stages", stage, key)
            token = lease.newest_token(folder)
            lease._is_over(lease._read(folder, token)) if token else None
            if ref is None:
                continue
            commits.read_scalars(store, ref)
            commits.read_inputs(store, ref)
            with contextlib.suppress(CheckpointMissingError):
                commits.read_rows(store, ref)


def _keys(store: str, stage: str) -> list[str]:
    folder = Path(store, "stages", stage)
    return sorted(os.listdir(folder)) if folder.is_dir() else []


# What is done to a store. Each damage returns what it did; the harness puts everything back.


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def a_whole_document(path: Path, draw: random.Random) -> str:
    """Put something else in the place of a document."""
    deep = 200_000
    kinds: dict[str, bytes] = {
        "empty": b"",
        "a list": b"[]",
        "null": b"null",
        "an empty object": b"{}",
        "a deep list": b"[" * deep + b"]" * deep,
        "a deep object": b'{"a":' * deep + b"1" + b"}" * deep,
        "a deep value": b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
        "NaN": b'{"a": NaN}',
        "infinity": b'{"seconds": 1e999}',
        "a huge integer": b'{"seconds": 1' + b"0" * 5000 + b"}",
        "no UTF-8": b'{"a": "\xff\xfe"}',
        "UTF-16": json.dumps({"a": 1}).encode("utf-16"),
        "noise": draw.randbytes(200),
        "zeros": bytes(200),
        "YAML": b"!!python/object/apply:os.system ['true']",
    }
    name = draw.choice(sorted(kinds))
    path.write_bytes(kinds[name])
    return name


def a_cut(path: Path, draw: random.Random) -> str:
    """Cut a file off, or write noise into it."""
    content = bytearray(path.read_bytes())
    if draw.random() < 0.5 or not content:
        path.write_bytes(content[: draw.randrange(len(content) + 1)])
        return "cut off"
    for _ in range(draw.choice((1, 1, 3, 20))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return "flipped bits"


def no_file(path: Path, draw: random.Random) -> str:
    """Put what is no file of that size in the place of a file."""
    path.unlink()
    kind = draw.choice(("gone", "folder", "pipe", "loop", "endless", "elsewhere", "sparse"))
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case "endless":
            path.symlink_to("/dev/zero")
        case "elsewhere":
            path.symlink_to("/etc/passwd")
        case "sparse":
            with path.open("wb") as file:
                file.truncate(8 << 30)
    return kind


def one_value(path: Path, draw: random.Random) -> str:
    """Change, add or remove one value of a document; its digest is made anew if it has one."""
    record = json.loads(path.read_text())
    places = list(_places(record))
    parent, key = draw.choice(places) if places else (record, "new")
    what = draw.random()
    if what < 0.15 and isinstance(parent, dict):
        parent.pop(key, None)
        said = "without a value"
    elif what < 0.25 and isinstance(parent, dict):
        parent[draw.choice(("new", ESCAPE, "../x", ""))] = draw.choice(VALUES)
        said = "one more value"
    else:
        parent[key] = copy.deepcopy(draw.choice(VALUES))
        said = "another value"
    if "digest" in record and draw.random() < 0.9:
        rest = {name: value for name, value in record.items() if name != "digest"}
        record["digest"] = digest(rest)
    path.write_text(json.dumps(record))
    return said


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
    for key, value in items:
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)


def another_file(path: Path, draw: random.Random, others: list[Path]) -> str:
    """Put another file of the store in its place."""
    path.write_bytes(draw.choice([each for each in others if each.is_file()]).read_bytes())
    return "another file"


def strange_name(store: Path, draw: random.Random) -> str:
    """Put something under a name that the engine does not give."""
    names = [
        *(ESCAPE, "x[/b]", "²", "..%2f", "notes.txt", "-", "a-b", "99999999.json", "x" * 200),
        *("9" * 30 + ".json", "000000000000000001.json", "train", "\u202e", ".hidden", "$(id)"),
    ]  # fmt: skip
    folders = [each for each in store.rglob("*") if each.is_dir() and "c" not in each.parts]
    place = draw.choice([store, *sorted(folders)]) / draw.choice(names).replace("/", "_")
    if draw.random() < 0.5:
        place.mkdir(exist_ok=True)
        if draw.random() < 0.5:
            (place / "recipe.json").write_text("{}")
    elif not place.exists():
        place.write_text("{}")
    return "strange name"


def damage(store: Path, draw: random.Random) -> str:
    """Damage one thing of a store; return what and how."""
    files = sorted(each for each in store.rglob("*") if each.is_file())
    kinds: dict[str, list[Path]] = {}
    for file in files:
        kinds.setdefault(kind_of(file.relative_to(store)), []).append(file)
    if draw.random() < 0.06:
        return f"store: {strange_name(store, draw)}"
    unread = {"report.html", "selection.csv", "selection.parquet"}
    kind = draw.choice(sorted(kinds.keys() - unread if draw.random() < 0.97 else kinds))
    path = draw.choice(kinds[kind])
    if kind == "chunk":
        how = draw.choice((a_cut, no_file))(path, draw)
    else:
        way = draw.random()
        if way < 0.15:
            how = a_whole_document(path, draw)
        elif way < 0.25:
            how = a_cut(path, draw)
        elif way < 0.35:
            how = no_file(path, draw)
        elif way < 0.40:
            how = another_file(path, draw, files)
        else:
            for _ in range(draw.choice((1, 1, 1, 3))):
                how = one_value(path, draw) if path.suffix == ".json" else a_cut(path, draw)
    return f"{kind}: {how}"


def kind_of(path: Path) -> str:
    """Say what a file of a store is, by its place."""
    parts = path.parts
    if "committed" in parts:
        return "mark"
    if path.name == "zarr.json":
        return "group" if parts[-3] == "attempts" else "array"
    if "c" in parts:
        return "chunk"
    if len(parts) == 1:
        return path.name
    if parts[-2] in ("leases", "starts"):
        return parts[-2]
    return "claim" if parts[0] == "runs" and parts[-2] == "stages" else path.name


# The harness.


def fuzz(base: Path, run: str, number: int, seed: int) -> Count:
    """Read damaged copies of a store ``number`` times or a few more.

    A lease in doubt is watched for as long as its owner, if it has one, may be silent: seconds that
    are meant, and that are made short here.
    """
    patience, lease.TTL_SECONDS = lease.TTL_SECONDS, 0.6
    try:
        return _fuzz(base, run, number, seed)
    finally:
        lease.TTL_SECONDS = patience


def _fuzz(base: Path, run: str, number: int, seed: int) -> Count:
    draw, count = random.Random(seed), Count()
    with tempfile.TemporaryDirectory(prefix="mgd-fuzz-") as folder:
        store = Path(folder, "store")
        shutil.copytree(base, store)
        signal.signal(signal.SIGALRM, _too_long)
        while count.reads < number:
            state = draw.getrandbits(64)
            what = damage(store, random.Random(state))
            count.damages[what] += 1
            for command, read in reads(str(store), run):
                _try(read, count, f"{what}, {command}, seed {state}")
            strangers = set(os.listdir(folder)) - {"store"}
            if strangers:
                count.faults.append(f"{what}: written outside: {strangers}")
            _restore(base, store)
    return count


def _restore(base: Path, store: Path) -> None:
    """Bring a store back to what it was: only what differs is written."""
    for path in sorted(store.rglob("*"), reverse=True):
        twin = base / path.relative_to(store)
        same = path.is_dir() == twin.is_dir() and not path.is_symlink()
        if twin.exists() and same and (path.is_dir() or path.is_file()):
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for twin in sorted(base.rglob("*")):
        path = store / twin.relative_to(base)
        if twin.is_dir():
            path.mkdir(exist_ok=True)
        elif (
            not path.exists()
            or path.stat().st_size != twin.stat().st_size
            or path.stat().st_mtime_ns != twin.stat().st_mtime_ns
        ):
            shutil.copy2(twin, path)


def _too_long(*_: object) -> None:
    raise Hang


def _try(read: Callable[[], object], count: Count, what: str) -> None:
    out = io.StringIO()
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    try:
        # A command reads inside of store_errors.
        printed = contextlib.redirect_stdout(out), contextlib.redirect_stderr(out)
        with printed[0], printed[1], store_errors("the store"):
            read()
    except EngineError as error:
        count.errors[type(error).__name__] += 1
        if not str(error).strip():
            count.faults.append(f"{what}: an error without a word")
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        own = [each for each in where if "/engine/" in each.filename or "/flows/" in each.filename]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
        count.faults.append(f"{what}: {type(error).__name__} at {place}: {str(error)[:150]}")
    else:
        count.results += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    count.slowest = max(count.slowest, time.monotonic() - began)
    if "\x1b" in out.getvalue():
        count.faults.append(f"{what}: an escape sequence on the terminal")


def main() -> None:
    """Count, from the command line."""
    number, seed = (int(each) for each in sys.argv[1:3])
    with tempfile.TemporaryDirectory(prefix="mgd-fuzz-base-") as folder:
        run = finished_store(Path(folder))
        count = fuzz(Path(folder), run, number, seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    by_kind = Counter(each.split(":")[0] for each in count.damages.elements())
    lines = [
        f"{count.reads} reads of {count.damages.total()} damaged stores, seed {seed}",
        f"results {count.results}, EngineErrors {count.errors.total()}: {dict(count.errors)}",
        f"slowest {count.slowest:.2f} s, peak {peak} MiB, {len(count.faults)} faults",
        "damaged: " + ", ".join(f"{name} {times}" for name, times in sorted(by_kind.items())),
        *count.faults[:100],
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
