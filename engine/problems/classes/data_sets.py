"""Examples: read a data set, cut it into four splits, corrupt some training labels.

Everything here is a pure function of the data files and ``DataSettings``: same inputs, same bits,
and ``DataSet.fingerprint`` says which bits they were. Order of the batches is not decided here.

Another data set is one more reader in ``READERS``: a function that returns a ``Source``.
The checks, the split, the flips and the fingerprint are the same for all.
Texts have splits of another kind, see ``engine.problems.texts.splits``.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from engine.errors import DataError
from engine.extras import load
from engine.problems.classes import cifar
from engine.problems.classes.idx import FASHION_MNIST_URL, read_idx
from engine.problems.classes.target import keep_target
from engine.problems.data.splits import DataSet, Examples, check_examples, examples_fingerprint
from engine.recipes.arguments.data import DataName, DataSettings

CIFAR_10_STATISTICS = (0.4734 * 255, 0.2516 * 255)
"""Mean and standard deviation of all pixels of the 50,000 training images, in bytes."""

FASHION_MNIST_STATISTICS = (0.2860 * 255, 0.3530 * 255)
"""Mean and standard deviation of all pixels of the 60,000 training images, in bytes."""


@dataclass(frozen=True)
class Source:
    """What a reader returns: examples as they are stored, not yet checked or split."""

    pool: tuple[Tensor, Tensor]
    """Inputs ``(pool, ...)`` and labels ``(pool,)`` that the splits are cut from."""

    num_classes: int
    """Number of classes; a label outside 0 to ``num_classes - 1`` is refused."""

    origin: str
    """Where the examples come from, in words that name the setting, for messages."""

    test: tuple[Tensor, Tensor] | None = None
    """Official test examples; None cuts the test split from the pool as well."""

    statistics: tuple[float, float] | None = None
    """Inputs become (stored - first) / second; None keeps them as stored (token ids)."""

    limits: tuple[float, float] | None = None
    """Smallest and largest value that can be stored, e.g. 0 and 255 for bytes."""


def load_data(settings: DataSettings, dtype: torch.dtype) -> DataSet:
    """Read a data set, split it and flip training labels, as a pure function of ``settings``.

    The split is drawn before the flips, and every flip before any is applied: another
    ``flip_fraction`` keeps the split, and a larger one flips the same labels and more.

    Args:
        settings: Data set, sizes of the splits, share of flipped labels, and seed.
        dtype: Number format of the inputs.

    Returns:
        The four splits on the CPU. Images have shape ``(examples, channels, height, width)``.

    Raises:
        DataError: If the files are missing or damaged, the examples do not fit together, or the
            splits do not fit into the data set.
    """
    if settings.checksum is not None and settings.name is not DataName.CIFAR_10:
        raise DataError(
            f"arguments.checksum is {settings.checksum}, but {settings.name.value} comes as no "
            "archive that could have one. Leave it empty."
        )
    source = READERS[settings.name](settings)
    check_examples(*source.pool, num_classes=source.num_classes, origin=source.origin)
    if source.test is not None:
        check_examples(*source.test, num_classes=source.num_classes, origin=source.origin)

    generator = torch.Generator().manual_seed(settings.seed)
    with torch.device("cpu"):  # a notebook may have made another device the default
        stored = _split(source, settings, generator)
        labels, corrupted = _flip_labels(
            stored["train"][1], settings.flip_fraction, source.num_classes, generator
        )
    keep_target(stored, settings)
    inputs, true_labels, ids = stored["train"]
    stored["train"] = (inputs, labels, ids)
    splits = {
        name: Examples(_standardize(inputs, source.statistics, dtype), labels)
        for name, (inputs, labels, _) in stored.items()
    }
    bounds = None
    if source.limits is not None:
        shift, scale = source.statistics or (0.0, 1.0)
        low, high = source.limits
        bounds = ((low - shift) / scale, (high - shift) / scale)
    return DataSet(
        splits,
        source.num_classes,
        corrupted,
        examples_fingerprint(splits),
        bounds,
        ids,
        # Without a flip every label is taken to be true, and there is nothing to say of it.
        true_labels=true_labels if corrupted.any() else None,
    )


def _split(
    source: Source, settings: DataSettings, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Draw the splits; an official test set is capped, otherwise test is cut like the others."""
    sizes = {
        "train": settings.num_train,
        "objective": settings.num_objective,
        "validation": settings.num_validation,
    }
    if source.test is None:
        num_left = len(source.pool[1]) - sum(sizes.values())
        # At least one, so that an empty test split is refused with the sizes that made it so.
        sizes["test"] = max(num_left, 1) if settings.num_test is None else settings.num_test
        return _cut(source.pool, sizes, settings, generator)
    num_test = len(source.test[1]) if settings.num_test is None else settings.num_test
    splits = _cut(source.pool, sizes, settings, generator)
    return splits | _cut(source.test, {"test": num_test}, settings, generator)


def _cut(
    examples: tuple[Tensor, Tensor],
    sizes: dict[str, int],
    settings: DataSettings,
    generator: torch.Generator,
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Draw disjoint splits of the given sizes, with the positions that they were drawn from."""
    inputs, labels = examples
    num_wanted = sum(sizes.values())
    if num_wanted > len(labels):
        wanted = " + ".join(f"{size} ({name})" for name, size in sizes.items())
        too_many = ", ".join(f"arguments.num_{name}" for name in sizes)
        raise DataError(
            f"The splits need {wanted} = {num_wanted} examples, but {settings.name.value} has only "
            f"{len(labels)} to cut them from, and splits are neither empty nor share examples. "
            f"Lower {too_many}."
        )
    order = torch.randperm(len(labels), generator=generator)
    parts = order[:num_wanted].split(list(sizes.values()))
    return {
        name: (inputs[part], labels[part].long(), part)
        for name, part in zip(sizes, parts, strict=True)
    }


def _flip_labels(
    labels: Int64[Tensor, " train"], fraction: float, num_classes: int, generator: torch.Generator
) -> tuple[Int64[Tensor, " train"], Bool[Tensor, " train"]]:
    """Replace round(fraction * train) labels by a uniformly drawn other class."""
    order = torch.randperm(len(labels), generator=generator)
    # An offset of 1 to C - 1 modulo C is uniform on the other classes and never the same one.
    offsets = torch.randint(1, num_classes, (len(labels),), generator=generator)
    corrupted = torch.zeros(len(labels), dtype=torch.bool)
    corrupted[order[: round(fraction * len(labels))]] = True
    return torch.where(corrupted, (labels + offsets) % num_classes, labels), corrupted


def _standardize(
    stored: Tensor, statistics: tuple[float, float] | None, dtype: torch.dtype
) -> Tensor:
    if statistics is None:
        return stored
    shift, scale = statistics
    return (stored.to(dtype) - shift) / scale


def _read_digits(settings: DataSettings) -> Source:
    """Return scikit-learn's bundled 1797 images of 8x8 pixels, scaled to [0, 1]."""
    if settings.url is not None:
        raise DataError(
            f"arguments.url is {settings.url}, but the digits come with scikit-learn and no file "
            "is read for them. Leave arguments.url empty, or choose another problem."
        )
    pixels, labels = _stored_digits()
    images = pixels.reshape(-1, 1, 8, 8)  # values 0 to 16
    return Source((images, labels), 10, "scikit-learn's digits", None, (0.0, 16.0), (0.0, 16.0))


def _stored_digits() -> tuple[Tensor, Tensor]:
    """Return the pixels (1797, 64) in float64 and the labels, as ``load_digits`` does.

    From scikit-learn's file where it lies in the known place: importing ``sklearn.datasets`` takes
    two seconds of CPU, in each process that computes a stage.
    """
    package = importlib.util.find_spec("sklearn")
    folders = package.submodule_search_locations if package is not None else None
    for folder in folders or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            rows = torch.from_numpy(np.loadtxt(file, delimiter=","))
            return rows[:, :-1].contiguous(), rows[:, -1].long()
    data_sets = load("sklearn.datasets", "The problem digits")
    pixels, labels = data_sets.load_digits(return_X_y=True)
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def _read_fashion_mnist(settings: DataSettings) -> Source:
    """Return Fashion-MNIST, 60,000 + 10,000 images of 28x28 pixels, standardized.

    References:
        Xiao et al. 2017, arXiv:1708.07747.
    """
    url = FASHION_MNIST_URL if settings.url is None else settings.url
    parts = []
    for stem in ("train", "t10k"):
        images = read_idx(url, f"{stem}-images-idx3-ubyte", (28, 28))
        labels = read_idx(url, f"{stem}-labels-idx1-ubyte", ())
        parts.append((images.unsqueeze(1), labels.long()))
    pool, test = parts
    origin = f"the Fashion-MNIST files under arguments.url={url}"
    return Source(pool, 10, origin, test, FASHION_MNIST_STATISTICS, (0.0, 255.0))


def _read_cifar_10(settings: DataSettings) -> Source:
    """Return CIFAR-10, 50,000 + 10,000 colour images of 32x32 pixels, standardized."""
    url = cifar.URL if settings.url is None else settings.url
    pool, test = cifar.read_archive(url, settings.checksum or cifar.CHECKSUM)
    return Source(
        pool,
        10,
        f"the CIFAR-10 archive arguments.url={url}",
        test,
        CIFAR_10_STATISTICS,
        (0.0, 255.0),
    )


READERS: dict[DataName, Callable[[DataSettings], Source]] = {
    DataName.DIGITS: _read_digits,
    DataName.FASHION_MNIST: _read_fashion_mnist,
    DataName.CIFAR_10: _read_cifar_10,
}
"""How each data set is read."""
