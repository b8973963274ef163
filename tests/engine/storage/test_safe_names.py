"""Names from a store become paths only if they stay where they are."""

import fsspec
import pytest
from pydantic import ValidationError

from engine.errors import CheckpointCorruptError
from engine.stages.references import Ref
from engine.storage.location import copy_folder, join
from engine.storage.places import stage_folder
from engine.storage.safe_names import part

BAD = ["", ".", "..", "a/b", "/etc", "a\\b", "a\x00", "\x1b[2J", "\ud800", "x" * 300, "\n"]


@pytest.mark.parametrize("name", BAD)
def test_name_that_leads_elsewhere_is_refused(name):
    """A record may name any stage; its folder is below the store all the same."""
    with pytest.raises(CheckpointCorruptError, match="is no name"):
        part(name)


@pytest.mark.parametrize("url", ["/store", "s3://bucket/store", "memory://store"])
def test_joined_places_stay_below(url):
    """One function joins, so that one place decides."""
    assert join(url, "stages", "train/x") == f"{url}/stages/train/x"
    for bad in ("../x", "a/../../x", "a//b", ".."):
        with pytest.raises(CheckpointCorruptError):
            join(url, "stages", bad)
    with pytest.raises(CheckpointCorruptError):
        stage_folder(url, "../../home", "0" * 32)


@pytest.mark.parametrize(
    "changed",
    [
        {"stage": "../train"},
        {"stage": "Train"},
        {"stage": "-"},
        {"stage": "a--b"},
        {"key": "../../../etc"},
        {"key": "A" * 32},
        {"key": "a" * 31},
        {"content": "x"},
        {"key": "a" * 32 + "\n"},
    ],
    ids=str,
)
def test_reference_has_the_form_that_stages_give_it(changed):
    """References come from records, and their parts become folders."""
    content = {"stage": "seed-queries", "key": "a" * 32, "content": "b" * 16}

    assert Ref.model_validate(content).stage == "seed-queries"
    with pytest.raises(ValidationError):
        Ref.model_validate(content | changed)


@pytest.mark.parametrize("key", ["../../home/.ssh/authorized_keys", "a/../../../x", "..", "a/.."])
def test_copied_folder_writes_nowhere_else(key, bucket, tmp_path):
    """Keys of an object store are text: two dots in one are written as they stand."""
    source = f"{bucket}/hostile-{abs(hash(key))}/stages/train/k"
    files = fsspec.filesystem("s3")
    files.pipe_file(f"{source}/a/zarr.json", b"{}")
    files.pipe_file(f"{source}/{key}", b"ssh-rsa")
    target = tmp_path / "deep" / "er" / "target"

    with pytest.raises(CheckpointCorruptError, match="another place"):
        copy_folder(source, str(target))

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_copied_folder_holds_files_only(tmp_path):
    """A link to /dev/zero would be copied until the disk is full."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "c").symlink_to("/dev/zero")

    with pytest.raises(CheckpointCorruptError, match="no file"):
        copy_folder(str(tmp_path / "store"), str(tmp_path / "target"))
