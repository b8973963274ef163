"""The examples of a problem as a data set: its splits, what is known of them, and their digest."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from engine.errors import ConfigurationError, DataError
from engine.numerics.determinism import generator
from engine.problems.base import Problem
from engine.problems.data.own_examples import (
    OwnExamples,
    ReadThrough,
    as_examples,
    read_through,
)
from engine.problems.data.splits import DataSet, Examples, check_examples, examples_fingerprint
from engine.recipes.arguments.data import HELD_OUT

_MEANING = {"validation": "the iterate is chosen", "test": "the result is judged"}

_COMPARED = 100_000
"""Most examples among which copies in two splits are looked for."""


def data_set(problem: Problem, dtype: torch.dtype) -> tuple[DataSet, tuple[str, ...]]:
    """Return a problem's examples, and what people should know of them, in sentences.

    Splits that were left out are cut from the objective's examples, evenly from every class where
    there are classes.

    Raises:
        DataError: If examples are damaged, too few, or do not belong together.
    """
    splits = {"train": as_examples("train", problem.train, dtype)}
    held_out, rows, notes = _held_out(problem, dtype)
    splits |= {name: held_out[name] for name in HELD_OUT}
    notes += problem.notes
    read: dict[str, ReadThrough] = {}
    if problem.fingerprint is None:  # what ships is known, and what is huge is not compared
        if not all(type(each) is Examples for each in splits.values()):
            few = _are_compared(splits)
            read = {name: read_through(each, by_row=few) for name, each in splits.items()}
        notes += _copies(splits, read)
    people = _people(problem, {name: len(each) for name, each in held_out.items()}, rows)
    number = len(splits["train"])
    _check_lengths(problem, number)
    num_classes = _num_classes(problem, splits)
    return (
        DataSet(
            splits=splits,
            num_classes=num_classes,
            corrupted=_corrupted(problem, splits["train"], num_classes),
            fingerprint=problem.fingerprint or _fingerprint(splits, read),
            bounds=problem.bounds,
            ids=torch.arange(number) if problem.ids is None else problem.ids,
            texts=None if problem.texts is None else problem.texts.cut(rows),
            names=tuple(str(name) for name in problem.names or ()),
            groups={name: tuple(groups) for name, groups in problem.groups.items()},
            show=problem.show,
            show_inputs=problem.show_inputs,
            classes=tuple(str(name) for name in problem.classes),
            true_labels=problem.true_labels,
            **people,
        ),
        tuple(notes),
    )


def _held_out(
    problem: Problem, dtype: torch.dtype
) -> tuple[dict[str, Examples], dict[str, list[int]], list[str]]:
    """Return the splits besides train; those that the problem lacks are cut from the objective's.

    Returns:
        Split to its examples; split to the rows of the objective's examples that it was cut from,
        if there was anything to cut; and what people should know of that.
    """
    given = {name: getattr(problem, name) for name in HELD_OUT}
    held_out = {
        name: as_examples(name, each, dtype) for name, each in given.items() if each is not None
    }
    missing = [name for name in HELD_OUT if name not in held_out]
    if not missing:
        return held_out, {}, []
    whole = held_out["objective"]
    rows = _cut(whole, ["objective", *missing])
    held_out |= {name: whole.at(torch.tensor(places)) for name, places in rows.items()}
    sizes = ", ".join(f"{len(held_out[name])} {name}" for name in ("objective", *missing))
    note = (
        f"The problem has no {' and no '.join(missing)} split, so its objective examples were "
        f"cut into {sizes}."
    )
    return held_out, rows, [note]


def _check_lengths(problem: Problem, number: int) -> None:
    """Refuse what is known of each training candidate if it is known of more or of fewer."""
    known = {name: getattr(problem, name) for name in ("names", "ids", "corrupted", "true_labels")}
    known |= {f"groups[{name!r}]": groups for name, groups in problem.groups.items()}
    for name, entries in known.items():
        if entries is not None and len(entries) != number:
            raise DataError(
                f"{name} of the problem has {len(entries)} entries for {number} training "
                "candidates. Give one for each, in their order."
            )


def _corrupted(problem: Problem, train: Examples, num_classes: int) -> Tensor:
    """Return which candidates are known to be wrong, also by their true labels.

    Raises:
        DataError: If true labels are given to examples without classes, or are no classes.
    """
    true = problem.true_labels
    if true is not None:
        labels = train.one_label_each
        if labels is None or not num_classes:
            raise DataError(
                "true_labels of the problem are given, but its training candidates have no class "
                "each that these could be compared with. Leave them out, and give `corrupted`."
            )
        check_examples(true, true, num_classes=num_classes, origin="true_labels of the problem")
        if problem.corrupted is None:
            return true != labels
    if problem.corrupted is not None:
        return problem.corrupted
    return torch.zeros(len(train), dtype=torch.bool)


def _fingerprint(splits: dict[str, Examples], read: dict[str, ReadThrough]) -> str:
    """Return the digest of all splits; that of plain columns is the one of shipped data sets."""
    if not read:
        return examples_fingerprint(splits)
    whole = {name: each.fingerprint for name, each in read.items()}
    return hashlib.sha256(repr(sorted(whole.items())).encode()).hexdigest()


def _num_classes(problem: Problem, splits: dict[str, Examples]) -> int:
    """Return the number of classes; 0 where there are none."""
    if problem.num_classes is not None:
        return problem.num_classes
    highest = -1
    for examples in splits.values():
        labels = None if isinstance(examples, OwnExamples) else examples.labels
        if labels is None or labels.ndim != 1 or labels.dtype.is_floating_point:
            return 0
        if int(labels.min()) < 0:  # such as -1 and 1, which are numbered by nobody
            return 0
        highest = max(highest, int(labels.max()))
    return highest + 1


def _cut(examples: Examples, names: list[str]) -> dict[str, list[int]]:
    """Cut examples into as many parts as names: half, and what is left evenly; by their places."""
    number = len(examples)
    if number < 2 * len(names):
        raise DataError(
            f"The problem has {number} objective examples, too few to cut "
            f"{' and '.join(names[1:])} from them. Give these splits, or more examples."
        )
    order = torch.randperm(number, generator=generator(0, "splits that were left out"))
    if not isinstance(examples, OwnExamples) and examples.labels.ndim == 1:
        # Sorted by class, then dealt out in turn: every part has its share of every class.
        order = order[examples.labels[order].argsort(stable=True)]
    turns = [names[0], names[1]] if len(names) == 2 else [names[0], names[1], names[0], names[2]]
    dealt: dict[str, list[int]] = {name: [] for name in names}
    for place, index in enumerate(order.tolist()):
        dealt[turns[place % len(turns)]].append(index)
    return {name: sorted(rows) for name, rows in dealt.items()}


def _people(problem: Problem, sizes: dict[str, int], rows: dict[str, list[int]]) -> dict[str, Any]:
    """Return the names and the pictures or texts of held-out examples.

    Args:
        problem: Knows it of the splits that it gave.
        sizes: Held-out split to its examples.
        rows: Splits that were cut from the objective's examples, to their places among these.

    Raises:
        DataError: If there is not one name for each.
    """
    given = {name: [str(each) for each in names] for name, names in problem.held_out_names.items()}
    whole = given.get("objective", [])
    highest = max((place for places in rows.values() for place in places), default=-1)
    if rows and whole and len(whole) != highest + 1:
        raise DataError(
            f"held_out_names['objective'] of the problem has {len(whole)} names for {highest + 1} "
            "examples. Give one for each, in their order."
        )
    if whole:
        given |= {name: [whole[place] for place in places] for name, places in rows.items()}
    for name, names in given.items():
        if name not in sizes or len(names) != sizes[name]:
            raise DataError(
                f"held_out_names[{name!r}] of the problem has {len(names)} names for "
                f"{sizes.get(name, 0)} examples. Give one for each, in their order."
            )
    show = problem.show_held_out

    def show_place(split: str, place: int) -> Any:  # noqa: ANN401 (a picture, a text or a row)
        assert show is not None  # not handed on otherwise
        return show("objective", rows[split][place]) if split in rows else show(split, place)

    return {
        "held_out_names": {name: tuple(names) for name, names in given.items()},
        "show_held_out": None if show is None else show_place,
    }


def _copies(splits: dict[str, Examples], read: dict[str, ReadThrough]) -> list[str]:
    """Say how many held-out examples are training candidates as well, where that can be seen.

    Of pairs of tensors, which were not ``read``, inputs are compared; of all others every column.
    """
    if not _are_compared(splits):
        return []
    rows: dict[str, list[bytes]] = {}
    for name, examples in splits.items():
        found = _inputs(examples) if name not in read else read[name].rows
        if found is None:
            return []
        rows[name] = found
    return copies(rows)


def copies(rows: Mapping[str, Sequence[bytes]]) -> list[str]:
    """Say how many examples of held-out splits are the same as one of another split.

    Args:
        rows: Split to what makes each of its examples the same as another; none is compared if
            there are very many.
    """
    if any(len(each) > _COMPARED for each in rows.values()):
        return []
    known = {name: set(each) for name, each in rows.items()}
    held_out = [name for name in HELD_OUT if name in rows]
    notes = []
    for name in held_out:
        shared = sum(row in known["train"] for row in rows[name])
        if shared:
            notes.append(
                f"{shared} of {len(rows[name])} {name} examples are the same as a training "
                "candidate, so their loss says little about new ones."
            )
    for one, other in combinations(held_out, 2):
        shared = sum(row in known[one] for row in rows[other])
        if shared:
            notes.append(
                f"{shared} of {len(rows[other])} {other} examples are {one} examples too, so "
                f"{_MEANING[other]} on what the run was moved or chosen by."
            )
    return notes


def _are_compared(splits: dict[str, Examples]) -> bool:
    return all(len(examples) <= _COMPARED for examples in splits.values())


def _inputs(examples: Examples) -> list[bytes] | None:
    """Return the inputs of each example; None where they are no tensor."""
    if not isinstance(examples.inputs, Tensor):
        return None
    flat = examples.inputs.reshape(len(examples), -1).double()
    return [row.tobytes() for row in flat.numpy()]


def own_groups(data: DataSet, name: str) -> Tensor:
    """Return the number of each training candidate's group, by a problem's own groups.

    Raises:
        ConfigurationError: If the problem has no such groups.
    """
    if name not in data.groups:
        known = ", ".join(["class", "cluster", *data.groups])
        raise ConfigurationError(
            f"metaparameters.groups is {name}, but the problem has no groups of that name. Use one "
            f"of {known}; or name the column in arguments.groups, of a ready problem that has that "
            f"argument; or give a problem of your own groups={{{name!r}: ...}}."
        )
    numbers = {each: place for place, each in enumerate(sorted(set(data.groups[name]), key=str))}
    return torch.tensor([numbers[each] for each in data.groups[name]])
