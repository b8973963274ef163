"""Pairs of images and captions as the splits of a data set.

A pure function of the files and the settings, like every data set: ``DataSet.fingerprint`` says
which images, captions and token ids they were.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from engine.errors import DataError
from engine.numerics.determinism import generator
from engine.problems.classes.data_sets import load_data
from engine.problems.data.splits import DataSet, Examples
from engine.problems.data.splitting import copies
from engine.problems.pairs.captions import (
    FASHION_CLASSES,
    CaptionTokenizer,
    class_captions,
    train_tokenizer,
)
from engine.problems.pairs.found import Found, Place
from engine.problems.pairs.images import PairBatches, ShardImages, standardized
from engine.problems.pairs.shards import read_files
from engine.recipes.arguments.data import HELD_OUT, DataName, DataSettings, check_drawn
from engine.recipes.arguments.pairs import ContrastiveSettings


@dataclass(frozen=True)
class Pairs(Examples):
    """Images and the token ids of their captions, paired by position."""

    inputs: Any  # pyright: ignore[reportIncompatibleVariableOverride]
    """A tensor, or images that are read when a batch asks for them; first axis the examples."""

    labels: Int64[Tensor, "examples tokens"]
    """Token ids."""

    groups: Int64[Tensor, " examples"]
    """Pairs of one group describe the same: finding one in place of another is no mistake."""

    captions: tuple[str, ...]
    """As people read them."""

    names: tuple[str, ...] = ()
    """Where each pair comes from, e.g. its shard and key; empty where a number says it."""

    def to(self, device: torch.device) -> "Pairs":
        """Return the same pairs on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("inputs", "labels", "groups")}
        return replace(self, **moved)

    def batches(self, device: torch.device) -> Any:  # noqa: ANN401 (a tuple of tensors, or read on demand)
        """Return the pairs as a routine reads them."""
        if isinstance(self.inputs, ShardImages):
            return PairBatches(self.inputs, self.labels, device)
        return super().batches(device)

    def first(self, number: int) -> "Pairs":
        """Return the first ones."""
        return Pairs(
            self.inputs[:number],
            self.labels[:number],
            self.groups[:number],
            self.captions[:number],
            self.names[:number],
        )

    def at(self, indices: Int64[Tensor, " some"]) -> "Pairs":
        """Return some of them, in the order of the indices."""
        rows = indices.tolist()
        return Pairs(
            self.inputs[indices],
            self.labels[indices],
            self.groups[indices],
            tuple(self.captions[row] for row in rows),
            tuple(self.names[row] for row in rows if self.names),
        )


class Loaded(NamedTuple):
    """Pairs as they were read."""

    data: DataSet
    """Validation and test are left out where they are cut from the objective's pairs."""

    tokenizer: CaptionTokenizer
    """Trained on the training captions."""

    notes: tuple[str, ...] = ()
    """What people should know of them."""


def load_pairs(
    data: DataSettings,
    settings: ContrastiveSettings,
    dtype: torch.dtype,
    own: Mapping[str, str | None] = MappingProxyType({}),
) -> Loaded:
    """Read the pairs of a recipe, and train the tokenizer on the training captions.

    Args:
        data: Which pairs, and how many are drawn for each split.
        settings: How files are read.
        dtype: Number format of the images.
        own: Objective, validation and test to folders of their own, or to nothing.

    Raises:
        DataError: If the files are missing or damaged, or the splits do not fit into them.
        ConfigurationError: If a setting has no meaning beside folders of one's own.
    """
    if data.name is DataName.FASHION_CAPTIONS:
        return _fashion_captions(data, settings, dtype)
    return _image_text(data, settings, dtype, own)


def _fashion_captions(
    given: DataSettings, settings: ContrastiveSettings, dtype: torch.dtype
) -> Loaded:
    """Return Fashion-MNIST with captions of its labels; a flipped label makes a wrong one."""
    chosen = given.model_copy(update={"name": DataName.FASHION_MNIST})
    data = load_data(chosen, dtype)
    captions = {
        name: class_captions(
            examples.labels, FASHION_CLASSES, generator(chosen.seed, "captions", name)
        )
        for name, examples in data.splits.items()
    }
    tokenizer = train_tokenizer(captions["train"], settings)
    splits: dict[str, Examples] = {
        name: Pairs(
            examples.inputs, tokenizer(captions[name]), examples.labels, tuple(captions[name])
        )
        for name, examples in data.splits.items()
    }
    return Loaded(with_fingerprint(data, splits), tokenizer)


def _image_text(
    data: DataSettings,
    settings: ContrastiveSettings,
    dtype: torch.dtype,
    own: Mapping[str, str | None],
) -> Loaded:
    """Return pairs from files; held-out ones from files of their own, if there are such."""
    drawn = torch.Generator().manual_seed(data.seed)
    sources, places = _placed(data, settings, own, drawn)
    captions = {
        name: [sources[name].captions[place] for place in rows] for name, rows in places.items()
    }
    captions["train"], corrupted = exchange_captions(captions["train"], data.flip_fraction, drawn)
    tokenizer = train_tokenizer(captions["train"], settings)
    hasher = hashlib.sha256(f"{settings.image_size}\n".encode())
    splits: dict[str, Examples] = {}
    for name, rows in places.items():
        found = sources[name]
        for row in rows:
            hasher.update(found.digests[row])
        numbers = {text: number for number, text in enumerate(dict.fromkeys(captions[name]))}
        splits[name] = Pairs(
            _images(found, rows, data, settings, dtype, on_demand=name == "train"),
            tokenizer(captions[name]),
            torch.tensor([numbers[text] for text in captions[name]]),
            tuple(captions[name]),
            tuple(found.names[row] for row in rows),
        )
    ids = torch.tensor(places["train"])
    made = DataSet(splits, tokenizer.size, corrupted, hasher.hexdigest(), None, ids)
    notes = copies(
        {
            name: [sources[name].digests[r] + sources[name].captions[r].encode() for r in rows]
            for name, rows in places.items()
        }
    )
    return Loaded(with_fingerprint(made, splits), tokenizer, tuple(notes))


def _placed(
    data: DataSettings,
    settings: ContrastiveSettings,
    own: Mapping[str, str | None],
    drawn: torch.Generator,
) -> tuple[dict[str, Found], dict[str, list[int]]]:
    """Return split to the files that it is of, and to its places among their pairs."""
    assert data.url is not None  # an argument of the problem
    setting = "arguments.contrastive.target_url"
    files = {name: url for name, url in own.items() if url is not None}
    sizes = {
        name: getattr(data, f"num_{name}")
        for name in check_drawn(data, files, (setting, settings.target_url))
    }
    pool = read_files("arguments.url", data.url, settings, keep=settings.in_memory)
    train = {"train": data.num_train}
    if settings.target_url is None:
        target, wanted = pool, _filled(train | sizes, pool)
        places = cut_places(len(pool.names), wanted, "arguments.url", drawn)
    else:
        target = read_files(setting, settings.target_url, settings, keep=True)
        places = cut_places(len(pool.names), train, "arguments.url", drawn)
        places |= cut_places(len(target.names), _filled(sizes, target), setting, drawn)
    sources = {"train": pool} | dict.fromkeys(sizes, target)
    for name, url in files.items():
        sources[name] = read_files(f"arguments.{name}", url, settings, keep=True)
        places[name] = [*range(len(sources[name].names))]
    order = [name for name in ("train", *HELD_OUT) if name in places]
    return {name: sources[name] for name in order}, {name: places[name] for name in order}


def _filled(sizes: dict[str, int | None], found: Found) -> dict[str, int]:
    """Return sizes in which a test split of no size has all that is left, and at least one."""
    left = max(len(found.names) - sum(size or 0 for size in sizes.values()), 1)
    return {name: left if size is None else size for name, size in sizes.items()}


def _images(
    found: Found,
    rows: Sequence[int],
    data: DataSettings,
    settings: ContrastiveSettings,
    dtype: torch.dtype,
    *,
    on_demand: bool,
) -> Tensor | ShardImages:
    """Return images decoded, or where they lie, if they are not to be held.

    Held-out images are few and are needed whole, so they are always held.
    """
    kept = [found.images[row] for row in rows]
    pixels = [each for each in kept if not isinstance(each, Place)]
    if pixels:
        return standardized(pixels, dtype)
    images = ShardImages(
        kept,
        [found.names[row] for row in rows],
        [found.digests[row] for row in rows],
        data.url or "",
        settings.image_size,
        settings.max_pixels,
        dtype,
    )
    return images if on_demand else images[torch.arange(len(images))]


def cut_places(
    total: int, sizes: dict[str, int], setting: str, drawn: torch.Generator
) -> dict[str, list[int]]:
    """Draw disjoint splits of the given sizes from so many pairs.

    Raises:
        DataError: If there are fewer.
    """
    if sum(sizes.values()) > total:
        wanted = " + ".join(f"{size} ({name})" for name, size in sizes.items())
        settings = ", ".join(f"arguments.num_{name}" for name in sizes)
        raise DataError(
            f"The splits need {wanted} = {sum(sizes.values())} pairs, but there are only {total} "
            f"under {setting}, and splits are neither empty nor share pairs. Lower {settings}."
        )
    order = torch.randperm(total, generator=drawn)
    parts = order[: sum(sizes.values())].split(list(sizes.values()))
    return {name: part.tolist() for name, part in zip(sizes, parts, strict=True)}


def exchange_captions(
    captions: list[str], fraction: float, drawn: torch.Generator
) -> tuple[list[str], Bool[Tensor, " train"]]:
    """Give a share of the pairs the caption of another of them; say which are wrong now.

    Pairs of the share that have the same caption may get it back, and are not wrong then.
    """
    order = torch.randperm(len(captions), generator=drawn)[: round(fraction * len(captions))]
    moved = list(captions)
    for place, source in zip(order.tolist(), order.roll(1).tolist(), strict=True):
        moved[place] = captions[source]
    wrong = [new != old for new, old in zip(moved, captions, strict=True)]
    return moved, torch.tensor(wrong, dtype=torch.bool)


def with_fingerprint(data: DataSet, splits: dict[str, Examples]) -> DataSet:
    """Return a data set of pairs, its fingerprint made from that of its images and its captions."""
    hasher = hashlib.sha256(data.fingerprint.encode())
    for name, pairs in sorted(splits.items()):
        hasher.update(f"{name} {tuple(pairs.labels.shape)}\n".encode())
        hasher.update(pairs.labels.contiguous().numpy().data)
        hasher.update("\n".join(_captions(pairs)).encode())
    return replace(data, splits=splits, fingerprint=hasher.hexdigest())


def _captions(pairs: Examples) -> Sequence[str]:
    return pairs.captions if isinstance(pairs, Pairs) else ()
