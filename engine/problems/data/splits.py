"""The examples of a data set, cut into splits, and what they must be like."""

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from engine.errors import DataError
from engine.problems.passage import Texts


@dataclass(frozen=True)
class Examples:
    """Inputs and their labels, paired by position; a text has a label for each of its tokens."""

    inputs: Shaped[Tensor, "examples ..."]
    labels: Shaped[Tensor, "examples ..."]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Int64[Tensor, " some"]) -> Any:  # noqa: ANN401 (as Routine.examples)
        """Return a batch, so that a routine in a notebook reads a ready problem's examples."""
        return self.at(indices).batches(indices.device)

    @property
    def one_label_each(self) -> Tensor | None:
        """The labels, if each example has one, shape (examples,); a text has one for each token."""
        return self.labels if self.labels.ndim == 1 else None

    def to(self, device: torch.device) -> "Examples":
        """Return the same examples on a device."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device))

    def batches(self, device: torch.device) -> Any:  # noqa: ANN401 (as Routine.examples)
        """Return the examples as a routine reads them."""
        return self.inputs.to(device), self.labels.to(device)

    def first(self, number: int) -> "Examples":
        """Return the first ones."""
        return replace(self, inputs=self.inputs[:number], labels=self.labels[:number])

    def at(self, indices: Int64[Tensor, " some"]) -> "Examples":
        """Return some of them, in the order of the indices."""
        return replace(self, inputs=self.inputs[indices], labels=self.labels[indices])


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

    bounds: tuple[float, float] | tuple[Tensor, Tensor] | None = None
    """Smallest and largest value that an input can have, of all elements or of each; None where
    there is no such limit."""

    ids: Int64[Tensor, " train"] | None = None
    """Position of each training candidate among the examples that the reader returned, from 0."""

    texts: Texts | None = None
    """For language models: the passages behind the examples."""

    names: tuple[str, ...] = ()
    """What people call each training candidate; empty where a number says it."""

    groups: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    """Groups of one's own: name to the group of each training candidate."""

    show: Callable[[int], Any] | None = None
    """Maps the position of a training candidate to a picture, a text or a row."""

    held_out_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Held-out split to what people call its examples; without one where a number says it."""

    show_held_out: Callable[[str, int], Any] | None = None
    """Maps a held-out split and a position in it to a picture, a text or a row."""

    show_inputs: Callable[[Tensor], Any] | None = None
    """Maps the inputs of one example, perhaps changed ones, to a picture, a text or a row."""

    classes: tuple[str, ...] = ()
    """What people call the classes, in the order of their numbers; empty where a number says it."""

    true_labels: Int64[Tensor, " train"] | None = None
    """Class that each training candidate really is of; None where only the given one is known."""

    @property
    def class_of_each(self) -> Tensor | None:
        """The given class of each training candidate; None where labels are no classes."""
        return self.splits["train"].one_label_each if self.num_classes else None

    def class_name(self, number: int) -> str:
        """Return the name of a class."""
        return self.classes[number] if self.classes else str(number)

    @property
    def numbers(self) -> list[int]:
        """What each training candidate is called where it has no name: its id, or its position."""
        return list(range(len(self.splits["train"]))) if self.ids is None else self.ids.tolist()

    def __post_init__(self) -> None:
        held_out = {name: _writable(each) for name, each in self.held_out_names.items()}
        groups = {name: _writable(each) for name, each in self.groups.items()}
        known = {"names": _writable(self.names), "classes": _writable(self.classes)}
        for name, value in {**known, "held_out_names": held_out, "groups": groups}.items():
            object.__setattr__(self, name, value)


def _writable(names: Sequence[Any]) -> tuple[Any, ...]:
    """Return names that can be written and are one line: those of files may hold any bytes."""
    return tuple(
        "".join(map(_sign, each)) if isinstance(each, str) and not each.isprintable() else each
        for each in names
    )


def _sign(letter: str) -> str:
    is_none = unicodedata.category(letter) in ("Cc", "Cs")  # controls, and halves of characters
    return letter.encode("unicode_escape").decode() if is_none else letter


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
