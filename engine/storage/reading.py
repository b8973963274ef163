"""Files of data, read from wherever they lie; what goes wrong names the setting and the file."""

import io
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import fsspec.config
from fsspec import AbstractFileSystem

from engine.errors import ConfigurationError, DataError, EngineError, StoreError
from engine.secret_urls import redacted
from engine.storage.location import filesystem, is_local
from engine.storage.transient_errors import is_transient

DRIVERS = {
    **dict.fromkeys(("http", "https"), "pip install aiohttp (it is in the extra http)"),
    **dict.fromkeys(("s3", "s3a"), "pip install s3fs (it is in the extra s3)"),
}
"""Protocol to how its driver is installed."""


@contextmanager
def data_errors(what: str, hint: str) -> Iterator[None]:
    """Name data that cannot be read, whatever the driver of their filesystem raises.

    Args:
        what: What is read, and which setting says where, e.g. "The text /x/y".
        hint: What to do, a sentence.

    Raises:
        DataError: If trying again would not help.
        StoreError: If it may pass: there was no answer.
    """
    try:
        yield
    except EngineError:
        raise
    except Exception as error:  # drivers raise whatever their client library does
        text = redacted(str(error)).strip().rstrip(".")
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        if is_transient(error):
            raise StoreError(
                f"{redacted(what)} cannot be read just now ({reason}). {hint} Or start the same "
                "command again when it can."
            ) from error
        raise DataError(f"{redacted(what)} cannot be read ({reason}). {hint}") from error


def with_place(url: str, hint: str) -> str:
    """Add to what to do where a relative path is looked for."""
    if "://" in url or "::" in url or Path(url).is_absolute():
        return hint
    if os.path.exists(url):
        return hint
    return f"{hint} A relative path is looked for where the command runs, here {Path.cwd()}."


def open_data(
    what: str, url: str, options: dict[str, Any] | None = None
) -> tuple[AbstractFileSystem, str]:
    """Return the filesystem of data, and the path in it.

    Args:
        what: As in ``data_errors``.
        url: A path, or any fsspec URL.
        options: Fsspec's storage options.

    Raises:
        DataError: If the protocol is unknown or its driver is missing.
    """
    try:
        return filesystem(url, options)
    except ConfigurationError as error:
        cause = error.__cause__
        if cause is None:  # it was refused for what it holds
            raise
        protocol = url.split("://")[0]
        driver = DRIVERS.get(protocol, "install the package that it needs")
        raise DataError(
            f"{redacted(what)} cannot be opened ({redacted(str(cause))}). Use a path, or a URL "
            f"with a protocol that fsspec {fsspec.__version__} knows; for {protocol}://: {driver}."
        ) from cause


def read_data(what: str, url: str, hint: str, most: int | None = None) -> bytes:
    """Return the content of one file.

    Args:
        what: As in ``data_errors``.
        url: A path, or any fsspec URL.
        hint: As in ``data_errors``.
        most: Bytes that it may have; by default what the memory of this machine can hold, and of
            an answer over HTTP half of that. Other servers are not asked.

    Raises:
        DataError: If it cannot be read, is too large, or is a pipe or a device, which has no end.
        StoreError: If there was no answer, which may pass.
    """
    file_system, path = open_data(what, url)
    with data_errors(what, with_place(url, hint)):
        if is_local(file_system):
            _check_file(what, path, hint, _memory() if most is None else most)
        if url.startswith(("http://", "https://")):
            kept = _Bounded(_memory() // 2 if most is None else most, what, hint)
            patient, path = open_data(what, url, _as_it_is(url))
            patient.get_file(path, kept)
            content: Any = kept.getvalue()
        else:
            content = file_system.cat_file(path)
        _refuse_pointer(what, content)
        return content


def _refuse_pointer(what: str, content: bytes) -> None:
    """Refuse what stands for a file that was not fetched: three lines of text, which can be read.

    Raises:
        DataError: If it is a pointer of Git LFS or of git-annex; says how the file is fetched.
    """
    for kind, beginnings, command in _POINTERS:
        if len(content) <= _POINTER_BYTES and content.startswith(beginnings):
            raise DataError(
                f"{redacted(what)} is a pointer of {kind}, and not the file that it stands for. "
                f"Fetch that one where the data was cloned: {command}."
            )


_POINTER_BYTES = 1024
"""Most bytes of a pointer, as Git LFS has it."""

_POINTERS = (
    (
        "Git LFS",
        (b"version https://git-lfs.github.com/spec/", b"version https://hawser."),
        "git lfs pull",
    ),
    ("git-annex", (b"/annex/objects/",), "git annex get ."),
)
"""What stands for files elsewhere: by whom, how it begins, and how the files are fetched."""


def _as_it_is(url: str) -> dict[str, Any]:
    """Return options that have a whole file sent, as it lies there; the environment's win.

    By itself aiohttp ends every answer after five minutes, a large file over a slow line as well.
    It also asks for packed answers, unpacks them, and takes one that was cut off for a whole one.
    A server that packs all the same is read by what its bytes are, as a packed file is.
    """
    import aiohttp

    how = {
        "timeout": aiohttp.ClientTimeout(sock_connect=30, sock_read=_SILENCE),
        "auto_decompress": False,
        "raise_for_status": _refuse_a_part,
    }
    own = fsspec.config.conf.get(url.partition(":")[0], {})
    asked = own.get("client_kwargs", {})
    headers = {"Accept-Encoding": "identity", **asked.get("headers", {})}
    return {"client_kwargs": {**how, **asked, "headers": headers}}


async def _refuse_a_part(answer: Any) -> None:  # noqa: ANN401 (a response of aiohttp)
    """Refuse what is no whole file, and was not asked for; other refusals are the driver's.

    Raises:
        DataError: If it is a part of the file, or nothing at all.
    """
    if answer.status in (204, 205, 206):
        raise DataError(
            f"The server of {redacted(str(answer.url))} answered {answer.status} {answer.reason}, "
            "which is not the whole file. Copy it to a disk of this machine."
        )


_SILENCE = 60.0
"""Seconds without a byte after which a server is taken to be away."""

_PATIENCE, _SLOWEST = 300.0, 1000
"""Seconds after which a server has to have sent so many bytes for each of them."""


class _Bounded(io.BytesIO):
    """What a server sends, which need not say how much that is, and may never end.

    Args:
        most: Bytes that are kept.
        what: As in ``data_errors``.
        hint: Likewise.
    """

    def __init__(self, most: int, what: str, hint: str) -> None:
        super().__init__()
        self._most, self._what, self._hint = most, what, hint
        self._began = time.monotonic()

    def write(self, piece: Any, /) -> int:  # noqa: ANN401 (bytes of any kind)
        """Keep a piece.

        Raises:
            DataError: If there are more than may be.
            StoreError: If they come so slowly that nobody would wait for the end.
        """
        took = time.monotonic() - self._began
        if piece and took > _PATIENCE and self.tell() < _SLOWEST * took:
            raise StoreError(
                f"{redacted(self._what)} cannot be read just now: its server sent {self.tell()} "
                f"bytes in {took:.0f} seconds. Copy the file to a disk of this machine, or start "
                "the same command again."
            )
        if self.tell() + len(piece) > self._most:
            raise DataError(
                f"{redacted(self._what)} has more than {self._most} bytes, and no more are read. "
                f"{self._hint}"
            )
        return super().write(piece)


def _check_file(what: str, path: str, hint: str, most: int) -> None:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise DataError(f"{redacted(what)} is {kind}, and no file. {hint}")
    if found.st_size > most:
        raise DataError(
            f"{redacted(what)} has {found.st_size} bytes, and at most {most} are read. {hint}"
        )


def _memory() -> int:
    """Return the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
