"""Shards of pairs of images and captions, written for a test."""

import io
import tarfile

import pytest

from engine.problems.pairs.shards import read_files
from engine.recipes.pairs import ContrastiveConfig

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
    return read_files("data.url", str(folder), ContrastiveConfig(**settings), keep=keep)


SMALL = [
    *("data.num_train=24", "data.num_objective=6", "data.num_validation=4", "data.num_test=4"),
    *("model.width=8", "model.depth=1", "model.heads=2", "model.patch_size=4"),
    *("contrastive.image_size=8", "contrastive.text_width=8", "contrastive.text_depth=1"),
    *(
        "contrastive.tokenizer=words",
        "contrastive.text_heads=2",
        "contrastive.embedding=6",
        "contrastive.target_batch=6",
    ),
    *("contrastive.vocabulary=29", "contrastive.context=6", "training.num_steps=8"),
    *("training.batch_size=6", "training.piece=4", "training.device=cpu"),
    *("metaparameters.injection_step=6", "training.dtype=float64", "training.tf32=false"),
    *("outer.probability=1", "outer.max_count=1", "replay.steps_per_segment=8"),
]
