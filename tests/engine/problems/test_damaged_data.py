"""Files of data, damaged at random by a seed: each is read, or refused in one message."""

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile

import numpy as np
import pytest

from engine.errors import DataError, EngineError
from engine.problems.classes import cifar
from engine.problems.classes.idx import read_idx
from engine.problems.pairs.shards import read_files
from engine.problems.texts.passages import read_passages
from engine.recipes.arguments.pairs import ContrastiveSettings
from engine.recipes.arguments.text import TextSettings
from engine.recipes.files import load_recipe
from engine.storage.content import unpacked

pillow = pytest.importorskip("PIL.Image", reason="images need the extra clip")

DAMAGES = 60
"""Of each kind of file."""


def tar(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def picture(form):
    drawn = np.random.default_rng(1).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    stream = io.BytesIO()
    pillow.fromarray(drawn).save(stream, form)
    return stream.getvalue()


def pairs():
    forms = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "tif": "TIFF", "bmp": "BMP"}
    return [
        member
        for ending, form in forms.items()
        for member in ((f"{ending}.{ending}", picture(form)), (f"{ending}.txt", b"a caption"))
    ]


def parquet():
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra clip")
    images = [content for _, content in pairs()[::2]]
    stream = io.BytesIO()
    table = arrow.table({"image": images, "caption": ["a caption"] * len(images)})
    pytest.importorskip("pyarrow.parquet").write_table(table, stream)
    return stream.getvalue()


def lines():
    rows = [{"prompt": f"question {n}", "completion": "ä" * n + "answer"} for n in range(30)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def batch(count):
    rows = np.random.default_rng(2).integers(0, 10, (count, cifar.RECORD), dtype=np.uint8)
    return rows.tobytes()


def cifar_archive():
    return gzip.compress(tar([(name, batch(2)) for name in (*cifar.TRAINING, cifar.TESTS)]), 1)


def read_text(path):
    return read_passages(str(path), "x", TextSettings(sources=("a",), target="b"))


def read_pairs(path):
    settings = ContrastiveSettings(image_size=8, max_broken=0.5)
    return read_files("arguments.url", str(path.parent), settings, keep=True)


def read_placed(path):
    settings = ContrastiveSettings(image_size=8, max_broken=0.5)
    return read_files("arguments.url", str(path.parent), settings, keep=False)


def read_images(path):
    return read_idx(str(path.parent), path.name, (5, 4))


def read_cifar(path):
    import hashlib

    content = path.read_bytes()
    return cifar.read_archive(str(path), hashlib.md5(content, usedforsecurity=False).hexdigest())


def recipe():
    return b"kind: descent\ntraining: {num_steps: 8, learning_rate: 0.01}\narguments:\n  seed: 1\n"


IDX = bytes([0, 0, 8, 3, 0, 0, 0, 6, 0, 0, 0, 5, 0, 0, 0, 4]) + bytes(range(120))

READERS = {
    "jsonl": (lines, "a.jsonl", read_text),
    "jsonl in utf-16": (lambda: lines().decode().encode("utf-16"), "a.jsonl", read_text),
    "json array": (
        lambda: json.dumps([json.loads(each) for each in lines().splitlines()]).encode(),
        "a.json",
        read_text,
    ),
    "plain text": (lambda: b"some words\nand others\n" * 20, "a.txt", read_text),
    "gzip of jsonl": (lambda: gzip.compress(lines()), "a.jsonl.gz", read_text),
    "bzip2 of jsonl": (lambda: bz2.compress(lines()), "a.jsonl.bz2", read_text),
    "xz of jsonl": (lambda: lzma.compress(lines()), "a.jsonl.xz", read_text),
    "tar": (lambda: tar(pairs()), "0.tar", read_pairs),
    "tar, images on demand": (lambda: tar(pairs()), "0.tar", read_placed),
    "gzip of tar": (lambda: gzip.compress(tar(pairs())), "0.tar.gz", read_pairs),
    "xz of tar": (lambda: lzma.compress(tar(pairs())), "0.tar.xz", read_pairs),
    "parquet": (parquet, "0.parquet", read_pairs),
    "idx": (lambda: IDX, "t-ubyte", read_images),
    "gzip of idx": (lambda: gzip.compress(IDX), "t-ubyte.gz", read_images),
    "cifar": (cifar_archive, "c.tar.gz", read_cifar),
    "recipe": (recipe, "r.yaml", lambda path: load_recipe(str(path))),
}

OTHERS = [
    b"",
    b"\0" * 2000,
    b"\xff" * 2000,
    b"PAR1" + b"\0" * 50 + b"PAR1",
    b"PK\x03\x04" + b"x" * 300,
    gzip.compress(b""),
    gzip.compress(b"x")[:12],
    gzip.compress(gzip.compress(gzip.compress(b"x"))),
    bz2.compress(b"\0" * 10**6)[:20],
    b"[" * 100_000,
    b'{"prompt": ' * 10_000,
    b"<html>Not found</html>",
    "ü".encode("latin-1") * 900,
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    picture("PNG"),
    tar([("a.txt", b"x")]),
]


def damaged(content, drawn):
    """Cut a file, flip some bits, or take out, repeat or overwrite a part of it."""
    place = drawn.randrange(max(len(content), 1))
    end = min(place + drawn.choice([1, 4, 50, 600]), len(content))
    ways = [
        content[:place],
        content[:place] + content[end:],
        content[:end] + content[place:],
        content[:place] + bytes(end - place) + content[end:],
        content[:place] + drawn.randbytes(end - place) + content[end:],
        content + drawn.randbytes(end - place),
    ]
    if drawn.random() < 0.5:
        changed = bytearray(content)
        for _ in range(drawn.choice([1, 3, 20])):
            changed[drawn.randrange(len(changed))] ^= 1 << drawn.randrange(8)
        return bytes(changed)
    return drawn.choice(ways)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_are_read_or_refused_in_one_message(kind, tmp_path):
    """A traceback, or a click of a mouse that only says "Aborted.", tells nobody which file."""
    make, name, read = READERS[kind]
    whole, path = make(), tmp_path / name
    path.write_bytes(whole)
    assert read(path) is not None
    drawn = random.Random(kind)
    refused = []
    contents = [damaged(whole, drawn) for _ in range(DAMAGES)] + OTHERS

    for content in contents:
        path.write_bytes(content)
        try:
            read(path)
        except EngineError as error:
            refused.append(str(error))

    assert len(refused) > len(contents) // 8
    assert [message for message in refused if len(message) < 40] == []


@pytest.mark.slow
def test_a_file_that_unpacks_to_far_more_than_it_is_is_refused():
    """A kilobyte that asks for gigabytes ends the process, and with it what others compute."""
    bomb = bz2.compress(b"\0" * 2**28 + b"\0" * 2**22)

    with pytest.raises(DataError, match="unpacks to more than"):
        unpacked(bomb, "the file")
    assert len(unpacked(gzip.compress(b"text " * 10**6), "the file")) == 5 * 10**6
