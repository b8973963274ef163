"""Fault: the disk of the store is full while a run writes to it.

The run must stop with an error that says so and can be resumed, keep what was committed, accept no
torn stage, and complete with the bits of an undisturbed run once there is space.
``python -m tests.faults --row disk-full`` tries it with a small filesystem in memory, which root
may mount on Linux.
"""

import random
import subprocess
import sys
from contextlib import contextmanager
from typing import NamedTuple

from engine.errors import StoreFullError
from engine.stages import commits
from tests.faults import chain

ROOM = (12, 244)
"""Kilobytes of the filesystem; the whole run needs more."""


class Trial(NamedTuple):
    """What became of one run whose disk was full."""

    number: int
    """Of the trial."""

    kilobytes: int
    """Of the disk."""

    committed: int
    """Stages that were committed when there was no space left."""

    error: str
    """Type of the error that the run stopped with."""

    intact: bool
    """Whether every stage that counted then was read back whole."""

    kept: bool
    """Whether none of those was computed again, and each of the others once."""

    same_bits: bool
    """Whether references and all numbers are those of the undisturbed run."""

    @property
    def holds(self):
        """Whether the run stopped cleanly and lost nothing."""
        stopped = self.error == StoreFullError.__name__
        return stopped and self.intact and self.kept and self.same_bits


def mount(folder, kilobytes, *options):
    """Mount a filesystem in memory, or give one that is there another size."""
    size = ",".join([*options, f"size={kilobytes}k"])
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True, capture_output=True
    )


@contextmanager
def disk(folder, kilobytes):
    """Mount a small disk for the block."""
    folder.mkdir(parents=True)
    mount(folder, kilobytes)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def why_not(folder):
    """Return why small disks cannot be mounted here, or None if they can."""
    if sys.platform != "linux":
        return "tmpfs is a filesystem of Linux"
    try:
        with disk(folder / "probe", 16):
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        return f"a tmpfs cannot be mounted: {getattr(error, 'stderr', None) or error}"


def once(number, store, refs, numbers, draw):
    """Run until the disk is full, make it larger, and run again."""
    kilobytes, error = draw.randrange(*ROOM, 4), "none"
    with disk(store, kilobytes):
        try:
            chain.run(store)
        except Exception as raised:
            error = type(raised).__name__
        before = chain.committed(store)
        found = [commits.find(*name.split("/"), str(store)) for name in before]
        mount(store, 65536, "remount")
        with chain.counted() as computed:
            again = chain.run(store)
        rest = sorted(chain.stage_of(ref) for ref in refs if chain.stage_of(ref) not in before)
        return Trial(
            number=number,
            kilobytes=kilobytes,
            committed=len(before),
            error=error,
            intact=all(ref in refs for ref in found),
            kept=sorted(computed) == rest,
            same_bits=again == refs and chain.is_same(chain.content(store, again), numbers),
        )


def trials(folder, count, seed=0):
    """Yield trials, each on a disk of its own."""
    draw = random.Random(seed)
    refs = chain.run(folder / "undisturbed")
    numbers = chain.content(folder / "undisturbed", refs)
    for number in range(1, count + 1):
        yield once(number, folder / f"store-{number}", refs, numbers, draw)
