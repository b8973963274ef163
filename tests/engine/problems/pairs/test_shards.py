"""Tar shards and Parquet files of pairs: read in order, and broken ones counted and refused."""

import bz2
import gzip
import io
import lzma
import tarfile

import numpy as np
import pytest
import torch

from engine.errors import DataError
from engine.problems.pairs.found import Place
from engine.problems.pairs.images import ShardImages, standardized
from engine.problems.pairs.pictures import decode
from tests.helpers.data.pair_files import image, read

pillow = pytest.importorskip("PIL.Image", reason="images need the extra clip")


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def pair(key, colour="red", caption=b"a red square", form="png"):
    return [(f"{key}.{form}", image(colour, form=form.upper())), (f"{key}.txt", caption)]


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
    "two captions": ([*pair("x"), ("x.TXT", b"again")], "with several captions"),
    "empty image": ([("x.png", b""), ("x.txt", b"w")], "with an image of 0 bytes"),
    "undecodable": ([("x.png", b"no image"), ("x.txt", b"w")], "with an image that cannot be read"),
    "cut off": ([("x.png", image("red")[:40]), ("x.txt", b"w")], "image that cannot be read"),
    "encoding": (pair("x", caption=b"\xe9t\xe9"), "with a caption that is no UTF-8"),
}


@pytest.mark.parametrize(("members", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_pair_is_counted_and_refused_or_left_out(members, reason, tmp_path, caplog):
    """A pair that is silently skipped shifts every id behind it, and hides a bad download."""
    write_tar(tmp_path / "0.tar", pair("a") + members + pair("z"))

    with pytest.raises(
        DataError, match=f"1 of 3 pairs under arguments.url=.*{reason} .first 0.tar/x"
    ):
        read(tmp_path)
    found = read(tmp_path, max_broken=0.4)

    assert found.names == ["0.tar/a", "0.tar/z"]
    assert "1 of 3 pairs" in caplog.text


def packed(pack, name):
    """Write a shard, compressed, under a name."""

    def write(folder):
        write_tar(folder / "x.tar", pair("a") + pair("b"))
        content = (folder / "x.tar").read_bytes()
        (folder / "x.tar").unlink()
        (folder / name).write_bytes(pack(content))

    return write


@pytest.mark.parametrize(
    ("pack", "name"),
    [
        (gzip.compress, "0.tar.gz"),
        (gzip.compress, "0.tgz"),
        (gzip.compress, "shard"),
        (gzip.compress, "0.tar"),
        (bz2.compress, "0.tar.bz2"),
        (lzma.compress, "0.tar.xz"),
        (lambda content: content, "0.tar.gz"),
        (lambda content: content, "shard-0"),
        (lambda content: content, "0.TAR"),
    ],
)
def test_a_shard_is_read_by_its_content(pack, name, tmp_path):
    """A compressed shard beside plain ones was left out without a word."""
    packed(pack, name)(tmp_path)
    write_tar(tmp_path / "z.tar", pair("z"))

    assert read(tmp_path).names == [f"{name}/a", f"{name}/b", "z.tar/z"]


def test_a_compressed_shard_has_no_places(tmp_path):
    """An image in the middle of one cannot be read by itself."""
    packed(gzip.compress, "0.tar.gz")(tmp_path)

    with pytest.raises(DataError, match="gzip of a tar archive.*in_memory is false"):
        read(tmp_path, keep=False)


@pytest.mark.parametrize("name", ["0.tar", "0.bin"])
def test_parquet_is_read_by_its_content(name, tmp_path):
    """A name is given by people, the first bytes by the program that wrote the file."""
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra clip")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"image": [image("red")], "caption": ["r"]})
    parquet.write_table(table, tmp_path / name)

    assert read(tmp_path).captions == ["r"]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_length_and_alphabet_are_read(kind, tmp_path):
    """Each kind of tar has its own way for long names; images on demand lie behind them."""
    long = "d" * 90 + "/" + "n" * 90
    with tarfile.open(tmp_path / "0.tar", "w", format=kind) as archive:
        for name, content in [*pair(long), *pair("b\u00e4r")]:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

    held, placed = read(tmp_path), read(tmp_path, keep=False)

    assert held.names == placed.names == [f"0.tar/{long}", "0.tar/b\u00e4r"]
    arguments = placed.images, placed.names, placed.digests, str(tmp_path), 224, 2**20
    lazy = ShardImages(*arguments, torch.float64)
    assert torch.equal(lazy[torch.arange(2)], standardized(held.images, torch.float64))


def test_pairs_need_not_follow_one_another(tmp_path):
    """A plain ``tar`` of a folder has its files as the folder lists them."""
    members = pair("a") + pair("b", caption=b"second") + pair("c")
    write_tar(tmp_path / "0.tar", members[::2] + members[1::2])

    found = read(tmp_path)

    assert found.names == ["0.tar/a", "0.tar/b", "0.tar/c"]
    assert found.captions[1] == "second"


CAPTIONS = {
    "mark of byte order": "\ufeffone two".encode(),
    "UTF-16": "one two".encode("utf-16"),
    "old line ends": b"one\r\ntwo\r\n",
}


@pytest.mark.parametrize("caption", CAPTIONS.values(), ids=CAPTIONS)
def test_captions_lose_their_marks(caption, tmp_path):
    """A mark of byte order would be a token of its own, in every caption."""
    write_tar(tmp_path / "0.tar", pair("a", caption=caption))

    assert read(tmp_path).captions == ["one two"]


def test_all_that_is_left_out_is_counted_and_named(tmp_path, caplog):
    """Half a data set must not go missing without a word."""
    frames = [pillow.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    moving = [("m.gif", stream.getvalue()), ("m.txt", b"it moves")]
    beside = [
        ("._a.png", b"\0\5\26\7"),
        ("__MACOSX/a.png", b"x"),
        (".DS_Store", b"x"),
        ("a.json", b"{}"),
        ("b.json", b"{}"),
        ("README", b"x"),
        ("c.seg.png", image("red")),
    ]
    write_tar(tmp_path / "0.tar", pair("a") + beside + moving + pair("a", colour="blue"))
    with tarfile.open(tmp_path / "1.tar", "w") as archive:
        for name, content in pair("k"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("l.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "notes.md").write_text("not a shard")
    (tmp_path / "._0.tar").write_bytes(b"x")
    (tmp_path / "folder").mkdir()

    found = read(tmp_path)

    assert found.names == ["0.tar/a", "0.tar/m", "1.tar/k"]
    for words in (
        "3 hidden members, as macOS adds them, (first 0.tar/._a.png)",
        "2 members named .json (first 0.tar/a.json)",
        "1 members without an ending (first 0.tar/README)",
        "1 members named .seg.png",
        "2 further members of a pair already read (first 0.tar/a.png)",
        "1 links or devices (first 1.tar/l.png)",
        "3 files that are neither tar nor Parquet (first ._0.tar)",
        "1 animated, of which the first frame counts (first 0.tar/m)",
    ):
        assert words in caplog.text


def test_a_name_of_strange_bytes_can_be_written(tmp_path):
    """Names go into reports and tables, which are UTF-8; tar has bytes."""
    with tarfile.open(tmp_path / "0.tar", "w", encoding="latin-1") as archive:
        for name, content in pair("b\u00e4r"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

    (name,) = read(tmp_path).names

    assert name.encode().decode() == name


def test_a_picture_of_many_pixels_counts_as_broken(tmp_path):
    """A file of a few kilobytes may ask for gigabytes."""
    large = [("x.png", image("red", size=(3000, 1000))), ("x.txt", b"large")]
    write_tar(tmp_path / "0.tar", pair("a") + large)

    with pytest.raises(
        DataError, match="more pixels than arguments.contrastive.max_pixels=1000000"
    ):
        read(tmp_path, max_pixels=1000000)


def test_images_on_demand_notice_that_a_shard_was_changed(tmp_path):
    """Other images in the middle of a run would be another run."""
    write_tar(tmp_path / "0.tar", pair("a", "red") + pair("b", "green"))
    placed = read(tmp_path, keep=False)
    arguments = placed.images, placed.names, placed.digests, str(tmp_path), 8, 2**20
    lazy = ShardImages(*arguments, torch.float64)
    write_tar(tmp_path / "0.tar", pair("a", "blue") + pair("b", "green"))

    with pytest.raises(DataError, match="0.tar/a .* is not the one that was there"):
        lazy[torch.tensor([0])]
    (tmp_path / "0.tar").unlink()
    with pytest.raises(DataError, match="cannot be read .FileNotFoundError"):
        lazy[torch.tensor([1])]


REFUSED = {
    "two archives in one": (
        lambda f: (
            write_tar(f / "0.tar", pair("a")),
            (f / "0.tar").write_bytes((f / "0.tar").read_bytes() * 2),
        ),
        "more behind its end",
    ),
    "compressed and cut off": (
        packed(lambda content: gzip.compress(content)[:-40], "0.tar.gz"),
        "cut off or damaged",
    ),
    "no folder": (lambda f: (f / "folder").mkdir(), "none of the 1 files"),
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
    with pytest.raises(DataError, match="arguments.url is .*nowhere, which cannot be listed"):
        read(tmp_path / "nowhere")


def test_images_on_demand_refuse_parquet(tmp_path):
    """Rows of Parquet have no place that could be read by itself."""
    (tmp_path / "0.parquet").write_bytes(b"")

    with pytest.raises(DataError, match="arguments.contrastive.in_memory is false"):
        read(tmp_path, keep=False)


def test_image_is_its_middle_square(tmp_path):
    """A tall image keeps its proportions."""
    stored = np.zeros((8, 4, 3), dtype=np.uint8)
    stored[2:6] = 255
    stream = io.BytesIO()
    pillow.fromarray(stored).save(stream, "PNG")

    assert decode(stream.getvalue(), 8, "", 2**20).min() == 255


def test_a_folder_whose_name_is_too_long_is_refused(tmp_path):
    """The system's own error would be a traceback."""
    with pytest.raises(DataError, match="File name too long"):
        read(tmp_path / ("x" * 300))


def test_what_is_left_out_is_told_in_few_words(tmp_path, caplog):
    """Whoever makes an archive chooses its names: thousands of kinds, and names without end."""
    strange = [(f"{i}.x{i}", b"") for i in range(1000)]
    write_tar(tmp_path / "a.tar", [*pair("x"), *strange, ("a/" * 10**4 + "b.y", b"")])

    assert read(tmp_path).names == ["a.tar/x"]
    assert "of other kinds" in caplog.text
    assert len(caplog.text) < 5000
