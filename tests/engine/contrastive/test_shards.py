"""Tar shards and Parquet files of pairs: read in order, and broken ones counted and refused."""

import io
import tarfile

import numpy as np
import pytest
import torch

from engine.contrastive.config import ContrastiveConfig
from engine.contrastive.found import Place
from engine.contrastive.images import ShardImages, standardized
from engine.contrastive.pictures import decode
from engine.contrastive.shards import read_files
from engine.errors import DataError

pillow = pytest.importorskip("PIL.Image", reason="images need the extra clip")


def image(colour, size=(12, 10), form="PNG"):
    """Bytes of an image of one colour."""
    stream = io.BytesIO()
    pillow.new("RGB", size, colour).save(stream, form)
    return stream.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def pair(key, colour="red", caption=b"a red square", form="png"):
    return [(f"{key}.{form}", image(colour, form=form.upper())), (f"{key}.txt", caption)]


def read(folder, keep=True, **settings):
    return read_files("data.url", str(folder), ContrastiveConfig(**settings), keep=keep)


def test_pairs_come_in_the_order_of_files_and_members(tmp_path):
    """Positions are what counts are about, so the order must not depend on a listing."""
    write_tar(tmp_path / "b.tar", pair("z") + pair("a/1", caption=b" two  words\n"))
    write_tar(tmp_path / "a.tar", pair("k", form="jpeg") + [("k.json", b"{}")])
    (tmp_path / "notes.md").write_text("not a shard")

    found = read(tmp_path)

    assert found.names == ["a.tar/k", "b.tar/z", "b.tar/a/1"]
    assert found.captions == ["a red square", "a red square", "two words"]


def test_images_read_on_demand_are_those_that_were_held(tmp_path):
    """12.8 million images fit into no memory; the places in the shards have to be right."""
    colours = ["red", "green", "blue", "black"]
    write_tar(tmp_path / "0.tar", [m for i, c in enumerate(colours) for m in pair(str(i), c)])
    held, placed = read(tmp_path, image_size=8), read(tmp_path, keep=False)
    assert all(isinstance(place, Place) for place in placed.images)
    digests, url = placed.digests, str(tmp_path)
    lazy = ShardImages(placed.images, placed.names, digests, url, 8, 2**20, torch.float64)

    batch = lazy[torch.tensor([2, 0])]

    expected = standardized([held.images[i] for i in (2, 0)], torch.float64)
    assert torch.equal(batch, expected)
    assert batch[0, 2].min() > 1.9  # blue
    assert len(lazy[:3]) == 3


BROKEN = {
    "caption": ([("x.png", image("red"))], "without a caption"),
    "empty caption": (pair("x", caption=b" \n"), "without a caption"),
    "image": ([("x.txt", b"words")], "without an image"),
    "two images": ([*pair("x"), ("x.jpg", image("red", form="JPEG"))], "with several images"),
    "undecodable": ([("x.png", b"no image"), ("x.txt", b"w")], "with an image that cannot be read"),
    "cut off": ([("x.png", image("red")[:40]), ("x.txt", b"w")], "image that cannot be read"),
    "encoding": (pair("x", caption=b"\xe9t\xe9"), "with a caption that is no UTF-8"),
}


@pytest.mark.parametrize(("members", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_pair_is_counted_and_refused_or_left_out(members, reason, tmp_path, caplog):
    """A pair that is silently skipped shifts every id behind it, and hides a bad download."""
    write_tar(tmp_path / "0.tar", pair("a") + members + pair("z"))

    with pytest.raises(DataError, match=f"1 of 3 pairs under data.url=.*{reason} .first 0.tar/x"):
        read(tmp_path)
    found = read(tmp_path, max_broken=0.4)

    assert found.names == ["0.tar/a", "0.tar/z"]
    assert "1 of 3 pairs" in caplog.text


REFUSED = {
    "empty shard": (lambda f: write_tar(f / "0.tar", []), "holds no image and no caption"),
    "no files": (lambda f: (f / "x.csv").write_text(""), "none of the 1 files .x.csv. is a tar"),
    "not a tar": (lambda f: (f / "0.tar").write_bytes(b"x" * 600), "is not an intact tar file"),
    "not parquet": (lambda f: (f / "0.parquet").write_bytes(b"x" * 99), "not an intact Parquet"),
}


@pytest.mark.parametrize(("write", "reason"), REFUSED.values(), ids=REFUSED)
def test_damaged_folder_is_refused_in_one_message(write, reason, tmp_path):
    """An interrupted download must not become a smaller data set."""
    write(tmp_path)

    with pytest.raises(DataError, match=reason):
        read(tmp_path)


def test_truncated_tar_is_refused(tmp_path):
    """Its last member would be an image with its lower half missing."""
    write_tar(tmp_path / "0.tar", pair("a") + pair("b"))
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[:1100])

    with pytest.raises(DataError, match="not an intact tar file"):
        read(tmp_path)


def test_folder_that_is_not_there_is_refused(tmp_path):
    """The setting is named, since a recipe has two such folders."""
    with pytest.raises(DataError, match="data.url is .*nowhere, which cannot be listed"):
        read(tmp_path / "nowhere")


def test_images_on_demand_refuse_parquet(tmp_path):
    """Rows of Parquet have no place that could be read by itself."""
    (tmp_path / "0.parquet").write_bytes(b"")

    with pytest.raises(DataError, match="contrastive.in_memory is false"):
        read(tmp_path, keep=False)


def test_image_is_its_middle_square(tmp_path):
    """A tall image keeps its proportions."""
    stored = np.zeros((8, 4, 3), dtype=np.uint8)
    stored[2:6] = 255
    stream = io.BytesIO()
    pillow.fromarray(stored).save(stream, "PNG")

    assert decode(stream.getvalue(), 8, "", 2**20).min() == 255
