"""What is read wholly is a file with an end, and fits into the memory of the machine."""

import os
import threading
import time
import zlib
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from engine.errors import DataError, StoreError
from engine.problems.shipped import image_folder
from engine.problems.tables.files import read_table
from engine.storage import reading
from engine.storage.reading import read_data

NO_FILES = {
    "a pipe": (os.mkfifo, "a pipe or a device"),
    "a link to an endless device": (lambda path: os.symlink("/dev/zero", path), "a pipe or a dev"),
    "a terminal": (lambda path: os.symlink("/dev/tty", path), "a pipe or a device"),
    "a folder": (os.mkdir, "a folder"),
    "a sparse file": (lambda path: sparse(path, 1 << 43), "8796093022208 bytes"),
    "nothing": (lambda path: None, "FileNotFoundError"),
}


def sparse(path, size):
    """Make a file that takes no space and has many bytes."""
    with open(path, "wb") as file:
        file.truncate(size)


@pytest.mark.timeout(60)  # a pipe is waited for, and a device read for ever
@pytest.mark.parametrize(("make", "words"), NO_FILES.values(), ids=NO_FILES)
def test_what_has_no_end_is_refused_before_it_is_opened(make, words, tmp_path):
    """Data sets are unpacked from archives, which hold pipes, links and sparse files."""
    make(tmp_path / "x")

    with pytest.raises(DataError, match=words):
        read_data("The table x", str(tmp_path / "x"), "Correct the path.")
    with pytest.raises(DataError, match=words):
        read_table(str(tmp_path / "x"), "train")


def test_a_file_may_have_as_many_bytes_as_are_asked_for(tmp_path):
    """Not one more."""
    (tmp_path / "x").write_bytes(b"12345")

    assert read_data("x", str(tmp_path / "x"), "", 5) == b"12345"
    with pytest.raises(DataError, match="5 bytes, and at most 4"):
        read_data("x", str(tmp_path / "x"), "", 4)


@pytest.mark.timeout(60)  # it would be read for ever
def test_an_answer_that_does_not_end_is_given_up(monkeypatch):
    """A server need not say how much it will send, and fills the memory."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("engine.storage.reading._memory", lambda: 1 << 20)
    with served(b"1,2,3\n" * 10_000, endless=True) as url:
        with pytest.raises(DataError, match="more than 524288 bytes"):
            read_data("The table x", url, "Correct the path.")
        with pytest.raises(DataError, match="more than 524288 bytes"):
            read_table(url, "train")
    with served(b"12345", endless=False) as url:
        assert read_data("x", url, "", 5) == b"12345"
        with pytest.raises(DataError, match="more than 4 bytes"):
            read_data("x", url, "", 4)
    with pytest.raises(StoreError, match="cannot be read just now"):
        read_data("x", url, "")


@pytest.mark.timeout(60)  # it would be read for ever
def test_a_server_that_trickles_is_given_up(monkeypatch):
    """A byte now and then keeps a connection alive, and a run waiting."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("engine.storage.reading._PATIENCE", 0.2)
    with (
        served(b"1", endless=True, pause=0.05) as url,
        pytest.raises(StoreError, match=r"sent \d+ bytes in 0 seconds"),
    ):
        read_data("The table x", url, "")
    with served(b"1" * 100_000, endless=False) as url:
        assert len(read_data("The table x", url, "")) == 100_000


@pytest.mark.timeout(60)  # it would be waited for
def test_a_server_that_falls_silent_is_given_up(monkeypatch):
    """Nothing comes any more, and nothing says so."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("engine.storage.reading._SILENCE", 0.2)
    with (
        served(b"1", endless=True, pause=2) as url,
        pytest.raises(StoreError, match="cannot be read just now"),
    ):
        read_data("The table x", url, "")


def test_a_large_file_over_a_slow_line_has_the_time_that_it_takes(monkeypatch):
    """By default aiohttp ends every answer after five minutes, whatever comes of it."""
    aiohttp = pytest.importorskip("aiohttp")

    waits = reading._as_it_is("http://localhost/x")["client_kwargs"]["timeout"]
    given = {"timeout": 5, "trust": 1, "headers": {"Authorization": "x"}}
    monkeypatch.setitem(fsspec.config.conf, "http", {"client_kwargs": given})
    own = reading._as_it_is("http://localhost/x")["client_kwargs"]

    assert aiohttp.client.DEFAULT_TIMEOUT.total == 300
    assert waits.total is None
    assert (own["timeout"], own["trust"]) == (5, 1)
    assert own["headers"] == {"Accept-Encoding": "identity", "Authorization": "x"}


def packed_halves():
    """Return a table of 5000 rows as a server packs it while it reads, in two parts."""
    rows = [b"%d,%d\n" % (row, row * row) for row in range(5000)]
    packing = zlib.compressobj(wbits=31)  # of gzip
    first = packing.compress(b"a,b\n" + b"".join(rows[:2500])) + packing.flush(zlib.Z_SYNC_FLUSH)
    return first, packing.compress(b"".join(rows[2500:])) + packing.flush()


@pytest.mark.parametrize("length", [True, False], ids=["with its length", "until it closes"])
def test_a_packed_answer_that_was_cut_off_is_refused(length):
    """The client unpacks as far as it comes, and half a table passed for a whole one."""
    pytest.importorskip("aiohttp")
    packed = {"Content-Encoding": "gzip"}
    cut, rest = packed_halves()
    with served(cut + rest, endless=False, headers=packed) as url:
        assert {len(column) for column in read_table(url, "train").values()} == {5000}
    headers = packed | ({"Content-Length": str(len(cut))} if length else {})
    with (
        served(cut, endless=False, headers=headers) as url,
        pytest.raises(DataError, match="cannot be read|cut off|unpacked"),
    ):
        read_table(url, "train")


def test_a_file_is_asked_for_as_it_lies_there():
    """A packed answer says nothing of its end."""
    pytest.importorskip("aiohttp")
    asked = []
    with served(b"12345", endless=False, asked=asked) as url:
        assert read_data("x", url, "") == b"12345"

    assert [each["Accept-Encoding"] for each in asked] == ["identity"]


@pytest.mark.parametrize("status", [204, 206])
def test_a_part_that_nobody_asked_for_is_refused(status):
    """A server or a proxy that answers with some bytes of a file says so in its first line."""
    pytest.importorskip("aiohttp")
    content = b"" if status == 204 else b"1,2\n3,4\n"
    with (
        served(content, endless=False, status=status) as url,
        pytest.raises(DataError, match=f"answered {status}.*not the whole file"),
    ):
        read_data("x", url, "")


LIES = {
    "more than is sent": {"Content-Length": "9"},
    "no end of the pieces": {"Transfer-Encoding": "chunked"},
    "below zero": {"Content-Length": "-5"},
}


@pytest.mark.parametrize("headers", LIES.values(), ids=LIES)
def test_a_length_that_is_not_kept_is_refused(headers):
    """What came is no whole file."""
    pytest.importorskip("aiohttp")
    content = b"5\r\n12345\r\n" if "Transfer-Encoding" in headers else b"12345"
    with (
        served(content, endless=False, headers=headers) as url,
        pytest.raises(StoreError, match="cannot be read just now"),
    ):
        read_data("x", url, "")


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/x.csv"])
def test_an_answer_that_leads_to_what_is_no_answer_is_refused(place):
    """To a file of this machine, to another protocol, or to itself."""
    pytest.importorskip("aiohttp")
    with (
        served(b"", endless=False, status=302, headers={"Location": place}) as url,
        pytest.raises(StoreError, match="cannot be read just now"),
    ):
        read_data("x", url, "")


@contextmanager
def served(piece, *, endless, pause=0, status=200, headers=(), asked=None):
    """A server that answers with a piece, once or for ever, with pauses of so many seconds."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            if asked is not None:
                asked.append(self.headers)
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(piece)
            with suppress(OSError):
                while endless:
                    time.sleep(pause)
                    self.wfile.write(piece)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/x.csv"
        server.shutdown()


def test_a_picture_of_more_bytes_than_any_is_not_read(tmp_path):
    """Its ending says that it is a picture, and nothing else does."""
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        sparse(tmp_path / name, 1 << 36)

    with pytest.raises(DataError, match="68719476736 bytes"):
        image_folder(str(tmp_path), size=8)


def test_relative_path_says_where_it_is_looked_for(tmp_path, monkeypatch):
    """Code is looked for beside the recipe, and data where the command runs."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(DataError, match=f"Correct it. .*command runs, here {tmp_path}"):
        read_data("The table x", "rows.csv", "Correct it.")
    with pytest.raises(DataError, match=r"Correct it\.$"):
        read_data("The table x", f"{tmp_path}/rows.csv", "Correct it.")


POINTERS = {
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "git annex get": b"/annex/objects/SHA256E-s3--98ea.txt\n",
}


@pytest.mark.parametrize("command", POINTERS)
@pytest.mark.parametrize("place", ["{}/rows.txt", "memory://pointer/rows.txt"])
def test_pointer_is_not_the_file_that_it_stands_for(command, place, tmp_path):
    """Its three lines were learned as text."""
    url = place.format(tmp_path)
    with fsspec.open(url, "wb") as file:
        file.write(POINTERS[command])

    with pytest.raises(DataError, match=command):
        read_data("The text", url, "Correct the path.")


def test_text_about_pointers_is_a_text(tmp_path):
    """What is longer than a pointer is none, and neither is what only speaks of one."""
    for content in (POINTERS["git lfs pull"] * 40, b"A " + POINTERS["git lfs pull"]):
        (tmp_path / "text").write_bytes(content)

        assert read_data("The text", str(tmp_path / "text"), "Correct the path.") == content
