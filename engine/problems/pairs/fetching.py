"""Fetches images whose URLs stand in a Parquet file, if a setting allows it.

A data set from the Internet may name any address, including those that only this machine can reach,
such as the one where a cloud keeps the machine's own keys. So nothing is fetched unless a setting
asks for it, files of this machine never are, and HTTP is used with public addresses only. Each
connection is checked when it is made, those of redirects included.
"""

import http.client
import ipaddress
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from engine.problems.pairs.pictures import MAX_BYTES
from engine.secret_urls import redacted
from engine.storage.location import filesystem

SECONDS = 30.0
"""Longest time for one image."""

_PIECE = 2**16


class NotFetchedError(Exception):
    """An image was not fetched; the text says why, as in "3 pairs <text>"."""


@dataclass(frozen=True)
class Fetching:
    """What may be fetched.

    Attributes:
        allowed: Whether anything may.
        protocol: That of the folder of the data.
    """

    allowed: bool
    protocol: str

    def fetch(self, url: str) -> bytes:
        """Return the bytes at a URL.

        Raises:
            NotFetchedError: If it may not be fetched, or cannot.
        """
        protocol = urlsplit(url).scheme.lower() if "://" in url else ""
        on_s3 = protocol == "s3" and self.protocol in ("s3", "s3a")
        chained = "::" in (url if on_s3 else url.split("://")[0])
        if chained or not (protocol in ("http", "https") or on_s3):
            raise NotFetchedError(
                "with the name of a file in place of an image, which is never opened"
            )
        if "@" in urlsplit(url).netloc:  # urllib shows half of it where it cannot read the rest
            raise NotFetchedError("with a log-in in the URL of an image, which is never sent")
        if not self.allowed:
            raise NotFetchedError(
                "with a URL in place of an image, which arguments.contrastive.fetch_images=true "
                "would fetch"
            )
        try:
            return _from_s3(url) if on_s3 else _from_http(url)
        except NotFetchedError:
            raise
        except Exception as error:  # servers answer in any way; what counts is that it is named
            reason = redacted(f"{type(error).__name__}: {error}")
            raise NotFetchedError(f"with an image that cannot be fetched ({reason})") from error


def _from_s3(url: str) -> bytes:
    file_system, path = filesystem(url)
    if int(file_system.info(path)["size"]) > MAX_BYTES:
        raise NotFetchedError("with an image that is too large to be fetched")
    content: Any = file_system.cat_file(path)
    return content


def _from_http(url: str) -> bytes:
    end = time.monotonic() + SECONDS
    try:
        with _until(end):
            content = _read(url, end)
    except NotFetchedError:
        raise
    except Exception as error:
        raise (_too_long() if time.monotonic() > end else error) from error
    if time.monotonic() > end:  # the end of a connection that was broken off may look like one
        raise _too_long()
    return content


def _read(url: str, end: float) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "metagradient-descent"})
    pieces, size = [], 0
    with _opener().open(request, timeout=SECONDS) as answer:
        while piece := answer.read1(_PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BYTES:
                raise NotFetchedError("with an image that is too large to be fetched")
            if time.monotonic() > end:
                raise _too_long()
    return b"".join(pieces)


def _too_long() -> NotFetchedError:
    return NotFetchedError("with an image that took too long to be fetched")


@dataclass
class _Watch:
    """Connections of the image that is fetched: an answer may lead to another."""

    made: list[http.client.HTTPConnection] = field(default_factory=list)
    is_over: bool = False

    def add(self, connection: http.client.HTTPConnection) -> None:
        if self.is_over:
            raise _too_long()
        self.made.append(connection)

    def break_off(self) -> None:
        self.is_over = True
        for each in self.made:
            if each.sock is not None:
                with suppress(OSError):
                    each.sock.shutdown(socket.SHUT_RDWR)


_watch: ContextVar[_Watch | None] = ContextVar("watch", default=None)


@contextmanager
def _until(end: float) -> Iterator[None]:
    """Break the connections that are made inside the block when its time is over.

    The timeout of a connection is one of each wait, and a server may send the head of its answer
    letter by letter, for weeks.

    Args:
        end: Time at which they are broken, by ``time.monotonic``.
    """
    watch = _Watch()
    token = _watch.set(watch)
    timer = threading.Timer(end - time.monotonic(), watch.break_off)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _watch.reset(token)


_WITH_OLD_ONES = [
    ipaddress.ip_network(each) for each in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96")
]
"""Networks whose addresses end with one of the old kind: translated, compatible, and stateless."""


_TRANSLATED_HERE = ipaddress.ip_network("64:ff9b:1::/48")
"""Network of translations that are a site's own (RFC 8215)."""


def is_public(address: str) -> bool:
    """Say whether an IP address is one of the public Internet."""
    found = ipaddress.ip_address(address.split("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        # Addresses of the old kind in the new one, in its several ways.
        if found in _TRANSLATED_HERE:
            return False
        inner = found.ipv4_mapped or found.sixtofour
        if any(found in network for network in _WITH_OLD_ONES):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
    return found.is_global and not found.is_multicast


def _connect(address: tuple[str, int], timeout: Any = None, source: Any = None) -> socket.socket:  # noqa: ANN401 (as socket.create_connection)
    """Connect to a public address; the address is looked at, so no name can hide another."""
    host, port = address
    addresses = [info[4] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    public = [found for found in addresses if is_public(str(found[0]))]
    if len(public) < len(addresses) or not public:
        raise NotFetchedError("with an image at an address that is not public")
    return socket.create_connection((str(public[0][0]), port), timeout, source)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_looking(http.client.HTTPConnection), req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_looking(http.client.HTTPSConnection), req)


def _looking(kind: type[http.client.HTTPConnection]) -> Callable[..., http.client.HTTPConnection]:
    """Make connections of a kind that look at the address before they connect."""

    def make(host: str, timeout: float) -> http.client.HTTPConnection:
        connection = kind(host, timeout=timeout)
        watch = _watch.get()
        if watch is not None:
            watch.add(connection)
        # It is what connect() calls, and the only place between the name and the connection.
        vars(connection)["_create_connection"] = _connect
        return connection

    return make


@lru_cache(maxsize=1)
def _opener() -> urllib.request.OpenerDirector:
    """Open HTTP and HTTPS only, without a proxy, whose connections could not be looked at."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler({}),
        _Http(),
        _Https(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener
