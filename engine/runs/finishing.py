"""End of a run of any kind: writes its record and report, and sums up all of its starts.

Which kind it is nobody asks here: the record says what its result needs and what people read of it.
A start that computed nothing of a run that has ended already changes nothing but the claims that
the record ends: when it was made and what it took stay what they were.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar

from engine.errors import CheckpointCorruptError, CheckpointMissingError
from engine.reports.page import REPORT, as_html
from engine.reports.units import number_in
from engine.runs.endings import intact, read_ending, read_outline, sealed
from engine.runs.finished import FinishedRun
from engine.runs.inventory import StageName, stages_of
from engine.runs.report import Report, compose
from engine.runs.stages_at_work import stages_at_work
from engine.runs.starts import end_of, forget_starts, own_start, read_starts, seconds_until_last
from engine.stages.claims import Claim, claim, claim_url, read_claims
from engine.stages.same_data import note_finished
from engine.storage.location import join, list_files, remove_file
from engine.storage.names import label
from engine.storage.places import RECIPE, RUN, run_folder, stage_record_url
from engine.storage.records import read_bytes, read_record, read_records, write_bytes, write_record

_Record = TypeVar("_Record", bound=FinishedRun)

_OF_THE_START = {"started", "seconds", "stages", "environment", "ending"}
"""What a record says of how it was made; the rest is the result."""


def finish(store: str, record: _Record, report: Callable[[_Record], Report]) -> _Record:
    """Write the record and the report of a run that has ended; return the record.

    Args:
        store: fsspec URL of the store.
        record: Record of the start that ends, with its own ``started`` and ``seconds``.
        report: Draws what the kind of run has to show; not asked if nothing has changed.

    Returns:
        The record with the numbers of all starts, and the counts of this one.
    """
    run, folder, began = record.run, run_folder(store, record.run), record.started
    url, own, parts = join(folder, RUN), own_start(store, run), record.parts()
    asked = _adopt(store, run, parts)
    claims, starts, before = read_claims(store, run), read_starts(store, run), _read(url)
    stale = [each for each in claims if own is not None and each.token in own.before]
    renewed = [each for each in claims if each not in stale]
    asked = [*renewed, *asked]
    tokens = {"claims": sorted(each.token for each in renewed if each.token)}
    ending = record.ending.model_copy(update={**tokens, **_common_fields(store, record, renewed)})
    record = record.model_copy(update={"ending": ending})
    ended, runs = read_ending(before), {run, *parts}
    repeated = (
        before is not None
        and ended is not None
        and all(each.cached for each in asked)
        and {REPORT, *ended.files} <= set(list_files(folder))
        and _result(before) == _result(record.model_dump(mode="json"))
    )
    if repeated and before is not None and ended is not None:
        ended = ended.model_copy(update=tokens)
        kept = {"started": before["started"], "seconds": before["seconds"], "ending": ended}
        record = record.model_copy(update=kept)
        write_record(url, sealed({**before, "ending": ended.model_dump(mode="json")}))
    else:
        others = [each.started for name, each in starts.items() if own is None or name != own.file]
        everything = {(each.stage, each.key) for each in [*claims, *asked]}
        made = [each for each in _stage_records(store, everything) if each.get("run") in runs]
        record = record.model_copy(update=_numbers(record, before, made, others, asked))
        # First the record, without the page of a run that goes on: one that cannot be drawn is
        # drawn by the next start, where none is.
        remove_file(join(folder, REPORT))
        write_record(url, sealed(record.model_dump(mode="json")))
        record = _write_report(store, record, report(record))
    here = datetime.fromisoformat(began)
    counted = [name for name, each in starts.items() if each.started < here]
    forget_starts(store, run, [*counted, *([own.file] if own else [])])
    note_finished(store, run)
    _drop(store, run, stale, claims)
    return record


def _common_fields(store: str, record: FinishedRun, claims: Iterable[Claim]) -> dict[str, Any]:
    """Return the fields of a record that lists of runs and ``mgd clean`` read, for any kind."""
    small = {f"{each.stage}/{each.key}" for each in claims if each.stage not in record.bulky}
    results = {f"{ref.stage}/{ref.key}" for ref in record.refs_to_keep(store)}
    return {
        "keeps": sorted(small | results),
        "verdict": record.headline(),
        "numbers": [asdict(each) for each in record.numbers()],
        "summary": record.sentences(),
        "table": record.table(),
        "verifiable": record.verifiable,
    }


def _write_report(store: str, record: _Record, own: Report) -> _Record:
    """Write the page and the files beside it; the record names them when they are there."""
    folder = run_folder(store, record.run)
    for name, content in own.files.items():
        write_bytes(join(folder, name), content)
    if own.files:
        ending = record.ending.model_copy(update={"files": sorted(own.files)})
        record = record.model_copy(update={"ending": ending})
        write_record(join(folder, RUN), sealed(record.model_dump(mode="json")))
    # Last the page: without it the next start writes everything again.
    write_bytes(join(folder, REPORT), as_html(compose(store, record, own)).encode())
    return record


def _adopt(store: str, run: str, parts: Iterable[str]) -> list[Claim]:
    """Take over the claims of a run's parts, which cannot be resumed by themselves.

    A part that is a run by itself, because it has settings of its own, keeps its claims, and if it
    has ended, its record ends those as well that it was given since.

    Returns:
        The claims that such parts keep.
    """
    found: list[Claim] = []
    for part in dict.fromkeys(parts):
        claims, folder = read_claims(store, part), run_folder(store, part)
        if read_bytes(join(folder, RECIPE)) is None:
            for each in claims:
                claim(store, run, each.stage, each.key, each.name, cached=each.cached)
                remove_file(claim_url(store, part, each.stage, each.key))
            continue
        found.extend(claims)
        record = _read(join(folder, RUN))
        ending = read_ending(record)
        if record is not None and ending is not None:
            ending = ending.model_copy(update={"claims": sorted(each.token for each in claims)})
            content = {**record, "ending": ending.model_dump(mode="json")}
            write_record(join(folder, RUN), sealed(content))
    return found


def _numbers(
    record: FinishedRun,
    before: dict[str, Any] | None,
    made: list[dict[str, Any]],
    others: list[datetime],
    asked: list[Claim],
) -> dict[str, Any]:
    """Return the start time, the cost and the ending of a run, over all of its starts.

    Args:
        record: Record of the start that ends.
        before: The record that is there, which counts what was done until it was written.
        made: Records of the stages that the run has computed.
        others: Starts besides this one that are not counted there.
        asked: The claims of this start.
    """
    ended, here = read_ending(before), datetime.fromisoformat(record.started)
    if ended is not None and ended.ended is not None:
        fresh = {label(each.stage, each.key) for each in asked if not each.cached}
        made = [
            each
            for each in made
            if _label_of(each) in fresh or ((end := end_of(each)) is not None and end > ended.ended)
        ]
    killed = seconds_until_last([each for each in others if each < here], made, here)
    lasted = {start: seconds for start, seconds in killed.items() if seconds > 0}
    counts = ended is None or bool(made)  # whether this start computed, or ends the run at all
    ending = record.ending.model_copy(
        update={
            "starts": (ended.starts if ended else 0) + len(lasted) + counts,
            "computing_seconds": (ended.computing_seconds if ended else 0.0)
            + math.fsum(number_in(each, "seconds") for each in made),
            "ended": datetime.now(UTC),
        }
    )
    earlier = [] if before is None or ended is None else [before]
    return {
        "started": min(
            [record.started, *(str(each["started"]) for each in earlier)]
            + [each.isoformat() for each in lasted]
        ),
        "seconds": math.fsum(
            [max(record.seconds, 0.0) * counts, *lasted.values()]
            + [float(each["seconds"]) for each in earlier]
        ),
        "ending": ending,
    }


def _drop(store: str, run: str, stale: list[Claim], claims: list[Claim]) -> None:
    """Delete claims that the last start did not renew, so that what they held can be freed.

    They are of stages with other keys, e.g. those of an older engine, unless another process works
    on the same run beside this start, maybe with such an engine.
    """
    names = {(each.stage, each.key) for each in claims}
    if not stale or stages_at_work(store, stages_of(store, sorted(names))):
        return
    now = {(each.stage, each.key): each.token for each in read_claims(store, run)}
    for each in stale:
        if now.get((each.stage, each.key)) == each.token:
            remove_file(claim_url(store, run, each.stage, each.key))


def _read(url: str) -> dict[str, Any] | None:
    """Return the existing record; None if it is not that of a finished run."""
    try:
        record = intact(read_record(url))
    except (CheckpointMissingError, CheckpointCorruptError):
        return None
    return record if record is not None and read_outline(record) is not None else None


def _result(record: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a record that is the result."""
    ending = record["ending"]
    said = {name: ending[name] for name in ("keeps", "summary", "table")}
    return {name: value for name, value in record.items() if name not in _OF_THE_START} | said


def _stage_records(store: str, names: Iterable[StageName]) -> list[dict[str, Any]]:
    urls = [stage_record_url(store, *name) for name in names]
    return [each for each in read_records(urls).values() if each is not None]


def _label_of(record: dict[str, Any]) -> str:
    ref = record.get("ref")
    return label(str(ref.get("stage")), str(ref.get("key"))) if isinstance(ref, dict) else ""
