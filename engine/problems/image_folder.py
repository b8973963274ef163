"""A folder of pictures with a subfolder for each class, as a problem."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from engine.errors import DataError
from engine.models.losses import per_example_cross_entropy
from engine.numerics.determinism import generator
from engine.problems.base import Problem
from engine.problems.pairs.pictures import UnusableError, decode, read_picture, shown_picture
from engine.problems.splits import Examples
from engine.problems.user_models import model_maker
from engine.recipes.arguments.model import ModelConfig
from engine.routine.outputs import classification_scores
from engine.storage.listing import list_tree, relative_paths
from engine.storage.reading import data_errors, open_data, read_data

_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_SHOWN = 5
"""Files that were left out, by name in a sentence."""

_MIDDLE, _SPREAD = 127.5, 63.75
"""Bytes become (byte - middle) / spread."""


def image_folder_problem(
    folders: dict[str, str | None],
    size: int,
    held_out: float,
    max_pixels: int,
    seed: int,
    model: ModelConfig | str,
) -> Problem:
    """Return pictures in classes, and a model that tells the classes apart.

    Args:
        folders: ``train``, and ``objective``, ``validation`` and ``test`` where they have folders
            of their own, with subfolders of the same names.
        size: Height and width to which the middle square of a picture is scaled.
        held_out: Share of the pictures of ``train`` that are held out if ``objective`` has no
            folder.
        max_pixels: Most pixels of a picture; one with more is refused.
        seed: Seeds which pictures are held out.
        model: See ``engine.problems.user_models.model_maker``.

    Raises:
        DataError: If there are too few pictures, or one cannot be decoded; it is named.
    """
    train = folders["train"]
    assert train is not None  # an argument of the problem
    left_out: list[str] = []
    files = {
        name: _classes(url, name, max_pixels, left_out)
        for name, url in folders.items()
        if url is not None
    }
    classes = sorted(files["train"])
    if len(classes) < 2:
        raise DataError(
            f"{train} has {len(classes)} subfolders with pictures "
            f"({', '.join(classes) or 'none'}), "
            "but a class is a subfolder, and there are at least two. Put the pictures into one "
            "subfolder for each class."
        )
    rows = {name: _rows(found, classes, name) for name, found in files.items()}
    if "objective" not in rows:
        rows["train"], rows["objective"] = _hold_out(rows["train"], held_out, seed)
    splits = {
        name: _read(folders.get(name) or train, each, size, max_pixels)
        for name, each in rows.items()
    }
    names = {name: [path for path, _ in each] for name, each in rows.items()}
    show = {name: _shown(folders.get(name) or train, each) for name, each in names.items()}
    held_out_names = {name: each for name, each in names.items() if name != "train"}
    return Problem(
        model=model_maker(model, (3, size, size), len(classes)),
        loss=per_example_cross_entropy,
        **dict[str, Any](splits),
        num_classes=len(classes),
        classes=classes,
        names=names["train"],
        groups={"class": [path.partition("/")[0] for path in names["train"]]},
        show=show["train"],
        held_out_names=held_out_names,
        show_held_out=lambda split, place: show[split](place),
        notes=_left_out(left_out),
        bounds=(-_MIDDLE / _SPREAD, (255 - _MIDDLE) / _SPREAD),
        score=lambda model, examples, chunk: classification_scores(
            model, examples.inputs, examples.labels, chunk=chunk
        ),
    )


def _classes(url: str, name: str, max_pixels: int, left_out: list[str]) -> dict[str, list[str]]:
    """Return the pictures of each class, by their paths in the folder; note what is no picture.

    What a file is, is seen by its content; one that is called a picture has to be one.
    """
    open_data(f"The folder {url} of the {name} pictures", url)
    with data_errors(f"The folder {url} of the {name} pictures", "Correct the path."):
        paths = sorted(relative_paths(url, list_tree(url)))
    found: dict[str, list[str]] = {}
    for path in paths:
        parent, _, file = path.partition("/")
        hidden = any(part.startswith(".") for part in path.split("/"))  # of a file manager
        if (
            file
            and not hidden
            and (path.lower().endswith(_ENDINGS) or _is_picture(url, path, max_pixels))
        ):
            found.setdefault(parent, []).append(path)
        else:
            left_out.append(path)
    if not found:
        raise DataError(
            f"{url} has no pictures in subfolders. Name a folder with one subfolder for each "
            "class, "
            f"with files that end in {', '.join(_ENDINGS[:3])} or the like."
        )
    return found


def _left_out(paths: list[str]) -> tuple[str, ...]:
    if not paths:
        return ()
    shown = ", ".join(paths[:_SHOWN]) + (", ..." if len(paths) > _SHOWN else "")
    return (
        f"{len(paths)} files are hidden or no pictures in a subfolder, and were left out: {shown}.",
    )


def _is_picture(url: str, path: str, max_pixels: int) -> bool:
    try:
        read_picture(_content(url, path), 1, max_pixels)
    except UnusableError:
        return False
    return True


def _rows(found: dict[str, list[str]], classes: list[str], name: str) -> list[tuple[str, int]]:
    strange = sorted(set(found) - set(classes))
    if strange:
        raise DataError(
            f"The {name} pictures have a subfolder {strange[0]!r}, which the training pictures do "
            f"not have: {', '.join(classes)}. Use the same names."
        )
    return [(path, place) for place, each in enumerate(classes) for path in found.get(each, [])]


def _hold_out(
    rows: list[tuple[str, int]], share: float, seed: int
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Hold out a share of the pictures of every class, drawn by the seed."""
    drawn = generator(seed, "held-out pictures")
    kept, held = [], []
    for label in sorted({each for _, each in rows}):
        own = [row for row in rows if row[1] == label]
        order = torch.randperm(len(own), generator=drawn).tolist()
        number = min(max(round(share * len(own)), 1), len(own) - 1)
        if number < 1:
            raise DataError(
                f"The class of {own[0][0]} has one picture, of which none can be held out. Add "
                "more, or name a folder of objective pictures."
            )
        held += [own[place] for place in sorted(order[:number])]
        kept += [own[place] for place in sorted(order[number:])]
    return kept, held


def _read(url: str, rows: list[tuple[str, int]], size: int, max_pixels: int) -> Examples:
    dtype = torch.get_default_dtype()
    pixels = [decode(_content(url, path), size, path, max_pixels) for path, _ in rows]
    inputs = (torch.from_numpy(np.stack(pixels)).to(dtype) - _MIDDLE) / _SPREAD
    return Examples(inputs, torch.tensor([label for _, label in rows]))


def _content(url: str, path: str) -> bytes:
    place = f"{url.rstrip('/')}/{path}"
    return read_data(f"The picture {place}", place, "Repair or remove it.")


def _shown(url: str, names: list[str]) -> Callable[[int], Any]:
    """Return what opens the picture of a candidate, whole and in its own size."""

    def show(place: int) -> Any:  # noqa: ANN401 (an image of Pillow)
        return shown_picture(_content(url, names[place]))

    return show
