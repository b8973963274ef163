"""Running stages once, committing what they make, and finding it again.

An attempt holds the stage's lease (``engine.lease``) and writes its rows into a folder of its own.
``record.json``, created exclusively and last, commits one attempt: it names the attempt's folder
and the digest of its bits. So no attempt touches what another has written, however late it wakes,
and readers see a whole stage or none. A second attempt that comes to its end finds the record, and
compares: other bits from the same inputs are an error.

Layout: ``<store>/stages/<stage>/<key>/`` holds ``record.json``, ``leases/<token>.json`` and
``attempts/<token>-<nonce>/`` with the rows of an attempt.
"""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import torch

from engine.claims import run_name
from engine.config import DescentRecipe, digest
from engine.determinism import deterministic, machine
from engine.errors import (
    CheckpointCorruptError,
    CheckpointMissingError,
    LeaseLostError,
    ReplayMismatchError,
)
from engine.fingerprint import state_fingerprint
from engine.keys import Ref, engine_version, plain, run_environment, stage_key
from engine.lease import Lease, acquire
from engine.location import join, list_folders, remove_file, remove_folder, store_errors
from engine.problem import Problem, build_problem
from engine.records import create_record, read_bytes, read_record
from engine.store import RowStore
from engine.types import State

logger = logging.getLogger(__name__)

Made = tuple[State | Iterator[State], dict[str, Any]]
"""What a stage makes: one state or many, as rows 0, 1, ..., and numbers for its record."""


def run_stage(
    stage: str,
    recipe: DescentRecipe,
    store: str,
    inputs: dict[str, Any],
    compute: Callable[[Problem], Made],
    *,
    num_rows: int = 1,
) -> Ref:
    """Return a stage's reference: of the committed result, or of the one that is made now.

    Args:
        stage: Kind of stage.
        recipe: The set-up.
        store: fsspec URL of the store.
        inputs: All that ``compute`` reads besides the recipe: references and plain values.
        compute: Makes the result. An iterator of states is written as it goes, so that one state
            is alive at a time.
        num_rows: States that ``compute`` makes.

    Raises:
        ReplayMismatchError: If another attempt has committed other bits.
        StoreError: If the store does not answer or is full.
    """
    key = stage_key(stage, recipe, inputs)
    folder = _folder(store, stage, key)
    record_url = join(folder, "record.json")
    while True:
        with store_errors(store):
            damaged = read_bytes(record_url)
            found = find(stage, key, store)
            lease = found or acquire(folder, lambda d=damaged: read_bytes(record_url) != d)
        if isinstance(lease, Ref):
            return lease
        if lease is None:
            continue  # somebody has committed it meanwhile: look at what
        with lease:
            with store_errors(store):
                # If who held the lease before has not committed, what is there is damaged.
                if read_bytes(record_url) != damaged:
                    continue
                if damaged is not None and lease.is_newest():
                    remove_file(record_url)
            try:
                return _attempt(stage, key, recipe, store, inputs, compute, lease, num_rows)
            except LeaseLostError as error:
                logger.warning("%s", error)


def _attempt(  # noqa: PLR0913 (what run_stage was given)
    stage: str,
    key: str,
    recipe: DescentRecipe,
    store: str,
    inputs: dict[str, Any],
    compute: Callable[[Problem], Made],
    lease: Lease,
    num_rows: int,
) -> Ref:
    rows_folder = join(lease.folder, "attempts", lease.attempt)
    started, clock = datetime.now(UTC), time.perf_counter()
    with deterministic(recipe.training.threads, tf32=recipe.training.tf32):
        made, scalars = compute(build_problem(recipe))
        states = iter([made] if isinstance(made, dict) else made)
        attributes = {"stage": stage, "key": key}
        fingerprints, num_bytes = _save(store, rows_folder, states, num_rows, attributes)
    ref = Ref(stage=stage, key=key, content=_content(fingerprints, scalars))
    record = {
        "ref": ref.model_dump(),
        "attempt": lease.attempt,
        "scalars": scalars,
        "inputs": plain(inputs),
        "started": started.isoformat(),
        "seconds": time.perf_counter() - clock,
        "bytes": num_bytes,
        "run": run_name(recipe),
        "fingerprints": fingerprints,
        "environment": run_environment(recipe),
        "machine": machine(),
        "engine": engine_version(),
    }
    record["digest"] = digest(record)
    with store_errors(store):
        _commit(lease, ref, record)
    logger.info("%s %s committed, %.1f s", stage, key[:8], record["seconds"])
    return ref


def _commit(lease: Lease, ref: Ref, record: dict[str, Any]) -> None:
    """Make an attempt the stage's result, unless a newer one is at work or done."""
    if not lease.is_newest():
        raise LeaseLostError(
            f"Attempt {lease.token} of {ref.stage} {ref.key[:8]} was away for so long that another "
            "one took over. What it made is dropped."
        )
    if not create_record(join(lease.folder, "record.json"), record):
        other = _record(lease.folder) or {}
        if other.get("ref") != ref.model_dump():
            raise ReplayMismatchError(
                f"Two attempts of {ref.stage} {ref.key[:8]} made different bits from the same "
                f"inputs: {other.get('ref')} and {ref.content}. Something that shapes them is no "
                "input: look for unseeded random numbers, or workers with other libraries."
            )
    # Older attempts are fenced off: none of them can commit any more. A newer one may be at work.
    attempts = join(lease.folder, "attempts")
    kept = (_record(lease.folder) or record)["attempt"]
    for name in list_folders(attempts):
        if name < f"{lease.token:08d}" and name != kept:
            remove_folder(join(attempts, name))


def find(stage: str, key: str, store: str) -> Ref | None:
    """Return the stage if it is committed and every bit of it is intact, else None.

    Damage is said in a warning, with the row and the vector.

    Cost:
        Reads all of its rows.
    """
    folder = _folder(store, stage, key)
    try:
        record = _intact(folder)
        ref = Ref.model_validate(record["ref"])
        fingerprints = _fingerprints(_rows_folder(folder, record))
        content = _content(fingerprints, record["scalars"])
        if ref == Ref(stage=stage, key=key, content=content):
            return ref
        reason = f"its bits have the digest {content}, and {ref.content} was committed"
    except CheckpointMissingError as error:
        if _record(folder) is None:
            return None  # not committed, which is no damage
        reason = str(error)
    except (CheckpointCorruptError, KeyError, ValueError, TypeError) as error:
        reason = str(error)
    logger.warning("%s %s is made again: %s", stage, key[:8], reason)
    return None


def committed(stage: str, recipe: DescentRecipe, store: str, inputs: dict[str, Any]) -> Ref | None:
    """Return a stage if it is committed, without a look at its rows; see ``find`` for one."""
    record = _record(_folder(store, stage, stage_key(stage, recipe, inputs)))
    try:
        return None if record is None else Ref.model_validate(record["ref"])
    except (KeyError, ValueError):
        return None


def discard(store: str, ref: Ref) -> None:
    """Delete what a stage made; nothing happens if it is gone. Its next use makes it again."""
    folder = _folder(store, ref.stage, ref.key)
    remove_file(join(folder, "record.json"))  # first: a half of it must not be found
    remove_folder(folder)


def committed_folder(store: str, ref: Ref) -> str:
    """Return the folder of a stage."""
    return _folder(store, ref.stage, ref.key)


def rows_url(store: str, ref: Ref) -> str:
    """Return where the rows of a committed stage are.

    Raises:
        StoreError: If the stage is not committed, or its record is damaged.
    """
    folder = _folder(store, ref.stage, ref.key)
    record = _intact(folder)
    try:
        return _rows_folder(folder, record)
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointCorruptError(
            f"The record of {ref.stage} {ref.key[:8]} names no attempt: {error}. "
            "Run the stage again."
        ) from error


def read_rows(store: str, ref: Ref, device: torch.device | None = None) -> State:
    """Return the vectors that a stage committed, verified; on the CPU by default.

    Raises:
        StoreError: If they are missing or damaged; names the stage and the vector.
    """
    with store_errors(store):
        rows = RowStore.open(rows_url(store, ref)).load(0)
    return rows if device is None else {name: row.to(device) for name, row in rows.items()}


def read_scalars(store: str, ref: Ref) -> dict[str, Any]:
    """Return the numbers that a stage recorded.

    Raises:
        StoreError: If the stage is not committed, or its record is damaged.
    """
    return _intact(_folder(store, ref.stage, ref.key))["scalars"]


def read_origin(store: str, ref: Ref) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the fingerprint of each vector of a stage's first row, and where it was made.

    Raises:
        StoreError: If the stage is not committed, or its record is damaged.
    """
    record = _intact(_folder(store, ref.stage, ref.key))
    return record["fingerprints"][0], {**record["environment"], **record["machine"]}


def read_inputs(store: str, ref: Ref) -> dict[str, Any]:
    """Return what a stage was made from: references and plain values, as JSON has them.

    Raises:
        StoreError: If the stage is not committed, or its record is damaged.
    """
    return _intact(_folder(store, ref.stage, ref.key))["inputs"]


def lineage(store: str, ref: Ref, upstream: str) -> list[Ref]:
    """Return a stage and those of its kind before it, last first.

    Args:
        store: fsspec URL of the store.
        ref: Where to begin.
        upstream: The input that names the stage before, e.g. ``start`` of a train stage.
    """
    chain = [ref]
    while True:
        record = _intact(_folder(store, chain[-1].stage, chain[-1].key))
        before = record["inputs"].get(upstream)
        if before is None or before["stage"] != ref.stage:
            return chain
        chain.append(Ref.model_validate(before))


def _save(
    store: str, folder: str, states: Iterator[State], num_rows: int, attributes: dict[str, Any]
) -> tuple[list[dict[str, str]], int]:
    """Write states as rows 0, 1, ... as they are made; return their fingerprints and bytes."""
    fingerprints: list[dict[str, str]] = []
    rows, num_bytes = None, 0
    for number, state in enumerate(states):
        if not state:
            continue  # a stage of numbers alone
        fingerprints.append(state_fingerprint(state))  # on the device that made it
        row = {name: vector.detach().cpu() for name, vector in state.items()}
        with store_errors(store):
            if rows is None:
                layout = {name: (len(vector), vector.dtype) for name, vector in row.items()}
                rows = RowStore.create(folder, layout, num_rows, attributes=attributes)
            rows.save(number, row)
        num_bytes += sum(vector.nbytes for vector in row.values())
    return fingerprints, num_bytes


def _content(fingerprints: list[dict[str, str]], scalars: dict[str, Any]) -> str:
    return digest({"rows": fingerprints, "scalars": scalars})[:16]


def _fingerprints(folder: str) -> list[dict[str, str]]:
    """Read every row that an attempt has written; none if it wrote none."""
    try:
        rows = RowStore.open(folder)
    except CheckpointMissingError:
        return []
    return [state_fingerprint(rows.load(number)) for number in rows.steps()]


def _intact(folder: str) -> dict[str, Any]:
    """Return what commits a stage, if every value is the one that was committed."""
    url = join(folder, "record.json")
    record = read_record(url)
    expected = record.get("digest")
    found = digest({name: value for name, value in record.items() if name != "digest"})
    if found != expected:
        raise CheckpointCorruptError(
            f"The record at {url} is damaged: it has the digest {found}, and {expected} was "
            "committed. Run the stage again."
        )
    return record


def _record(folder: str) -> dict[str, Any] | None:
    """Return what commits a stage, or None if nothing does, or it is damaged."""
    try:
        return read_record(join(folder, "record.json"))
    except (CheckpointMissingError, CheckpointCorruptError):
        return None


def _rows_folder(folder: str, record: dict[str, Any]) -> str:
    return join(folder, "attempts", str(record["attempt"]))


def _folder(store: str, stage: str, key: str) -> str:
    return join(store, "stages", stage, key)
