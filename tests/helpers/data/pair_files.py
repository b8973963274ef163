"""Shards of pairs of images and captions, written for a test."""

import io
import tarfile

import pytest

from engine.problems.pairs.shards import read_files
from engine.recipes.arguments.pairs import ContrastiveSettings

pillow = pytest.importorskip("PIL.Image", reason="images need the extra clip")


def shards(folder, count, colour=0):
    """One shard of squares in shades of grey, each captioned by its shade."""
    with tarfile.open(folder / "0.tar", "w") as archive:
        for number in range(count):
            stream = io.BytesIO()
            pillow.new("RGB", (8, 8), (10 * number, colour, 0)).save(stream, "PNG")
            for name, content in (
                (f"{number:03}.png", stream.getvalue()),
                (f"{number:03}.txt", f"shade {number}".encode()),
            ):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return str(folder)


def image(colour, size=(12, 10), form="PNG"):
    """Bytes of an image of one colour."""
    stream = io.BytesIO()
    pillow.new("RGB", size, colour).save(stream, form)
    return stream.getvalue()


def read(folder, keep=True, **settings):
    return read_files("arguments.url", str(folder), ContrastiveSettings(**settings), keep=keep)


SMALL = [
    *(
        "arguments.num_train=24",
        "arguments.num_objective=6",
        "arguments.num_validation=4",
        "arguments.num_test=4",
    ),
    *(
        "arguments.model.width=8",
        "arguments.model.depth=1",
        "arguments.model.heads=2",
        "arguments.model.patch_size=4",
    ),
    *(
        "arguments.contrastive.image_size=8",
        "arguments.contrastive.text_width=8",
        "arguments.contrastive.text_depth=1",
    ),
    *(
        "arguments.contrastive.tokenizer=words",
        "arguments.contrastive.text_heads=2",
        "arguments.contrastive.embedding=6",
        "arguments.contrastive.target_batch=6",
    ),
    *(
        "arguments.contrastive.vocabulary=29",
        "arguments.contrastive.context=6",
        "training.num_steps=8",
    ),
    *("training.batch_size=6", "training.piece=4", "training.device=cpu"),
    *("metaparameters.injection_step=6", "training.dtype=float64", "training.tf32=false"),
    *("outer.probability=1", "outer.max_count=1", "replay.steps_per_segment=8"),
]
