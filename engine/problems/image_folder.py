"""A folder of pictures with a subfolder for each class, as a problem."""

import unicodedata
from collections.abc import Callable
from typing import Any

import torch

from engine.errors import DataError
from engine.models.losses import per_example_cross_entropy
from engine.numerics.determinism import generator
from engine.problems.base import Problem
from engine.problems.data.held_out import notes_of_single_classes
from engine.problems.data.splits import Examples
from engine.problems.pairs.images import BOUNDS, standardized
from engine.problems.pairs.pictures import (
    MAX_BYTES,
    UnusableError,
    read_picture,
    shown_picture,
    why_unusable,
)
from engine.problems.scores import class_scores
from engine.problems.tables.alike import looking_alike
from engine.problems.user_models import model_maker
from engine.recipes.arguments.model import ModelSettings
from engine.storage.listing import list_data, relative_paths
from engine.storage.reading import data_errors, open_data, read_data, with_place

_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_SHOWN = 5
"""Files that were left out, by name in a sentence."""

_NO_PICTURES = "files are hidden or no pictures in a subfolder, and were left out"
_UNREADABLE = "pipes, devices or links that lead to no file or back were left out"
_EMPTY = "folders are empty, so there is no class of their name"
_ANIMATED = "pictures are animated, and their first frame counts"
"""What is told of files, each after its number and before the names."""

_SPLITS = frozenset(
    (
        *("train", "training", "trainset", "val", "valid", "validation", "dev", "eval"),
        *("test", "testing", "testset", "holdout", "held_out"),
    )
)
"""Names of splits, which people put beside one another."""


def image_folder_problem(
    folders: dict[str, str | None],
    size: int,
    held_out: float,
    max_pixels: int,
    seed: int,
    model: ModelSettings | str,
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
    left_out: dict[str, list[str]] = {}
    files = {
        name: _classes(url, name, max_pixels, left_out)
        for name, url in folders.items()
        if url is not None
    }
    classes = _checked_classes(files["train"], train)
    rows = {name: _rows(found, classes, name) for name, found in files.items()}
    if "objective" not in rows:
        single = notes_of_single_classes(
            [path.split("/")[0] for path, _ in rows["train"]], f"The folder {train}"
        )
        rows["train"], rows["objective"] = _hold_out(rows["train"], held_out, seed, train)
    else:
        single = []
    homes = {name: folders.get(name) or train for name in rows}
    splits = {
        name: _read(homes[name], each, size, max_pixels, left_out) for name, each in rows.items()
    }
    names = {name: [path for path, _ in each] for name, each in rows.items()}
    return Problem(
        model=model_maker(model, (3, size, size), len(classes)),
        loss=per_example_cross_entropy,
        **dict[str, Any](splits),
        num_classes=len(classes),
        classes=classes,
        notes=(*_omissions(left_out), *single, *_notes_of_subfolders(files["train"])),
        bounds=BOUNDS,
        score=class_scores,
        **_parts_by_name(homes, names),
    )


def _checked_classes(found: dict[str, list[str]], url: str) -> list[str]:
    """Return the classes of the training pictures, in order.

    Raises:
        DataError: If there are fewer than two, or two look the same, or they are splits.
    """
    classes = sorted(found)
    if len(classes) < 2:
        raise DataError(
            f"{url} has {len(classes)} subfolders with pictures ({', '.join(classes) or 'none'}), "
            "but each class is a subfolder, and a problem needs at least two classes. Put the "
            "pictures into one subfolder for each class."
        )
    _refuse_alike(classes, url)
    _refuse_splits(classes, url)
    return classes


def _parts_by_name(homes: dict[str, str], names: dict[str, list[str]]) -> dict[str, Any]:
    """Return the parts of a problem that say what its pictures are called, and show them.

    Args:
        homes: Split to the folder of its pictures.
        names: Split to the paths of its pictures in that folder.
    """
    show = {name: _picture_opener(homes[name], each) for name, each in names.items()}
    return {
        "names": names["train"],
        "groups": {"class": [path.partition("/")[0] for path in names["train"]]},
        "show": show["train"],
        "held_out_names": {name: each for name, each in names.items() if name != "train"},
        "show_held_out": lambda split, place: show[split](place),
    }


def _classes(
    url: str, name: str, max_pixels: int, left_out: dict[str, list[str]]
) -> dict[str, list[str]]:
    """Return the pictures of each class, by their paths in the folder; note what is none.

    What a file is, is seen by its content; one that is called a picture has to be one.
    """
    what = f"The folder {url} of the {name} pictures"
    open_data(what, url)
    with data_errors(what, with_place(url, "Correct the path.")):
        data = list_data(url)
    root = f"{open_data(what, url)[1].rstrip('/')}/"
    for reason, places in ((_UNREADABLE, data.others), (_EMPTY, data.empty)):
        left_out.setdefault(reason, []).extend(each.removeprefix(root) for each in places)
    found: dict[str, list[str]] = {}
    for path, file in sorted(relative_paths(url, data.files).items()):
        parent, _, last = path.partition("/")
        hidden = any(part.startswith(".") for part in path.split("/"))  # of a file manager
        # What lies elsewhere is only opened where it is called a picture.
        maybe = file.path not in data.linked and file.bytes <= MAX_BYTES
        if (
            last
            and not hidden
            and (path.lower().endswith(_ENDINGS) or (maybe and _is_picture(url, path, max_pixels)))
        ):
            found.setdefault(parent, []).append(path)
        else:
            left_out.setdefault(_NO_PICTURES, []).append(path)
    if not found:
        raise DataError(
            f"{url} has no pictures in subfolders. Name a folder with one subfolder for each "
            f"class, with files that end in {', '.join(_ENDINGS[:3])} or the like."
        )
    return found


def _omissions(left_out: dict[str, list[str]]) -> tuple[str, ...]:
    """Say what was left out, each kind with its number and the first names."""
    return tuple(
        f"{len(paths)} {reason}: {', '.join(paths[:_SHOWN])}{', ...' * (len(paths) > _SHOWN)}."
        for reason, paths in left_out.items()
        if paths
    )


def _is_picture(url: str, path: str, max_pixels: int) -> bool:
    try:
        read_picture(_content(url, path), 1, max_pixels)
    except UnusableError:
        return False
    return True


def _refuse_splits(classes: list[str], url: str) -> None:
    """Refuse a folder whose subfolders are splits: each of them would be a class.

    A single one may be a class: there are pictures of trains.
    """
    found = [name for name in classes if name.lower() in _SPLITS]
    if len(found) > 1:
        raise DataError(
            f"The subfolders {', '.join(found)} of {url} are called as splits are, and each would "
            "be a class. Name one of them as the folder of the training pictures, and others for "
            "objective, validation and test."
        )


def _notes_of_subfolders(found: dict[str, list[str]]) -> tuple[str, ...]:
    """Say that what may be classes lies deeper: the same subfolders in each of them."""
    inner = {
        frozenset(path.split("/")[1] if path.count("/") > 1 else "" for path in paths)
        for paths in found.values()
    }
    names = next(iter(inner))
    if len(inner) > 1 or len(names) < 2:
        return ()
    return (
        f"Every class has pictures in the same subfolders ({', '.join(sorted(names)[:_SHOWN])}), "
        "which are not told apart: a class is a subfolder of the folder that is named.",
    )


def _refuse_alike(classes: list[str], url: str) -> None:
    """Refuse two classes whose names nobody can tell apart."""
    found = looking_alike(classes)
    if found is not None:
        raise DataError(
            f"{url} has the subfolders {ascii(found[0])} and {ascii(found[1])}, which look the "
            "same, by a space at an end or another form of Unicode, so they would be two classes. "
            "Move the pictures into one of them."
        )


def _rows(found: dict[str, list[str]], classes: list[str], name: str) -> list[tuple[str, int]]:
    # A name with an accent is written in one way by macOS and in another elsewhere.
    places = {unicodedata.normalize("NFC", each): place for place, each in enumerate(classes)}
    own = {each: places.get(unicodedata.normalize("NFC", each)) for each in found}
    strange = sorted(each for each, place in own.items() if place is None)
    if strange:
        raise DataError(
            f"The {name} pictures have a subfolder {strange[0]!r}, which the training pictures do "
            f"not have: {', '.join(classes)}. Use the same names."
        )
    rows = [
        (path, place) for each, place in own.items() if place is not None for path in found[each]
    ]
    return sorted(rows, key=lambda row: row[1])


def _hold_out(
    rows: list[tuple[str, int]], share: float, seed: int, url: str
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Hold out a share of the pictures of every class, drawn by the seed; a single one stays."""
    drawn = generator(seed, "held-out pictures")
    kept, held = [], []
    for label in sorted({each for _, each in rows}):
        own = [row for row in rows if row[1] == label]
        order = torch.randperm(len(own), generator=drawn).tolist()
        number = min(max(round(share * len(own)), 1), len(own) - 1)
        held += [own[place] for place in sorted(order[:number])]
        kept += [own[place] for place in sorted(order[number:])]
    if not held:
        raise DataError(
            f"Every class of {url} has one picture, of which none can be held out. Add more, or "
            "name a folder of objective pictures."
        )
    return kept, held


def _read(
    url: str,
    rows: list[tuple[str, int]],
    size: int,
    max_pixels: int,
    told: dict[str, list[str]],
) -> Examples:
    dtype = torch.get_default_dtype()
    pixels = []
    for path, _ in rows:
        try:
            picture = read_picture(_content(url, path), size, max_pixels, "arguments.max_pixels")
        except UnusableError as error:
            raise DataError(
                f"The picture {url.rstrip('/')}/{path} cannot be decoded "
                f"({why_unusable(error)}). Repair it, or take it away."
            ) from error
        if picture.animated:
            told.setdefault(_ANIMATED, []).append(path)
        pixels.append(picture.pixels)
    return Examples(standardized(pixels, dtype), torch.tensor([label for _, label in rows]))


def _content(url: str, path: str) -> bytes:
    place = f"{url.rstrip('/')}/{path}"
    return read_data(f"The picture {place}", place, "Repair or remove it.", MAX_BYTES)


def _picture_opener(url: str, names: list[str]) -> Callable[[int], Any]:
    """Return the function that opens the picture of a candidate, whole and in its own size."""

    def show(place: int) -> Any:  # noqa: ANN401 (an image of Pillow)
        return shown_picture(_content(url, names[place]))

    return show
