"""Verification of a descent: parts of it are computed again and compared.

One segment, drawn at random, is trained and reversed again in an empty store, and has to give the
same bits. One central difference, from two whole trainings along a random direction, has to agree
with the metagradient of one outer step, as far as the number format and the smoothness of the run
allow.
"""

import random

import torch
from torch import Tensor

from engine.applications.descent.record import RunRecord
from engine.applications.made_again.differences import Slope, compare_with_trainings, reading
from engine.applications.made_again.stages import (
    make_again,
    make_training_again,
    read_segment,
    untold,
    written,
)
from engine.errors import CheckpointCorruptError
from engine.preflight.verdict import Check
from engine.runs.certificates import Verified
from engine.stages.commits import lineage, read_input, read_rows, read_scalars
from engine.stages.metagradient_rows import metagradients_in
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.training import reverse_segment
from engine.types import State


def verify(record: RunRecord, store: str, seed: int) -> Verified:
    """Compute a segment and a central difference of a descent again.

    Args:
        record: Record of the finished run.
        store: fsspec URL of its store.
        seed: Chooses outer step, segment and direction.

    Raises:
        StoreError: If what it is compared with is missing or damaged.

    Cost:
        One segment trained and reversed, and two trainings or four.
    """
    draw = random.Random(seed)
    known = [(each, each.gradient) for each in record.iterates if each.gradient is not None]
    if not known:
        raise CheckpointCorruptError(
            f"The record of run {record.run} names no metagradient. Continue it with "
            f"`mgd resume {record.run}`, which writes it again."
        )
    iterate, gradient = draw.choice(known)
    reverse = draw.choice(lineage(store, gradient, "adjoint"))
    checks = [
        *_segment_again(record, store, reverse),
        *_differences(record, store, iterate.value, gradient, seed),
    ]
    segment = read_segment(store, reverse)
    return Verified(segment=segment, outer_step=iterate.outer_step, checks=checks)


def _segment_again(record: RunRecord, store: str, reverse: Ref) -> list[Check]:
    """Train and reverse a segment again."""
    value, start, end, adjoint = (
        read_input(store, reverse, name) for name in ("value", "start", "end", "adjoint")
    )
    if value is None or end is None or adjoint is None:
        raise untold(reverse)
    segment, recipe = read_segment(store, reverse), record.recipe
    reversed_again = make_again(
        record,
        store,
        reverse,
        [value, start, end, adjoint],
        lambda s: reverse_segment(Run(recipe, s), segment, value, start, end, adjoint),
        name="reverse-segment",
        what=f"{written(segment)}, reversed again,",
    )
    return [make_training_again(record, store, end), reversed_again]


def _differences(
    record: RunRecord, store: str, value: Ref, reversed_at: Ref, seed: int
) -> list[Check]:
    """Compare <metagradient, v> with two trainings along a random direction v."""
    problem = Run(record.recipe, store).problem
    routine = problem.routine.at(read_rows(store, value)["value"])
    rows = read_rows(store, reversed_at, routine.device)
    gradient = {name: _metagradient(rows, name, z.shape) for name, z in routine.point().items()}
    middle = seeded_output(store, reversed_at)
    slope = Slope(routine, reading(routine, problem.output), gradient, middle, seed)
    return compare_with_trainings(slope, record.recipe.training)


def _metagradient(rows: State, name: str, shape: torch.Size) -> Tensor:
    row = metagradients_in(rows).get(name)
    if row is None or row.numel() != shape.numel():
        raise CheckpointCorruptError(
            f"The stage that should hold the metagradient has none of {name}. Run it again."
        )
    return row.reshape(shape)


def seeded_output(store: str, gradient: Ref) -> float:
    """Return the output that a sweep was seeded with.

    Raises:
        StoreError: If its record is missing or damaged, or has none.
    """
    first = lineage(store, gradient, "adjoint")[-1]
    seeded = read_input(store, first, "adjoint")
    output = None if seeded is None else read_scalars(store, seeded)["output"]
    if not isinstance(output, int | float):
        raise CheckpointCorruptError(
            f"The record of what seeded {first.stage} {first.key[:8]} has no output, but "
            f"{str(output)[:40]}. Run it again."
        )
    return float(output)
