"""Verification of an attribution: parts of it are computed again and compared.

A segment of the training, drawn at random, is trained again and has to give the same bits. One of
the outputs that were swept, drawn too, is compared with whole trainings at other weights of the
examples. Scores that a basis spans are put together again, and those of the file are those of the
run. So what is believed of a query that was drawn rests on trainings, and of the others on the
sweep that they share with it. The sweep is not made again: it takes 1 + 2 K plain steps a step.
"""

import random
from dataclasses import dataclass

from torch import Tensor

from engine.applications.attribution.basis import basis_scores
from engine.applications.attribution.record import SCORES, AttributionRecord
from engine.applications.attribution.report import as_csv
from engine.applications.attribution.scores import query_outputs
from engine.applications.made_again.differences import (
    Reading,
    Slope,
    compare_with_trainings,
    reading,
)
from engine.applications.made_again.stages import make_again, make_training_again, read_segment
from engine.errors import CheckpointCorruptError
from engine.preflight.verdict import Check, Verdict
from engine.routine.routine import Routine
from engine.runs.certificates import Verified
from engine.stages.commits import lineage, read_input, read_rows, read_scalars
from engine.stages.metagradient_rows import metagradients_in, only_metagradient
from engine.stages.run import Run
from engine.storage.records import read_bytes
from engine.types import State


@dataclass(frozen=True)
class _Swept:
    """One of the outputs that were swept.

    Attributes:
        read: Reads it from a trained state.
        place: Its number among those that were swept.
        query: Its number among the queries; None if it is a direction of a basis.
    """

    read: Reading
    place: int
    query: int | None

    @property
    def output_phrase(self) -> str:
        """Words for the output in a report, which follow a noun."""
        if self.query is None:
            return f" of the trained parameters along direction {self.place} of the basis"
        return f" of the loss of query {self.query}"


def verify(record: AttributionRecord, store: str, seed: int) -> Verified:
    """Compute a segment of the training and a central difference of an attribution again.

    Args:
        record: Record of the finished run.
        store: fsspec URL of its store.
        seed: Chooses segment, query and direction.

    Raises:
        StoreError: If what it is compared with is missing or damaged.

    Cost:
        One segment trained, and two trainings or five.
    """
    draw, found = random.Random(seed), record.found
    end = draw.choice(lineage(store, found.final, "start"))
    run = Run(record.recipe.descent, store)
    swept = _draw(record, run, draw)
    checks = [
        make_training_again(record, store, end),
        *_spanned_again(record, store),
        _file_again(record, run),
        *_differences(record, run, swept, seed),
    ]
    return Verified(
        segment=read_segment(store, end),
        query=swept.query,
        basis_direction=swept.place if swept.query is None else None,
        checks=checks,
    )


def _draw(record: AttributionRecord, run: Run, draw: random.Random) -> _Swept:
    """Draw one of the outputs that were swept: a query, or a direction of a basis."""
    routine, queries = run.problem.routine, record.recipe.attribution.queries
    outputs = query_outputs(run.problem, queries)
    if record.found.spanned is None:
        number = draw.randrange(queries.number)
        return _Swept(reading(routine, outputs[number]), number, number)
    size = read_scalars(run.store, record.found.seed)["size"]
    place = draw.randrange(size + record.recipe.attribution.basis_checked)
    if place >= size:
        return _Swept(reading(routine, outputs[place - size]), place, place - size)
    evaluated = routine.optimizer.evaluated
    seeds = read_rows(run.store, record.found.seed, routine.device)[evaluated]
    direction = _row(seeds, place, routine.layout.size, "adjoint").double()

    def along(_: Routine, state: State) -> float:
        return float(state[evaluated].double() @ direction)

    return _Swept(along, place, None)


def _row(rows: Tensor, number: int, length: int, what: str) -> Tensor:
    """Return one of several vectors that were committed one after the other."""
    found = rows[number * length : (number + 1) * length]
    if len(found) != length:
        raise CheckpointCorruptError(
            f"The stage that should hold the {what} of output {number} has none. Continue the run "
            "with `mgd resume`, which makes it again."
        )
    return found


def _differences(record: AttributionRecord, run: Run, swept: _Swept, seed: int) -> list[Check]:
    """Compare <metagradient, v> with trainings along a random direction v of the weights."""
    value = read_input(run.store, record.found.final, "value")
    if value is None:
        raise CheckpointCorruptError(
            f"The record of run {record.run} names no weights that it was trained with."
        )
    routine = run.problem.routine.at(read_rows(run.store, value)["value"])
    ((name, z),) = routine.point().items()
    rows = metagradients_in(read_rows(run.store, record.found.gradient, routine.device))
    if name not in rows:
        raise CheckpointCorruptError(
            f"The stage that should hold the metagradient has none of {name}. Run it again."
        )
    gradient = _row(rows[name], swept.place, z.numel(), "metagradient").reshape(z.shape)
    final = read_rows(run.store, record.found.final, routine.device)
    middle = swept.read(routine, final)
    slope = Slope(routine, swept.read, {name: gradient}, middle, seed, swept.output_phrase)
    return compare_with_trainings(slope, record.recipe.training)


def _spanned_again(record: AttributionRecord, store: str) -> list[Check]:
    """Put the scores of all queries together again from those of a basis, if there is one."""
    found, recipe = record.found, record.recipe.descent
    if found.spanned is None:
        return []
    again = make_again(
        record,
        store,
        found.spanned,
        [found.seed, found.gradient],
        lambda scratch: basis_scores(Run(recipe, scratch), found.seed, found.gradient),
        name="basis-scores",
        what="The scores of all queries, put together again from those of the basis,",
    )
    return [again]


def _file_again(record: AttributionRecord, run: Run) -> Check:
    """Write the table of scores again, and compare it with the file that people read."""
    scores = only_metagradient(read_rows(run.store, record.found.own))
    number = record.recipe.attribution.num_queries
    if scores.numel() % number:
        raise CheckpointCorruptError(
            f"The stage that should hold the scores of {number} queries has {scores.numel()} "
            "numbers. Continue the run with `mgd resume`, which makes it again."
        )
    written = as_csv(scores.reshape(number, -1), run.problem).encode()
    there = read_bytes(record.url(run.store, SCORES))
    if there == written:
        cause = f"{SCORES} has the scores that the run keeps."
        return Check(name="scores-file", value=0, limit=0, verdict=Verdict.PASS, cause=cause)
    what = "is gone" if there is None else "has other numbers than those that the run keeps"
    return Check(
        name="scores-file",
        value=1,
        limit=0,
        verdict=Verdict.REFUSE,
        cause=f"{SCORES} {what}.",
        remedy="Read the scores by engine.open_run(...).scores, or delete the file and let the run "
        "go on with mgd resume, which writes it again.",
    )
