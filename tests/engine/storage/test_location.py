"""URLs are put together, opened and probed; S3 is in test_store.py, with the server it needs."""

import os
import sys
import uuid
from pathlib import Path

import pytest

from engine.errors import ConfigurationError, StoreUnavailableError
from engine.storage.location import (
    absolute,
    check_writable,
    filesystem,
    join,
    list_folders,
    remove_folder,
)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("/scratch/run", "states"), "/scratch/run/states"),
        (("/scratch/run/", "/states/", "3"), "/scratch/run/states/3"),
        (("s3://bucket", "run"), "s3://bucket/run"),
        (("memory://", "run"), "memory://run"),
        (("/", "run"), "/run"),
    ],
)
def test_join_puts_one_slash_between_parts(parts, expected):
    """``memory://`` and ``/`` keep the slashes that are their own."""
    assert join(*parts) == expected


def test_absolute_follows_the_folder_and_the_home_of_the_caller(tmp_path, monkeypatch):
    """A worker runs in another folder than the one where the path was typed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")

    assert absolute("runs/../states") == str(tmp_path / "states")
    assert absolute("~/states") == "/home/someone/states"


@pytest.mark.parametrize("url", ["s3:/bucket/folder", "file:/data", "memory:/x"])
def test_absolute_refuses_a_url_that_lacks_a_slash(url):
    """A whole run was written into a folder called s3: beside the process."""
    with pytest.raises(StoreUnavailableError, match=f"Did you mean {url.replace(':/', '://')}"):
        absolute(url)


@pytest.mark.parametrize("url", ["file://runs", "local://../runs", "file://", "file://~/runs"])
def test_absolute_refuses_a_url_of_a_file_that_depends_on_the_folder(url, tmp_path, monkeypatch):
    """A run was kept in one folder and looked for in another; by the standard it names a host."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    protocol, path = url.split("://")
    meant = absolute(path) if path else str(tmp_path)

    with pytest.raises(StoreUnavailableError, match=f"Did you mean {protocol}://{meant}?"):
        absolute(url)
    assert absolute(f"{protocol}://{meant}") == f"{protocol}://{meant}"


def test_absolute_takes_a_folder_with_a_colon(tmp_path, monkeypatch):
    """That no filesystem is called like."""
    monkeypatch.chdir(tmp_path)

    assert absolute("march:/first") == str(tmp_path / "march:" / "first")


@pytest.mark.parametrize("url", ["file:///scratch/run", "s3://bucket/~", "memory://a"])
def test_absolute_leaves_urls_alone(url):
    """A URL is resolved by its filesystem."""
    assert absolute(url) == url


def test_a_local_path_is_no_url_even_if_it_looks_like_a_chain(tmp_path):
    """For fsspec ``a::b`` is two filesystems; a folder may have that name."""
    path = str(tmp_path / "a::b #1")

    check_writable(path)

    assert filesystem(path)[1] == path


@pytest.mark.parametrize("root", ["", "file://"])
def test_list_folders_lists_neither_files_nor_grandchildren(root, tmp_path):
    """Stages are folders; records lie beside them."""
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "record.json").touch()

    assert list_folders(f"{root}{tmp_path}") == ["a", "b"]
    assert list_folders(f"{root}{tmp_path}/absent") == []
    assert list_folders(f"{root}{tmp_path}/record.json") == []


def test_remove_folder_takes_all_that_is_below(tmp_path):
    """A stage that is made anew starts from nothing; a second removal finds nothing to do."""
    (tmp_path / "run" / "states").mkdir(parents=True)
    (tmp_path / "other").mkdir()

    remove_folder(str(tmp_path / "run"))
    remove_folder(str(tmp_path / "run"))

    assert list_folders(str(tmp_path)) == ["other"]


@pytest.mark.parametrize("root", ["", "file://"])
def test_check_writable_leaves_no_folder_behind(root, tmp_path):
    """A question must not change what it asks about."""
    (tmp_path / "there").mkdir()

    check_writable(f"{root}{tmp_path}/there")
    check_writable(f"{root}{tmp_path}/absent/run/states")

    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_check_writable_leaves_nothing_in_memory():
    """The memory filesystem has folders too, and lives as long as the process."""
    name = uuid.uuid4().hex

    check_writable(f"memory://{name}/run")

    assert name not in list_folders("memory://")


def test_check_writable_refuses_a_path_through_a_file(tmp_path):
    """The error names the place, the reason and the setting to change."""
    (tmp_path / "file").touch()

    with pytest.raises(StoreUnavailableError, match=r"file/run.*(Not a dir|exists).*--store URL"):
        check_writable(str(tmp_path / "file" / "run"))
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_check_writable_refuses_a_folder_without_permission(tmp_path):
    """Found before training, not at the first checkpoint."""
    tmp_path.chmod(0o500)

    with pytest.raises(StoreUnavailableError, match="Permission"):
        check_writable(str(tmp_path / "run"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_check_writable_refuses_a_read_only_filesystem():
    """Not even root may create a file in /proc, so this runs in a container too."""
    with pytest.raises(StoreUnavailableError, match=r"/proc/.*--store URL"):
        check_writable("/proc/self/states")


def test_check_writable_refuses_an_unknown_protocol():
    """A typing error in the protocol is a configuration error."""
    with pytest.raises(ConfigurationError, match=r"s4://bucket.*s4.*--store s3://"):
        check_writable("s4://bucket/run")


def test_check_writable_names_the_extra_that_installs_a_missing_driver(monkeypatch):
    """s3fs is optional; s3a is a protocol of it that no other test has loaded."""
    monkeypatch.setitem(sys.modules, "s3fs", None)

    with pytest.raises(StoreUnavailableError, match=r"pip install .*'\.\[s3\]'"):
        check_writable("s3a://bucket/run")


@pytest.mark.timeout(30)
def test_check_writable_gives_up_soon_when_nobody_answers():
    """By default the driver would try five times with long waits."""
    pytest.importorskip("s3fs", reason="S3 needs s3fs")
    options = {"endpoint_url": "http://127.0.0.1:9", "key": "key", "secret": "secret"}

    with pytest.raises(StoreUnavailableError, match=r"s3://bucket/run.*127\.0\.0\.1:9"):
        check_writable("s3://bucket/run", options)


@pytest.mark.parametrize(
    "chain", ["simplecache::file://", "filecache::file://", "blockcache::file://"]
)
def test_store_behind_a_cache_is_refused(chain, tmp_path):
    """A lease that was read once would be read for ever, whoever had renewed it."""
    with pytest.raises(StoreUnavailableError, match="it chains filesystems"):
        check_writable(f"{chain}{tmp_path}/store")
    assert not (tmp_path / "store").exists()
