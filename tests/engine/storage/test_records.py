"""Records are there as a whole or not at all; S3 is in test_store.py."""

import math
import os
import uuid

import pytest

from engine.errors import CheckpointCorruptError, CheckpointMissingError, ConfigurationError
from engine.preflight.verdict import CheckReport
from engine.recipes.settings import Settings
from engine.storage import records
from engine.storage.location import join
from engine.storage.records import (
    SMALL,
    read_bytes,
    read_model,
    read_record,
    read_records,
    write_bytes,
    write_record,
)


@pytest.fixture(params=["local", "file", "memory"])
def folder(request, tmp_path):
    roots = {"local": str(tmp_path), "file": f"file://{tmp_path}", "memory": "memory://records"}
    return join(roots[request.param], uuid.uuid4().hex)


def test_record_comes_back_as_it_was_written(folder):
    """Folders are created on the way, and an older record is replaced."""
    url = join(folder, "stage", "record.json")

    write_record(url, {"old": True})
    write_record(url, {"key": "abc", "steps": [1, 2], "loss": 0.1, "none": None})

    assert read_record(url) == {"key": "abc", "steps": [1, 2], "loss": 0.1, "none": None}


def test_write_record_leaves_no_other_file(tmp_path):
    """The file that is renamed into place is gone afterwards."""
    write_record(str(tmp_path / "record.json"), {})

    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_missing_record_is_named(folder):
    """Absence has its own error, for a stage that has not run is no accident."""
    with pytest.raises(CheckpointMissingError, match=r"record\.json\. Run the stage"):
        read_record(join(folder, "record.json"))


@pytest.mark.parametrize(
    "content", [b"", b'{"key": ', b"[1, 2]", b"\xff\xfe"], ids=["empty", "cut", "list", "binary"]
)
def test_damaged_record_is_refused(content, folder):
    """Anything but a JSON object is damage."""
    url = join(folder, "record.json")
    write_bytes(url, content)

    with pytest.raises(CheckpointCorruptError, match=r"record\.json.*Delete it"):
        read_record(url)


@pytest.mark.parametrize("value", [math.nan, math.inf, object()], ids=["nan", "inf", "object"])
def test_record_without_a_json_form_is_refused(value, folder):
    """JSON has no NaN, and other readers than Python's refuse it."""
    with pytest.raises(ConfigurationError, match=r"record\.json has no JSON form"):
        write_record(join(folder, "record.json"), {"value": value})


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        b'{"a": ' + DEEP + b"}",
        b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1' + b"0" * 5000 + b"}",
        b'{"a": "\\ud800"}',
        b'{"\\uDC00": 1}',
    ],
    ids=["list", "object", "value", "nan", "infinity", "large", "digits", "half", "half-name"],
)
def test_document_that_would_break_its_reader_is_damage(content, folder):
    """Such a file of a kilobyte stopped every command of the store."""
    url = join(folder, "run.json")
    write_bytes(url, content)

    with pytest.raises(CheckpointCorruptError, match=r"run\.json"):
        read_record(url)
    assert read_records([url]) == {url: None}


def test_no_document_is_read_beyond_its_limit(folder):
    """Memory is bounded by what documents of ours may have."""
    url = join(folder, "mark.json")
    write_bytes(url, b'{"a": "' + b"x" * SMALL + b'"}')

    assert len(read_record(url)["a"]) == SMALL
    with pytest.raises(CheckpointCorruptError, match="larger than"):
        read_record(url, largest=SMALL)
    with pytest.raises(CheckpointCorruptError, match="larger than"):
        read_bytes(url, largest=SMALL)


def test_document_too_large_to_be_read_back_is_not_written(folder, monkeypatch):
    """Else a run would end with a record that no command can read."""
    monkeypatch.setattr(records, "LARGEST", 100)

    with pytest.raises(ConfigurationError, match=r"Use shorter segments"):
        write_record(join(folder, "record.json"), {"losses": list(range(100))})


def test_whole_characters_are_read_however_they_are_written(folder):
    """A pair of escapes is one character."""
    url = join(folder, "run.json")
    write_bytes(url, b'{"a": "\\ud83d\\ude00"}')

    assert read_record(url) == {"a": "\U0001f600"}


def test_validator_that_expected_another_type_makes_no_traceback(folder):
    """A validator of ours compares numbers, and a record may hold anything."""
    check = {"name": "x", "verdict": "pass", "value": "many", "limit": None, "cause": ""}
    url = join(folder, "certificate.json")
    write_record(url, {"verdict": "pass", "checks": [check]})

    with pytest.raises(CheckpointCorruptError, match=r"certificate\.json"):
        read_model(url, CheckReport)


class Document(Settings):
    """A document of this version."""

    number: int


@pytest.mark.parametrize(
    "content", [{}, {"number": "many"}, {"number": 1, "new": 2}], ids=["less", "other", "more"]
)
def test_document_of_another_version_is_named(content, folder):
    """Whoever reads the message learns that another version may read the file."""
    url = join(folder, "run.json")
    write_record(url, content)

    with pytest.raises(CheckpointCorruptError, match=r"run\.json.*another version"):
        read_model(url, Document)


@pytest.mark.parametrize("strange", ["[ab]", "st*r", "who?", "a{1,2}", "per%20cent", "a b"])
def test_path_is_a_name_and_no_pattern(strange, tmp_path):
    """A store in a folder with brackets could be run, and not be shown."""
    urls = [str(tmp_path / strange / f"{name}.json") for name in "ab"]
    for number, url in enumerate(urls):
        write_record(url, {"number": number})
    (tmp_path / "star").mkdir()

    assert read_records([*urls, str(tmp_path / strange / "c.json")]) == {
        urls[0]: {"number": 0},
        urls[1]: {"number": 1},
    }


def test_objects_are_read_by_name_and_empty_ones_are_damage(bucket):
    """An object store answers a part of an empty object with an error of its own."""
    root = f"{bucket}/{uuid.uuid4().hex}/[ab]"
    write_record(f"{root}/a.json", {"number": 1})
    write_bytes(f"{root}/empty.json", b"")

    found = read_records([f"{root}/{name}.json" for name in ("a", "empty", "absent")])

    assert found == {f"{root}/a.json": {"number": 1}, f"{root}/empty.json": None}
    assert read_bytes(f"{root}/empty.json") == b""
    with pytest.raises(CheckpointCorruptError):
        read_record(f"{root}/empty.json")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe would be waited for, for ever; a device has no end."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    urls = [str(path) for path in sorted(tmp_path.iterdir())]

    assert read_records(urls) == dict.fromkeys(urls)
    for url in urls:
        with pytest.raises(CheckpointCorruptError, match="no file"):
            read_record(url)
        with pytest.raises(CheckpointCorruptError, match="no file"):
            read_bytes(url)


def test_folder_in_the_place_of_a_file_is_named(tmp_path):
    """It can be neither read nor replaced."""
    (tmp_path / "record.json").mkdir()

    with pytest.raises(CheckpointCorruptError, match="folder"):
        read_bytes(str(tmp_path / "record.json"))


@pytest.mark.parametrize("short", ["[]", "0", "{}"], ids=["lists", "numbers", "objects"])
def test_document_of_a_few_megabytes_takes_no_gigabytes(short, folder, monkeypatch):
    """A list without anything in it has two letters, and takes 56 bytes of memory."""
    monkeypatch.setattr(records, "_MOST_VALUES", 1000)
    url = join(folder, "run.json")
    write_bytes(url, b'{"a": [' + b",".join([short.encode()] * 1001) + b"]}")
    write_bytes(join(folder, "other.json"), b'{"a": [' + b",".join([b"0"] * 900) + b"]}")

    with pytest.raises(CheckpointCorruptError, match="more than 1000 values"):
        read_record(url)
    found = read_records([url, join(folder, "other.json")])
    assert found[url] is None
    assert len(found[join(folder, "other.json")]["a"]) == 900


def test_small_documents_are_read_as_small_ones(folder):
    """Of claims and leases there are thousands, each of which could be as large as a result."""
    url = join(folder, "claim.json")
    write_record(url, {"a": "x" * SMALL})

    assert read_records([url], largest=SMALL) == {url: None}
    assert read_records([url])[url] is not None
