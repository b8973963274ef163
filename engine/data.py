"""Examples: read a data set, cut it into four splits, corrupt some training labels.

Everything here is a pure function of the data files and ``DataConfig``: same inputs, same bits,
and ``DataSet.fingerprint`` says which bits they were. Order of the batches is not decided here.

Another data set is one more reader in ``READERS``: a function that returns a ``Source``.
The checks, the split, the flips and the fingerprint are the same for all.
Texts have splits of another kind, see ``engine.language.data``.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from engine import cifar
from engine.config import DataConfig, DataName
from engine.errors import DataError
from engine.idx import FASHION_MNIST_URL, read_idx
from engine.language.corpora import Texts
from engine.target import keep_target

CIFAR_10_STATISTICS = (0.4734 * 255, 0.2516 * 255)
"""Mean and standard deviation of all pixels of the 50,000 training images, in bytes."""

FASHION_MNIST_STATISTICS = (0.2860 * 255, 0.3530 * 255)
"""Mean and standard deviation of all pixels of the 60,000 training images, in bytes."""


@dataclass(frozen=True)
class Examples:
    """Inputs and their labels, paired by position; a text has a label for each of its tokens."""

    inputs: Shaped[Tensor, "examples ..."]
    labels: Int64[Tensor, "examples ..."]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Examples":
        """Return the same examples on a device."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device))

    def batches(self, device: torch.device) -> Any:  # noqa: ANN401 (as Routine.examples)
        """Return the examples as a routine reads them."""
        return self.inputs.to(device), self.labels.to(device)

    def first(self, number: int) -> "Examples":
        """Return the first ones."""
        return replace(self, inputs=self.inputs[:number], labels=self.labels[:number])


@dataclass(frozen=True)
class DataSet:
    """Disjoint splits of one data set, ready for training."""

    splits: dict[str, Examples]
    """Examples of train, objective, validation and test, in this order."""

    num_classes: int
    """Labels are 0 to ``num_classes - 1`` in every split."""

    corrupted: Bool[Tensor, " train"]
    """True where the training label was replaced by another class."""

    fingerprint: str
    """SHA-256 of all bits of all splits; see ``examples_fingerprint``."""

    bounds: tuple[float, float] | None = None
    """Smallest and largest value that an input can have; None where there is no such limit."""

    ids: Int64[Tensor, " train"] | None = None
    """Position of each training candidate among the examples that the reader returned, from 0."""

    texts: Texts | None = None
    """For language models: the passages behind the examples."""


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


def load_data(config: DataConfig, dtype: torch.dtype) -> DataSet:
    """Read a data set, split it and flip training labels, as a pure function of ``config``.

    The split is drawn before the flips, and every flip before any is applied: another
    ``flip_fraction`` keeps the split, and a larger one flips the same labels and more.

    Args:
        config: Data set, sizes of the splits, share of flipped labels, and seed.
        dtype: Number format of the inputs.

    Returns:
        The four splits on the CPU. Images have shape ``(examples, channels, height, width)``.

    Raises:
        DataError: If the files are missing or damaged, the examples do not fit together, or the
            splits do not fit into the data set.
    """
    if config.checksum is not None and config.name is not DataName.CIFAR_10:
        raise DataError(
            f"data.checksum is {config.checksum}, but {config.name.value} comes as no archive that "
            "could have one. Leave it empty."
        )
    source = READERS[config.name](config)
    check_examples(*source.pool, num_classes=source.num_classes, origin=source.origin)
    if source.test is not None:
        check_examples(*source.test, num_classes=source.num_classes, origin=source.origin)

    generator = torch.Generator().manual_seed(config.seed)
    with torch.device("cpu"):  # a notebook may have made another device the default
        stored = _split(source, config, generator)
        labels, corrupted = _flip_labels(
            stored["train"][1], config.flip_fraction, source.num_classes, generator
        )
    keep_target(stored, config)
    inputs, _, ids = stored["train"]
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
    return DataSet(splits, source.num_classes, corrupted, examples_fingerprint(splits), bounds, ids)


def check_examples(
    inputs: Shaped[Tensor, "..."],
    labels: Shaped[Tensor, "..."],
    *,
    num_classes: int | None = None,
    origin: str = "the given tensors",
) -> None:
    """Refuse examples that no training can use; shipped data sets and user tensors alike.

    Args:
        inputs: First axis counts the examples.
        labels: Classes, or targets of any shape whose first axis counts the examples.
        num_classes: Labels must be whole numbers from 0 to ``num_classes - 1``; None leaves
            their range unchecked.
        origin: Where the examples come from, for the message.

    Raises:
        DataError: If there are no examples, inputs and labels differ in number, a value is NaN
            or infinite, or a label is outside its range.
    """
    num_inputs, num_labels = (len(x) if x.ndim else 0 for x in (inputs, labels))
    if num_inputs != num_labels:
        raise DataError(
            f"There are {num_inputs} inputs but {num_labels} labels in {origin}, so they cannot "
            f"be paired. Repair {origin}: each input needs one label."
        )
    if num_inputs == 0:
        raise DataError(
            f"There are no examples in {origin}, so there is nothing to train on. "
            "Give at least one example."
        )
    for name, values in (("inputs", inputs), ("labels", labels)):
        if not (values.is_floating_point() or values.is_complex()):
            continue
        is_broken = ~torch.isfinite(values).reshape(num_inputs, -1).all(dim=1)
        if is_broken.any():
            raise DataError(
                f"{int(is_broken.sum())} of {num_inputs} examples in {origin} have {name} that "
                f"are NaN or infinite, first example {int(is_broken.int().argmax())}; one of them "
                f"makes every metagradient NaN. Repair or remove these examples in {origin}."
            )
    if num_classes is not None:
        _check_label_range(labels, num_classes, origin)


def _check_label_range(labels: Tensor, num_classes: int, origin: str) -> None:
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(
            f"Labels in {origin} are {labels.dtype}, but classes are whole numbers. "
            "Convert the labels with .long()."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"Labels in {origin} run from {low} to {high}, but the {num_classes} classes are "
            f"numbered 0 to {num_classes - 1}. Repair {origin}: number the classes from 0."
        )


def examples_fingerprint(splits: Mapping[str, Examples]) -> str:
    """Return 64 hex digits that identify examples: equal only for equal bits, types and shapes.

    Args:
        splits: Examples by name; the order of the names does not count.
    """
    hasher = hashlib.sha256()
    for name, examples in sorted(splits.items()):
        for part, tensor in (("inputs", examples.inputs), ("labels", examples.labels)):
            heading = f"{name}.{part} {tensor.dtype} {tuple(tensor.shape)}\n"
            hasher.update(heading.encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            hasher.update(flat.view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def _split(
    source: Source, config: DataConfig, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Draw the splits; an official test set is capped, otherwise test is cut like the others."""
    sizes = {
        "train": config.num_train,
        "objective": config.num_objective,
        "validation": config.num_validation,
    }
    if source.test is None:
        num_left = len(source.pool[1]) - sum(sizes.values())
        # At least one, so that an empty test split is refused with the sizes that made it so.
        sizes["test"] = max(num_left, 1) if config.num_test is None else config.num_test
        return _cut(source.pool, sizes, config, generator)
    num_test = len(source.test[1]) if config.num_test is None else config.num_test
    splits = _cut(source.pool, sizes, config, generator)
    return splits | _cut(source.test, {"test": num_test}, config, generator)


def _cut(
    examples: tuple[Tensor, Tensor],
    sizes: dict[str, int],
    config: DataConfig,
    generator: torch.Generator,
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Draw disjoint splits of the given sizes, with the positions that they were drawn from."""
    inputs, labels = examples
    num_wanted = sum(sizes.values())
    if num_wanted > len(labels):
        wanted = " + ".join(f"{size} ({name})" for name, size in sizes.items())
        settings = ", ".join(f"data.num_{name}" for name in sizes)
        raise DataError(
            f"The splits need {wanted} = {num_wanted} examples, but {config.name.value} has only "
            f"{len(labels)} to cut them from, and splits are neither empty nor share examples. "
            f"Lower {settings}."
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


def _read_digits(config: DataConfig) -> Source:
    """Return scikit-learn's bundled 1797 images of 8x8 pixels, scaled to [0, 1]."""
    from sklearn.datasets import load_digits  # costs a second, so only who asks pays

    if config.url is not None:
        raise DataError(
            f"data.url is {config.url}, but the digits come with scikit-learn and no file is "
            "read for them. Leave data.url empty, or choose another data.name."
        )
    pixels, labels = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    images = pixels.reshape(-1, 1, 8, 8)  # values 0 to 16
    return Source((images, labels), 10, "scikit-learn's digits", None, (0.0, 16.0), (0.0, 16.0))


def _read_fashion_mnist(config: DataConfig) -> Source:
    """Return Fashion-MNIST, 60,000 + 10,000 images of 28x28 pixels, standardized.

    References:
        Xiao et al. 2017, arXiv:1708.07747.
    """
    url = FASHION_MNIST_URL if config.url is None else config.url
    parts = []
    for stem in ("train", "t10k"):
        images = read_idx(url, f"{stem}-images-idx3-ubyte", (28, 28))
        labels = read_idx(url, f"{stem}-labels-idx1-ubyte", ())
        parts.append((images.unsqueeze(1), labels.long()))
    pool, test = parts
    origin = f"the Fashion-MNIST files under data.url={url}"
    return Source(pool, 10, origin, test, FASHION_MNIST_STATISTICS, (0.0, 255.0))


def _read_cifar_10(config: DataConfig) -> Source:
    """Return CIFAR-10, 50,000 + 10,000 colour images of 32x32 pixels, standardized."""
    url = cifar.URL if config.url is None else config.url
    pool, test = cifar.read_archive(url, config.checksum or cifar.CHECKSUM)
    return Source(
        pool, 10, f"the CIFAR-10 archive data.url={url}", test, CIFAR_10_STATISTICS, (0.0, 255.0)
    )


READERS: dict[DataName, Callable[[DataConfig], Source]] = {
    DataName.DIGITS: _read_digits,
    DataName.FASHION_MNIST: _read_fashion_mnist,
    DataName.CIFAR_10: _read_cifar_10,
}
"""How each data set is read."""
