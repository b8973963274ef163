"""The page of ``mgd compare`` as a file."""

import os
import threading
from pathlib import Path

import pytest

from engine.errors import ConfigurationError
from flows.cli import comparing


def test_page_takes_the_place_of_an_older_one(tmp_path):
    """A link stays one, and nothing is left beside it."""
    link, file = tmp_path / "link.html", tmp_path / "page.html"
    link.symlink_to(file)

    for content in ("old", "new é"):
        comparing._write(link, content)

    assert file.read_bytes() == "new é".encode()
    assert link.is_symlink()
    assert {each.name for each in tmp_path.iterdir()} == {"link.html", "page.html"}


def test_older_page_stays_on_a_disk_that_is_full(tmp_path, monkeypatch):
    """Half a page was in its place, which a browser shows."""
    file, write = tmp_path / "page.html", Path.write_bytes
    comparing._write(file, "old")

    def full(path, content):
        write(path, content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigurationError, match=r"page\.html cannot be written.*No space left"):
        comparing._write(file, "new")

    assert file.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


def test_pipe_is_written_into(tmp_path):
    """And not replaced by a file."""
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()

    comparing._write(pipe, "page")
    reader.join()

    assert found == ["page"]
    assert pipe.is_fifo()


def test_folder_that_is_not_there_is_named(tmp_path):
    """It is not made: the name may be mistyped."""
    with pytest.raises(ConfigurationError, match="cannot be written.*--page"):
        comparing._write(tmp_path / "none" / "page.html", "page")
