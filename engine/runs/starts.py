"""The starts of a run: when each began, and what all of them took together.

A start leaves a small file until the run ends; then what it took is counted in the run's record,
and the file goes. A start that was killed says nothing more, so it counts until the last stage that
it committed.

Layout: ``<store>/runs/<run>/starts/<32 hex digits>.json``.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import AwareDatetime, ValidationError

from engine.recipes.settings import Document
from engine.stages.claims import read_claims
from engine.storage.location import join, list_files, remove_file
from engine.storage.places import STARTS, run_file
from engine.storage.records import SMALL, read_records, write_record


class Start(Document):
    """One start of a run."""

    started: AwareDatetime
    """When: UTC."""


@dataclass(frozen=True)
class OwnStart:
    """A start that this process has made.

    Attributes:
        file: Its name.
        before: Tokens of the claims that were there before.
    """

    file: str
    before: frozenset[str]


_own: dict[tuple[str, str], OwnStart] = {}


def begin_start(store: str, run: str, now: datetime) -> None:
    """Note that a run is started by this process."""
    before = frozenset(each.token for each in read_claims(store, run))
    own = OwnStart(f"{uuid.uuid4().hex}.json", before)
    write_record(join(_folder(store, run), own.file), Start(started=now).model_dump(mode="json"))
    _own[store, run] = own


def own_start(store: str, run: str) -> OwnStart | None:
    """Return the start of a run that this process has made last; None if it has made none."""
    return _own.get((store, run))


def read_starts(store: str, run: str) -> dict[str, Start]:
    """Return the starts of a run that its record does not count yet, by name of the file."""
    folder = _folder(store, run)
    urls = {join(folder, name): name for name in list_files(folder) if name.endswith(".json")}
    found: dict[str, Start] = {}
    for url, record in read_records(list(urls), largest=SMALL).items():
        try:
            found[urls[url]] = Start.model_validate(record)
        except ValidationError:
            continue  # damaged: only a figure depends on it
    return found


def forget_starts(store: str, run: str, names: list[str]) -> None:
    """Delete the files of starts that are counted elsewhere."""
    for name in names:
        remove_file(join(_folder(store, run), name))


def seconds_until_last(
    starts: list[datetime], made: list[dict[str, Any]], until: datetime | None = None
) -> dict[datetime, float]:
    """Return how long each start took until the last stage that was committed in it.

    Args:
        starts: When each began.
        made: Records of the stages that the run has computed.
        until: When the start after the last of them began, if there is one.
    """
    ends = sorted(end for record in made if (end := end_of(record)) is not None)
    times = sorted(starts)
    found: dict[datetime, float] = {}
    for begin, following in zip(times, [*times, until][1:], strict=True):
        within = [end for end in ends if end > begin and (following is None or end <= following)]
        found[begin] = (within[-1] - begin).total_seconds() if within else 0.0
    return found


def end_of(record: dict[str, Any]) -> datetime | None:
    """Return when a stage was committed, by its record; None if that does not say."""
    try:
        started = datetime.fromisoformat(str(record["started"]))
        return started + timedelta(seconds=float(record["seconds"])) if started.tzinfo else None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _folder(store: str, run: str) -> str:
    return run_file(store, run, STARTS)
