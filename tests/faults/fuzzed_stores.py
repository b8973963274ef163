"""Stores that are damaged, hostile or of another version, read by everything that reads a store.

A fuzzer with a seed: it damages one thing of a finished store at a time (``tests.faults.damages``),
lets every command read (``tests.faults.store_reads``), and puts it back. A read may end in a result
or in one ``EngineError``, which a command tells in one message; anything else is a fault: a
traceback, a wait, an escape sequence on the terminal.

``python -m tests.faults.fuzzed_stores READS SEED`` counts.
"""

import contextlib
import io
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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import EngineError
from engine.stages import lease
from engine.storage.location import store_errors
from tests.faults.damages import damage
from tests.faults.small_store import finished_store
from tests.faults.store_reads import reads

LIMIT_SECONDS = 90
"""Longest that one read of a store this small may take on a busy machine; more is a hang."""


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
