"""Running stages once, committing what they make, and finding it again.

An attempt holds the stage's lease (``engine.stages.lease``) and writes its rows into a folder of
its own. ``record.json``, created exclusively and last, commits one attempt: it names the attempt's
folder and the digest of its bits. So no attempt touches what another has written, however late it
wakes, and readers see a whole stage or none. A second attempt that comes to its end finds the
record, and compares: other bits from the same inputs are an error.

``engine.storage.places`` says where they lie. The folder of an attempt is ``<token>-<nonce>``.
"""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import torch

from engine.errors import (
    CheckpointCorruptError,
    CheckpointMissingError,
    LeaseLostError,
    ReplayMismatchError,
)
from engine.numerics.determinism import deterministic
from engine.numerics.environment import machine
from engine.numerics.fingerprint import state_fingerprint
from engine.numerics.memory_errors import memory_errors
from engine.recipes.settings import digest
from engine.stages.keys import Declaration, engine_version, plain, run_environment, stage_key
from engine.stages.lease import Lease, acquire
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.stage_records import (
    Recorded,
    StageRecord,
    any_record,
    intact_record,
    record_of,
)
from engine.storage.location import (
    join,
    list_folders,
    refuse_links,
    remove_file,
    remove_folder,
    store_errors,
)
from engine.storage.places import (
    ATTEMPTS,
    LEASES,
    RECORD,
    stage_folder,
    stage_record_url,
    stages_folder,
)
from engine.storage.records import Model, create_record, read_bytes, understood
from engine.storage.states import RowStore
from engine.types import State

logger = logging.getLogger(__name__)


Made = tuple[State | Iterator[State], dict[str, Any]]
"""What a stage makes: one state or many, as rows 0, 1, ..., and numbers for its record."""


def run_stage(
    declared: Declaration,
    run: Run,
    inputs: dict[str, Any],
    compute: Callable[[], Made],
    *,
    num_rows: int = 1,
    spent: float = 0.0,
) -> Ref:
    """Return the reference of a stage's result, which is found committed or else made now.

    Stages are called by their declaration (``engine.stages.stage``), which says what is an input.

    Args:
        declared: Kind of stage.
        run: The run that asks for it.
        inputs: All that ``compute`` reads besides the recipe: references and plain values.
        compute: Makes the result. An iterator of states is written as it goes, so that one state
            is alive at a time.
        num_rows: States that ``compute`` makes.
        spent: Seconds that were spent on it before this call, see ``engine.stages.ahead``.

    Raises:
        ReplayMismatchError: If another attempt has committed other bits.
        StoreError: If the store does not answer or is full.
        CheckpointCorruptError: If a folder of the stage is a link to another place.
    """
    stage, key, store = declared.name, stage_key(declared, run, inputs), run.store
    folder = stage_folder(store, stage, key)
    record_url = stage_record_url(store, stage, key)
    for inner in (LEASES, ATTEMPTS):
        refuse_links(stages_folder(store), stage, key, inner)
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
                with memory_errors(f"{stage} {key[:8]}"):
                    return _attempt(declared, key, run, inputs, compute, lease, num_rows, spent)
            except LeaseLostError as error:
                logger.warning("%s", error)


def _attempt(  # noqa: PLR0913 (what run_stage was given)
    declared: Declaration,
    key: str,
    run: Run,
    inputs: dict[str, Any],
    compute: Callable[[], Made],
    lease: Lease,
    num_rows: int,
    spent: float,
) -> Ref:
    stage, recipe = declared.name, run.recipe
    rows_folder = join(lease.folder, ATTEMPTS, lease.attempt)
    started, clock = datetime.now(UTC) - timedelta(seconds=spent), time.perf_counter() - spent
    with deterministic(recipe.training.threads, tf32=recipe.training.tf32):
        made, scalars = compute()
        states = iter([made] if isinstance(made, dict) else made)
        attributes = {"stage": stage, "key": key}
        fingerprints, num_bytes = _save(run.store, rows_folder, states, num_rows, attributes)
    ref = Ref(stage=stage, key=key, content=_content(fingerprints, scalars))
    record = {
        "ref": ref.model_dump(),
        "attempt": lease.attempt,
        "scalars": scalars,
        "inputs": plain(inputs),
        "started": started.isoformat(),
        "seconds": time.perf_counter() - clock,
        "bytes": num_bytes,
        "run": run.name,
        "fingerprints": fingerprints,
        "environment": run_environment(recipe),
        "machine": machine(),
        "engine": engine_version(declared.application),
    }
    record["digest"] = digest(record)
    with store_errors(run.store):
        _commit(lease, ref, record)
    logger.debug("%s %s committed, %.1f s", stage, key[:8], record["seconds"])
    return ref


def _commit(lease: Lease, ref: Ref, record: dict[str, Any]) -> None:
    """Make an attempt the stage's result, unless a newer one is at work or done."""
    if not lease.is_newest():
        raise LeaseLostError(
            f"Attempt {lease.token} of {ref.stage} {ref.key[:8]} was away for so long that another "
            "one took over. What it made is dropped."
        )
    if not create_record(join(lease.folder, RECORD), record):
        other = any_record(lease.folder)
        if other is None or other.ref != ref:
            content = None if other is None else other.ref.content
            raise ReplayMismatchError(
                f"Two attempts of {ref.stage} {ref.key[:8]} made different bits from the same "
                f"inputs: {content} and {ref.content}. Something that shapes them is no "
                "input: look for unseeded random numbers, or workers with other libraries."
            )
    # Older attempts are fenced off: none of them can commit any more. A newer one may be at work.
    attempts = join(lease.folder, ATTEMPTS)
    other = any_record(lease.folder)
    kept = record["attempt"] if other is None else other.attempt
    for name in list_folders(attempts):
        token = name.partition("-")[0]
        if token.isdecimal() and int(token) < lease.token and name != kept:
            remove_folder(join(attempts, name))


def find(stage: str, key: str, store: str) -> Ref | None:
    """Return the stage if it is committed and every bit of it is intact, else None.

    A damaged stage counts as missing. A warning names the row and the vector.

    Cost:
        Reads all of its rows.
    """
    folder = stage_folder(store, stage, key)
    try:
        record = intact_record(folder)
        fingerprints = _fingerprints(_rows_folder(folder, record), len(record.fingerprints))
        content = _content(fingerprints, record.scalars)
        if record.ref == Ref(stage=stage, key=key, content=content):
            return record.ref
        reason = f"its bits have the digest {content}, and {record.ref.content} was committed"
    except CheckpointMissingError as error:
        if any_record(folder) is None:
            return None  # not committed, which is no damage
        reason = str(error)
    except CheckpointCorruptError as error:
        reason = str(error)
    logger.warning("%s %s is made again: %s", stage, key[:8], reason)
    return None


def committed(stage: str, key: str, store: str) -> Ref | None:
    """Return a stage if it is committed, without checking its rows as ``find`` does."""
    record = any_record(stage_folder(store, stage, key))
    if record is None or (record.ref.stage, record.ref.key) != (stage, key):
        return None
    return record.ref


def discard(store: str, ref: Ref) -> None:
    """Delete what a stage made; nothing happens if it is gone. Its next use makes it again."""
    folder = stage_folder(store, ref.stage, ref.key)
    remove_file(join(folder, RECORD))  # first: a half of it must not be found
    remove_folder(folder)


def committed_folder(store: str, ref: Ref) -> str:
    """Return the folder of a stage."""
    return stage_folder(store, ref.stage, ref.key)


def committed_rows(store: str, ref: Ref) -> RowStore:
    """Return the rows of a committed stage, each of which is compared with the stage's record.

    Raises:
        StoreError: If the stage is not committed, or its record is damaged or of other bits; also
            later, where a row is not the one that was committed.
    """
    record = _read(store, ref)
    folder = stage_folder(store, ref.stage, ref.key)
    return RowStore.open(_rows_folder(folder, record), fingerprints=record.fingerprints)


def read_rows(store: str, ref: Ref, device: torch.device | None = None) -> State:
    """Return the vectors that a stage committed, verified; on the CPU by default.

    Raises:
        StoreError: If they are missing or damaged; names the stage and the vector.
    """
    with store_errors(store):
        rows = committed_rows(store, ref).load(0)
    return rows if device is None else {name: row.to(device) for name, row in rows.items()}


def read_scalars(store: str, ref: Ref) -> dict[str, Any]:
    """Return the numbers that a stage recorded.

    Raises:
        StoreError: If the stage is not committed, or its record is damaged; also later, where a
            number is asked for that is not there.
    """
    return Recorded(ref, _read(store, ref).scalars)


def read_scalars_as(store: str, ref: Ref, model: type[Model]) -> Model:
    """Return the numbers that a stage recorded, as what they should be.

    Raises:
        StoreError: If the stage is not committed, or its record is damaged or another version's.
    """
    found = dict(read_scalars(store, ref))
    return understood(f"{store} ({ref.stage} {ref.key[:8]})", found, model)


def read_origin(store: str, ref: Ref) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the fingerprints of a stage's vectors, and the environment that made them.

    Raises:
        StoreError: If the stage is not committed, or its record is damaged.
    """
    record = _read(store, ref)
    if not record.fingerprints:
        raise CheckpointCorruptError(
            f"The record of {ref.stage} {ref.key[:8]} names no vector. Run the stage again."
        )
    return record.fingerprints[0], {**record.environment, **record.machine}


def read_inputs(store: str, ref: Ref) -> dict[str, Any]:
    """Return the inputs of a stage: references and plain values.

    Raises:
        StoreError: If the stage is not committed, or its record is damaged; also later, where an
            input is asked for that is not there.
    """
    return Recorded(ref, _read(store, ref).inputs)


def read_input(store: str, ref: Ref, name: str) -> Ref | None:
    """Return the stage that another one was made from; None where it had none.

    Raises:
        StoreError: If the stage is not committed, or its record is damaged or names no stage.
    """
    given = read_inputs(store, ref)[name]
    return None if given is None else understood(f"{store} ({ref.stage} {ref.key[:8]})", given, Ref)


def lineage(store: str, ref: Ref, upstream: str) -> list[Ref]:
    """Return a stage and those of its kind before it, last first.

    Args:
        store: fsspec URL of the store.
        ref: Where to begin.
        upstream: The input that names the stage before, e.g. ``start`` of a train stage.

    Raises:
        StoreError: If one of them is not committed, or its record is damaged.
    """
    chain, seen = [ref], {(ref.stage, ref.key)}
    while True:
        if upstream not in _read(store, chain[-1]).inputs:
            return chain
        before = read_input(store, chain[-1], upstream)
        if before is None or before.stage != ref.stage:
            return chain
        if (before.stage, before.key) in seen:
            raise CheckpointCorruptError(
                f"{before.stage} {before.key[:8]} is recorded as made from itself, which cannot "
                "be. The record was changed from outside: delete the stage, and run it again."
            )
        seen.add((before.stage, before.key))
        chain.append(before)


def _save(
    store: str, folder: str, states: Iterator[State], num_rows: int, attributes: dict[str, Any]
) -> tuple[list[dict[str, str]], int]:
    """Write states as rows 0, 1, ... as they are made; return their fingerprints and bytes."""
    fingerprints: list[dict[str, str]] = []
    rows, num_bytes = None, 0
    for number, state in enumerate(states):
        if not state:
            continue  # a stage of numbers alone
        row = {name: vector.detach().cpu() for name, vector in state.items()}
        fingerprints.append(state_fingerprint(row))
        with store_errors(store):
            if rows is None:
                layout = {name: (len(vector), vector.dtype) for name, vector in row.items()}
                rows = RowStore.create(folder, layout, num_rows, attributes=attributes)
            rows.save(number, row, fingerprints[-1])
        num_bytes += sum(vector.nbytes for vector in row.values())
    return fingerprints, num_bytes


def _content(fingerprints: list[dict[str, str]], scalars: dict[str, Any]) -> str:
    return digest({"rows": fingerprints, "scalars": scalars})[:16]


def _fingerprints(folder: str, num_rows: int) -> list[dict[str, str]]:
    """Read the rows that an attempt has committed, by their names: listings may lag."""
    if not num_rows:
        return []
    rows = RowStore.open(folder)
    return [rows.verified(number)[1] for number in range(num_rows)]


def _read(store: str, ref: Ref) -> StageRecord:
    return record_of(store, ref)


def _rows_folder(folder: str, record: StageRecord) -> str:
    return join(folder, ATTEMPTS, record.attempt)
