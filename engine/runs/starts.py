"""Starts of a run: when each began, and their total cost.

A start leaves a small file until the run ends; then what it took is counted in the run's record,
and the file goes. A start that stops before that writes why. One that was killed says nothing more,
so it counts until the last stage that it committed, and its process is asked for.

Layout: ``<store>/runs/<run>/starts/<32 hex digits>.json``.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, ValidationError

from engine.recipes.settings import Document
from engine.stages.claims import read_claims
from engine.stages.owner import Owner, is_here, is_over, this_process
from engine.storage.location import join, list_files, remove_file
from engine.storage.places import STARTS, run_file
from engine.storage.records import SMALL, read_bytes, read_records, write_record

_LONGEST = 4000
"""Letters of a cause: some libraries say pages."""


class Start(Document):
    """One start of a run."""

    started: AwareDatetime
    """When: UTC."""

    stopped: AwareDatetime | None = None
    """When it ended before its run did: UTC; none while it goes on, and if it was killed."""

    cause: Annotated[str, AfterValidator(lambda text: text[:_LONGEST])] = ""
    """Why it did, in sentences without secrets; cut off, also where a store holds more."""

    refused: bool = False
    """Whether it did not fail, but was refused for what was asked."""

    owner: Owner | None = None
    """The process that carries it out."""

    def sentence(self) -> str:
        """Say how it ended; empty if it left no note and its process may still be alive."""
        if self.stopped is not None:
            verb = "was refused" if self.refused else "stopped before its end"
            return f"It {verb}, at {self.stopped:%Y-%m-%d %H:%M} UTC. {self.cause}"
        if self.owner is None or not is_over(self.owner):
            return ""
        return (
            f"It was killed: process {self.owner.pid}, which began at {self._began()}, is gone and "
            "has left no reason, as after kill -9, or when the machine has no memory left."
        )

    def goes_on(self) -> str:
        """Say where it is being carried out, if that is known; empty if it is over."""
        if self.sentence():
            return ""
        if self.owner is not None and is_here(self.owner):
            return f"It is at work, in process {self.owner.pid} since {self._began()}."
        return (
            f"Its last start, at {self._began()}, left no note of its end: it is at work on "
            "another machine, or was killed, e.g. because this one was switched off."
        )

    @property
    def lives_here(self) -> bool:
        """Whether a process of this machine is known to carry it out at this moment."""
        owner = self.owner if self.stopped is None else None
        return owner is not None and is_here(owner) and not is_over(owner)

    def _began(self) -> str:
        return f"{self.started:%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True)
class OwnStart:
    """A start by this process.

    Attributes:
        file: Name of the file.
        before: Tokens of the claims that were there before.
        started: When it began.
    """

    file: str
    before: frozenset[str]
    started: datetime


_own: dict[tuple[str, str], OwnStart] = {}


def begin_start(store: str, run: str, now: datetime) -> None:
    """Note that a run is started by this process."""
    before = frozenset(each.token for each in read_claims(store, run))
    own = OwnStart(f"{uuid.uuid4().hex}.json", before, now)
    write_record(
        join(_folder(store, run), own.file),
        Start(started=now, owner=this_process()).model_dump(mode="json"),
    )
    _own[store, run] = own


def own_start(store: str, run: str) -> OwnStart | None:
    """Return the last start of a run by this process; None if there is none."""
    return _own.get((store, run))


def note_stop(store: str, run: str, cause: str, *, refused: bool) -> None:
    """Record why this process's start of a run ends before the run is finished.

    Args:
        store: fsspec URL of the store.
        run: Name of the run; nothing is written if this process has not started it, or has ended
            it.
        cause: Cause in sentences without secrets.
        refused: Whether it was refused for what was asked.
    """
    own = own_start(store, run)
    url = None if own is None else join(_folder(store, run), own.file)
    if own is None or url is None or read_bytes(url) is None:  # it went when the run ended
        return
    told = Start(started=own.started, stopped=datetime.now(UTC), cause=cause, refused=refused)
    write_record(url, told.model_dump(mode="json"))


def last_start(starts: Iterable[Start]) -> Start | None:
    """Return the newest of some starts; None if there are none."""
    return max(starts, key=lambda each: each.started, default=None)


def read_starts(store: str, run: str) -> dict[str, Start]:
    """Return the starts of a run that its record does not count yet, by name of the file."""
    folder = _folder(store, run)
    urls = {join(folder, name): name for name in list_files(folder) if name.endswith(".json")}
    found = {
        urls[url]: _understood(each)
        for url, each in read_records(list(urls), largest=SMALL).items()
    }
    return {name: each for name, each in found.items() if each is not None}


def understood_starts(records: Iterable[dict[str, Any] | None]) -> list[Start]:
    """Return starts by what lies in their files, without those that are damaged."""
    return [each for each in map(_understood, records) if each is not None]


def _understood(record: dict[str, Any] | None) -> Start | None:
    try:
        return Start.model_validate(record)
    except ValidationError:
        return None  # damaged: only a figure and a sentence depend on it


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
