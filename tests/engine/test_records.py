"""Records are there as a whole or not at all; S3 is in test_store.py."""

import math
import uuid

import pytest

from engine.errors import CheckpointCorruptError, CheckpointMissingError, ConfigurationError
from engine.location import join
from engine.records import read_record, write_bytes, write_record


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
