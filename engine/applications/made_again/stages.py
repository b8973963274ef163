"""A stage of a finished run made again in an empty store, and compared bit for bit."""

import errno
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from engine.errors import CheckpointCorruptError, ReplayMismatchError, StoreFullError
from engine.numerics.environment import likely_cause, machine
from engine.numerics.fingerprint import difference
from engine.preflight.verdict import Check, Verdict
from engine.recipes.descent import DescentRecipe
from engine.runs.finished import FinishedRun
from engine.schedules.segments import Segment
from engine.stages.commits import (
    committed,
    committed_folder,
    find,
    read_input,
    read_inputs,
    read_rows,
)
from engine.stages.keys import engine_version, run_environment
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.training import train_segment
from engine.storage.location import copy_folder
from engine.storage.records import understood

_REMEDY = "Verify where the run was made, or run it again here with another --store."


def read_segment(store: str, ref: Ref) -> Segment:
    """Return the steps that a stage has trained or reversed.

    Raises:
        StoreError: If its record is missing or damaged.
    """
    given = read_inputs(store, ref)["segment"]
    return understood(f"{store} ({ref.stage} {ref.key[:8]})", given, Segment)


def here(recipe: DescentRecipe) -> dict[str, Any]:
    """Return the environment that the bits of a certificate depend on, besides the recipe."""
    return {"engine": engine_version(), **run_environment(recipe), **machine()}


def make_training_again(record: FinishedRun, store: str, end: Ref) -> Check:
    """Train the segment that a stage has trained again, from its start.

    Raises:
        StoreError: If what it was made from is missing or damaged.
    """
    # Bits that are others now than those it was named by are for the comparison to find.
    stored = committed(end.stage, end.key, store) or end
    value, start = (read_input(store, stored, name) for name in ("value", "start"))
    if value is None:
        raise untold(end)
    segment, recipe = read_segment(store, stored), record.recipe.descent
    return make_again(
        record,
        store,
        end,
        [value, start],
        lambda scratch: train_segment(Run(recipe, scratch), segment, value, start),
        name="train-segment",
        what=f"{written(segment)}, trained again,",
    )


def written(segment: Segment) -> str:
    """Write which steps a segment has."""
    return f"Steps {segment.start} to {segment.stop - 1}"


def untold(ref: Ref) -> CheckpointCorruptError:
    """Return the error for a stage whose record lacks an input."""
    return CheckpointCorruptError(
        f"The record of {ref.stage} {ref.key[:8]} does not say what it was made from. "
        "Run the stage again."
    )


def make_again(  # noqa: PLR0913 (what a stage is made from, and what is said of it)
    record: FinishedRun,
    store: str,
    ref: Ref,
    inputs: Sequence[Ref | None],
    make: Callable[[str], Ref],
    *,
    name: str,
    what: str,
) -> Check:
    """Compute a stage again in a store that holds only its inputs, and compare all bits.

    Args:
        record: Record of the run.
        store: fsspec URL of its store.
        ref: The stage.
        inputs: The stages that it reads.
        make: Makes it in another store.
        name: Name of the check.
        what: What was made again, the beginning of a sentence.

    Raises:
        StoreError: If an input, or what the stage made, is missing or damaged.
    """
    with _scratch() as scratch:
        for each in inputs:
            if each is not None:
                copy_folder(committed_folder(store, each), committed_folder(scratch, each))
                now = committed(each.stage, each.key, scratch)
                if now is not None and now.content != each.content:
                    return _refused(name, None, _made_from_another(what, each, now))
        try:
            again = make(scratch)
        except ReplayMismatchError as error:
            return _refused(name, None, str(error))
        return _compared(record, store, ref, scratch, again, name, what)


@contextmanager
def _scratch() -> Iterator[str]:
    """Yield an empty folder; of the store nothing is written meanwhile, so no room is none here.

    Raises:
        StoreFullError: If there is no space left in it.
    """
    with tempfile.TemporaryDirectory(prefix="mgd-verify-") as scratch:
        try:
            yield scratch
        except OSError as error:
            is_full = isinstance(error, StoreFullError)
            if not is_full and error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise  # of the store, which is read
            raise StoreFullError(
                f"There is no space left in {tempfile.gettempdir()}, where parts of the run are "
                "made again. Free some there, or name another folder in the environment variable "
                "TMPDIR, and start the same command again."
            ) from error


def _made_from_another(what: str, ref: Ref, now: Ref) -> str:
    return (
        f"{what} cannot be compared: it was made from {ref.stage} {ref.key[:8]} with the digest "
        f"{ref.content}, and what is stored there now has {now.content}."
    )


def _compared(  # noqa: PLR0913 (both sides of a comparison)
    record: FinishedRun, store: str, ref: Ref, scratch: str, again: Ref, name: str, what: str
) -> Check:
    stored = find(ref.stage, ref.key, store)  # with its own digest made anew from every bit
    if stored is None:
        raise CheckpointCorruptError(
            f"What {ref.stage} {ref.key[:8]} made is damaged, so it cannot be compared. "
            "`mgd resume` makes it again."
        )
    if again.content == ref.content == stored.content:
        cause = f"{what} gave the same bits."
        return Check(name=name, limit=0, value=0, verdict=Verdict.PASS, cause=cause)
    before, after = read_rows(store, stored), read_rows(scratch, again)
    found = {row: difference(each, after[row]) for row, each in before.items()}
    places = [(row, each) for row, each in found.items() if each is not None]
    reason = likely_cause(record.environment, here(record.recipe.descent))
    if not places:
        cause = f"{what} gave the same states and other recorded numbers. {reason}"
        return _refused(name, 1.0, cause)
    row, (index, old, new) = places[0]
    cause = f"{what} gave other bits: element {index} of {row} was {old} and is {new} now. {reason}"
    return _refused(name, float(len(places)), cause)


def _refused(name: str, value: float | None, cause: str) -> Check:
    return Check(
        name=name, value=value, limit=0, verdict=Verdict.REFUSE, cause=cause, remedy=_REMEDY
    )
