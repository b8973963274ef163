"""Folders of data as people make them, and as somebody makes them who wants a reader to hang."""

import os

import pytest

from engine.errors import StoreError
from engine.storage.listing import list_data
from engine.storage.reading import data_errors


def names(paths, root):
    return sorted(os.path.relpath(path, root) for path in paths)


def test_links_to_folders_and_files_are_followed(tmp_path):
    """A split is often made of links into a pool."""
    pool, split = tmp_path / "pool" / "cats", tmp_path / "data"
    pool.mkdir(parents=True)
    split.mkdir()
    (pool / "1.png").write_bytes(b"x")
    (split / "cats").symlink_to(pool)
    (split / "also cats").symlink_to(pool)

    found = list_data(str(split))

    files = [each.path for each in found.files]
    assert names(files, split) == ["also cats/1.png", "cats/1.png"]
    assert found.linked == set(files)
    assert not found.others


def test_link_that_leads_back_is_named(tmp_path):
    """It would never end."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "a" / "nothing").symlink_to(tmp_path / "gone")

    found = list_data(str(tmp_path))

    assert names(found.others, tmp_path) == ["a/again", "a/nothing"]


def test_links_that_lead_to_one_folder_in_a_billion_ways_end(tmp_path):
    """Each of forty folders leads twice to the next one."""
    folders = [tmp_path / f"{number:02d}" for number in range(40)]
    for folder, following in zip(folders, folders[1:], strict=False):
        folder.mkdir()
        (folder / "x").symlink_to(following)
        (folder / "y").symlink_to(following)
    folders[-1].mkdir()
    (folders[-1] / "1.png").write_bytes(b"x")

    found = list_data(str(folders[0]))

    assert 1 <= len(found.files) <= 16
    assert found.others


def test_folders_in_one_another_end_in_a_name(tmp_path):
    """A reader would run out of calls a little further down."""
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("a", dir_fd=folder)
        inner = os.open("a", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)

    found = list_data(str(tmp_path))

    assert len(found.others) == 1
    assert not found.files


def test_a_place_that_does_not_answer_is_not_an_empty_one():
    """Who is told that a folder has no pictures looks for them in the wrong place."""
    pytest.importorskip("aiohttp")

    with pytest.raises(StoreError, match="just now"), data_errors("The folder", "Wait."):
        list_data("http://127.0.0.1:9/pictures")


def test_an_empty_place_elsewhere_is_one():
    """Object stores have no empty folders, other filesystems do."""
    import fsspec

    fsspec.filesystem("memory").mkdir("/empty-place")

    assert list_data("memory://empty-place").files == []
