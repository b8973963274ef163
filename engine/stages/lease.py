"""Leases: a note of who computes a stage, so that two flows which want it compute it once.

An attempt holds a token, a number that only grows. It is taken by creating a file that nobody else
has created (``engine.storage.records.create_record``), renewed by a thread while the attempt
computes, and given up at its end. An owner that dies renews nothing: whoever waits sees the file
unchanged for ``TTL_SECONDS`` of its own clock and takes the next token. Clocks of two machines are
never compared. On the owner's own machine a dead process is seen at once.

A lease saves work; correctness does not depend on it. An owner that was only suspended finds a
newer token before it commits, and stops. If it is suspended between that look and its commit, the
commit is still created exclusively, so one of the two wins, and both have the same bits
(``engine.stages.commits``).

Listings may lag, by a minute on some network filesystems. So a listing only says where to begin:
each token is then asked for by its name, and whoever finds it taken tries the next one.

Layout: ``<folder>/leases/<token>.json``. The newest file counts; older ones are the history.
"""

import atexit
import logging
import random
import re
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from engine.errors import CheckpointCorruptError, CheckpointMissingError
from engine.recipes.settings import Document
from engine.stages.owner import Owner, is_here, is_over, this_process
from engine.storage.location import join, list_files
from engine.storage.places import LEASES
from engine.storage.records import (
    SMALL,
    create_record,
    read_bytes,
    read_model,
    understood,
    write_record,
)

logger = logging.getLogger(__name__)

TTL_SECONDS = 30.0
"""Silence after which an owner on another machine counts as dead."""

_RENEWALS = 6
"""Renewals within that time: several may fail before anybody else takes over."""


_LONGEST_PAUSE = 2.0
"""Seconds between two looks at a stage that somebody else is at work on."""

_ended: set[str] = set()
"""Nonces of leases that this process has given up; the store may have been away just then."""


_TOKEN = re.compile(r"([0-9]{8,12})\.json")


class LeaseRecord(Document):
    """What the file of a lease says."""

    owner: Owner
    """Who holds it."""

    nonce: str
    """Drawn by the owner."""

    renewed: int
    """How often it has been renewed."""

    released: bool
    """Whether it was given up."""


class Lease:
    """A token that is held; a context manager that gives it up, whatever happens.

    Attributes:
        folder: URL of the stage.
        token: Larger than that of every attempt before.
        nonce: Drawn by the owner. Where a stage was deleted, tokens begin again.
    """

    def __init__(self, folder: str, token: int, nonce: str) -> None:
        self.folder, self.token, self.nonce = folder, token, nonce
        self._renewed = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name=f"lease {token}")
        # A signal may come before the block of the context manager has begun.
        atexit.register(self._give_up)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        _ended.add(self.nonce)
        self._thread.join(timeout=5)  # it may hang in a store that is away
        self._give_up()
        atexit.unregister(self._give_up)

    def _give_up(self) -> None:
        _ended.add(self.nonce)
        # So that whoever comes next need not wait. A store that is away says nothing now either.
        with suppress(Exception):
            if self.is_newest():
                self._write(released=True)

    @property
    def attempt(self) -> str:
        """Name of what is made under this lease; no other has the same, ever."""
        return f"{self.token:08d}-{self.nonce}"

    def is_newest(self) -> bool:
        """Say whether nobody has taken over: tokens are taken one after the other."""
        if _is_there(self.folder, self.token + 1):
            return False
        own = _read(self.folder, self.token)
        return own is not None and own.nonce == self.nonce

    def _renew(self) -> None:
        while not self._done.wait(renewal_seconds()):
            self._renewed += 1
            try:
                self._write(released=False)
            except Exception as error:
                logger.warning("Lease %d of %s was not renewed: %s", self.token, self.folder, error)

    def _write(self, *, released: bool) -> None:
        content = _content(self.nonce, self._renewed, released)
        write_record(_lease_url(self.folder, self.token), content)


def acquire(folder: str, is_finished: Callable[[], bool]) -> Lease | None:
    """Take the lease of a stage, or wait for its owner.

    Args:
        folder: URL of the stage.
        is_finished: Says whether the stage is committed; asked while somebody else is at work.

    Returns:
        The lease, or None if another attempt has finished the stage meanwhile.

    Cost:
        A listing and a small file when nobody else is at work.
    """
    nonce = uuid.uuid4().hex[:8]
    seen: tuple[int, LeaseRecord | None] | None = None
    since, pause = time.monotonic(), 0.05
    known = 0  # taken for certain, whatever a listing says
    while True:
        token = max(newest_token(folder), known)
        content = _read(folder, token) if token else None
        if (token, content) != seen:
            seen, since = (token, content), time.monotonic()
        silent = time.monotonic() - since
        if token == 0 or _is_over(content) or silent > TTL_SECONDS:
            if token and not (content is not None and content.released):
                logger.warning("Attempt %d of %s is given up: its owner has ended.", token, folder)
            if _create(folder, token + 1, nonce):
                return Lease(folder, token + 1, nonce)
            # Somebody was faster, or was there before and the listing does not show it yet.
            known = token + 1 if _is_there(folder, token + 1) else 0
        if is_finished():
            return None
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _create(folder: str, token: int, nonce: str) -> bool:
    """Take a token, if nobody has."""
    if create_record(_lease_url(folder, token), _content(nonce, 0, False)):
        return True
    # A store whose answer was lost is asked again by its driver, and finds our own file.
    found = _read(folder, token)
    return found is not None and found.nonce == nonce


def newest_token(folder: str) -> int:
    """Return the largest token that anybody has taken, as far as the listing knows, or 0."""
    found = [_TOKEN.fullmatch(name) for name in list_files(join(folder, LEASES))]
    return max((int(each[1]) for each in found if each is not None), default=0)


def _is_there(folder: str, token: int) -> bool:
    """Whether a token is taken: asked by name, so that a listing that lags does not matter."""
    try:
        return read_bytes(_lease_url(folder, token), largest=SMALL) is not None
    except CheckpointCorruptError:
        return True


def renewal_seconds() -> float:
    """Return the pause between two renewals of a lease by an owner that is alive."""
    return TTL_SECONDS / _RENEWALS


def is_held(content: dict[str, Any] | None) -> bool | None:
    """Say whether somebody holds a lease, by its file; None if only watching it can tell."""
    record = None
    with suppress(CheckpointCorruptError):
        record = None if content is None else understood("a lease", content, LeaseRecord)
    if record is None:
        return None  # damaged: its owner, if there is one, writes it again
    if _is_over(record):
        return False
    return True if is_here(record.owner) else None


def _lease_url(folder: str, token: int) -> str:
    return join(folder, LEASES, f"{token:08d}.json")


def _content(nonce: str, renewed: int, released: bool) -> dict[str, Any]:
    return {
        "owner": this_process().model_dump(),
        "nonce": nonce,
        "renewed": renewed,
        "released": released,
    }


def _read(folder: str, token: int) -> LeaseRecord | None:
    try:
        return read_model(_lease_url(folder, token), LeaseRecord, largest=SMALL)
    except (CheckpointMissingError, CheckpointCorruptError):
        return None  # its owner will write it again, or is dead


def _is_over(content: LeaseRecord | None) -> bool:
    """Whether the owner has given up the lease, or is a dead process of this machine."""
    if content is None:
        return False
    if content.released or content.nonce in _ended:
        return True
    return is_over(content.owner)
