"""Parquet files of pairs as people export them, and cells that name what must not be opened."""

import http.server
import threading

import pytest

from engine.errors import DataError
from engine.problems.data import bounded
from engine.problems.pairs import fetching
from engine.problems.pairs.fetching import Fetching, NotFetchedError, is_public
from tests.helpers.data.pair_files import image, read

arrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra clip")
parquet = pytest.importorskip("pyarrow.parquet")

RED = image("red")
NUMBERS = list(RED)


def write(folder, images, captions, name="a.parquet", **types):
    columns = {
        "image": arrow.array(images, types.get("image")),
        "caption": arrow.array(captions, types.get("caption")),
    }
    parquet.write_table(arrow.table(columns), folder / name)


BYTES = arrow.list_(arrow.uint8())
IMAGES = {
    "binary": (RED, None),
    "large binary": (RED, arrow.large_binary()),
    "of the package datasets": ({"bytes": RED, "path": "x.png"}, None),
    "of the package datasets, without a path": ({"bytes": RED, "path": None}, None),
    "list<uint8>": (NUMBERS, BYTES),
    "list<int64>": (NUMBERS, arrow.list_(arrow.int64())),
    "fixed list<uint8>": (NUMBERS, arrow.list_(arrow.uint8(), len(NUMBERS))),
    "list in a struct": (
        {"bytes": NUMBERS},
        arrow.struct([("bytes", BYTES)]),
    ),
}


@pytest.mark.parametrize(("value", "kind"), IMAGES.values(), ids=IMAGES)
def test_images_are_read_in_every_type_that_bytes_are_written_in(value, kind, tmp_path):
    """Exports of one data set differ by the tool that wrote them."""
    write(tmp_path, [value], ["a red square"], image=kind)

    found = read(tmp_path, image_size=8)

    assert found.captions == ["a red square"]
    assert found.images[0][0].min() == 255
    assert found.images[0][1].max() == 0


CAPTIONS = {
    "text": ("one two", "one two"),
    "list, as in COCO": (["one two", "three"], "one two"),
    "list with an empty one first": (["", "three"], "three"),
    "list of sentences": ([{"raw": "one two", "tokens": 2}], "one two"),
    "with a mark of byte order": ("\ufeffone  two ", "one two"),
    "bytes": (b"one two", "one two"),
}


@pytest.mark.parametrize(("value", "expected"), CAPTIONS.values(), ids=CAPTIONS)
def test_the_first_caption_of_a_list_counts(value, expected, tmp_path, caplog):
    """COCO has five for an image; that there are others is said."""
    write(tmp_path, [RED], [value])

    assert read(tmp_path).captions == [expected]
    assert ("several captions, of which the first counts" in caplog.text) == (
        isinstance(value, list) and all(value) and len(value) > 1
    )


WRONG = {
    "no image": (None, "x", "0 bytes"),
    "an empty list": ([], "x", "0 bytes"),
    "raw pixels": ([300, 2], "x", "numbers that are no bytes"),
    "rows of pixels": ([[1, 2], [3, 4]], "x", "numbers that are no bytes"),
    "a number": (3, "x", "of the type int"),
    "no caption": (RED, None, "without a caption"),
    "no captions": (RED, [], "without a caption"),
    "a caption that is a number": (RED, 5, "a caption that is no text"),
    "cut off": (RED[:50], "x", "cannot be read"),
}


@pytest.mark.parametrize(("cell", "caption", "reason"), WRONG.values(), ids=WRONG)
def test_a_row_that_is_no_pair_is_counted(cell, caption, reason, tmp_path):
    """It is left out by number, and only as many as the recipe lets pass."""
    write(tmp_path, [cell], [caption], "a.parquet")
    write(tmp_path, [RED], ["good"], "b.parquet")

    with pytest.raises(DataError, match=f"1 of 2 pairs .*{reason}.*first a.parquet/0"):
        read(tmp_path)
    assert read(tmp_path, max_broken=0.5).names == ["b.parquet/0"]


def test_text_that_is_no_utf_8_is_counted(tmp_path):
    """Such a cell raises when it is looked at, not when the file is opened."""
    damaged = arrow.Array.from_buffers(
        arrow.string(),
        1,
        [None, arrow.py_buffer(b"\0\0\0\0\2\0\0\0"), arrow.py_buffer(b"\xe9\xe9")],
    )
    parquet.write_table(arrow.table({"image": [RED], "caption": damaged}), tmp_path / "a.parquet")

    with pytest.raises(DataError, match="a cell that is damaged"):
        read(tmp_path)


def test_columns_are_named_by_the_recipe(tmp_path):
    """A column that is missing is named beside those that are there."""
    write(tmp_path, [RED], ["x"])

    with pytest.raises(DataError, match="no column 'jpg', but image, caption"):
        read(tmp_path, image_column="jpg")


@pytest.fixture
def asked():
    """A server on this machine that notes what it is asked for, by its address."""
    paths = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            moved = self.path.startswith("/moved-to/")
            self.send_response(302 if moved else 200)
            if moved:
                self.send_header("Location", self.path.removeprefix("/moved-to/"))
            self.end_headers()
            self.wfile.write(b"" if moved else RED)

        def log_message(self, *arguments):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield paths, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    "name",
    [
        "{folder}/secret.png",
        "file://{folder}/secret.png",
        "local://{folder}/secret.png",
        "secret.png",
        "~/secret.png",
        "simplecache::{server}/x.png",
        "memory://secret.png",
        "data:image/png;base64,AAAA",
        "s3://bucket/key.png",
        "reference://x",
        "ftp://127.0.0.1/x",
    ],
)
def test_cells_that_name_files_are_never_opened(name, tmp_path, asked, monkeypatch):
    """A data set of the Internet would show files of this machine in a report that is mailed."""
    paths, server = asked
    (tmp_path / "secret.png").write_bytes(RED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    data = tmp_path / "data"
    data.mkdir()
    write(data, [name.format(folder=tmp_path, server=server)], ["x"])

    for fetch in (False, True):
        with pytest.raises(DataError, match="1 with the name of a file.*never opened"):
            read(data, fetch_images=fetch)
    assert paths == []


def test_cells_that_name_urls_are_fetched_only_if_that_is_set(tmp_path, asked, monkeypatch):
    """Whoever reads a data set does not want its author to know."""
    paths, server = asked
    write(tmp_path, [f"{server}/x.png"], ["x"])

    with pytest.raises(DataError, match="arguments.contrastive.fetch_images=true would fetch"):
        read(tmp_path)
    assert paths == []
    monkeypatch.setattr(fetching, "is_public", lambda address: True)
    assert read(tmp_path, fetch_images=True).captions == ["x"]
    assert paths == ["/x.png"]


def test_addresses_that_are_not_public_are_not_asked(asked):
    """A cloud keeps a machine's keys at an address that only the machine can reach."""
    paths, server = asked
    port = server.rsplit(":", 1)[1]
    own = ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0"]
    urls = [f"http://{host}:{port}/x" for host in own] + [f"https://127.0.0.1:{port}/x"]

    for url in urls:
        with pytest.raises(NotFetchedError, match="not public|cannot be fetched"):
            Fetching(True, "").fetch(url)
    assert paths == []


def test_an_answer_cannot_lead_to_an_address_that_is_not_public(asked, monkeypatch):
    """The first address is public, and sends on to one that is not, or to a file."""
    paths, server = asked
    looked = iter([True, False])
    monkeypatch.setattr(fetching, "is_public", lambda address: next(looked))

    with pytest.raises(NotFetchedError, match="not public"):
        Fetching(True, "").fetch(f"{server}/moved-to/{server}/x.png")
    assert len(paths) == 1
    monkeypatch.setattr(fetching, "is_public", lambda address: True)
    for other in ("file:///etc/passwd", "ftp://127.0.0.1/x"):
        with pytest.raises(NotFetchedError, match="cannot be fetched"):
            Fetching(True, "").fetch(f"{server}/moved-to/{other}")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("10.0.0.1", False),
        ("172.16.3.4", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:a00:1::", False),
        ("::10.0.0.1", False),
        ("::ffff:0:169.254.169.254", False),
        ("64:ff9b:1::a00:1", False),
        ("2001:0:53aa:64c:0:0:f5ff:fffe", False),
        ("64:ff9b::808:808", True),
    ],
)
def test_public_addresses_are_told_from_others(address, public):
    """Old addresses can be written as new ones in several ways."""
    assert is_public(address) is public


def test_an_image_that_is_too_large_is_not_fetched(asked, monkeypatch):
    """An answer without an end must not fill the memory."""
    _, server = asked
    monkeypatch.setattr(fetching, "is_public", lambda address: True)
    monkeypatch.setattr(fetching, "MAX_BYTES", 10)

    with pytest.raises(NotFetchedError, match="too large"):
        Fetching(True, "").fetch(f"{server}/x.png")


def test_a_file_that_says_that_it_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    """One image of nothing but zeros is a gigabyte in memory, and a kilobyte here."""
    monkeypatch.setattr(bounded, "BOMB_BYTES", 2**20)
    table = arrow.table({"image": [bytes(2**22)] * 2, "caption": ["a", "b"]})
    parquet.write_table(table, tmp_path / "x.parquet", compression="zstd", use_dictionary=False)

    with pytest.raises(DataError, match="unpacks to over"):
        read(tmp_path)
