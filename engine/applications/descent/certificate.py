"""A certificate of a finished run: parts of it made again, and compared.

One segment, drawn at random, is trained and reversed again in an empty store, and has to give the
same bits. One central difference, from two whole trainings along a random direction, has to agree
with the metagradient of one outer step, as far as the number format and the smoothness of the run
allow.
"""

import math
import random
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from engine.applications.descent.record import RunRecord, read_run
from engine.errors import (
    CheckpointCorruptError,
    ConfigurationError,
    ReplayMismatchError,
)
from engine.numerics.determinism import deterministic, generator
from engine.numerics.environment import likely_cause, machine
from engine.numerics.fingerprint import difference
from engine.preflight.verdict import Check, CheckReport, Verdict
from engine.problems.built import build_problem
from engine.recipes.descent import DescentRecipe
from engine.recipes.names import run_name
from engine.replay.plain_training import evaluate, train
from engine.routine.routine import Routine
from engine.runs.certificates import Certificate
from engine.runs.growing import write_certified
from engine.runs.inventory import stored_run
from engine.runs.run import find_run, read_recipe
from engine.runs.stored_places import check_places
from engine.schedules.segments import Segment
from engine.stages.commits import (
    committed_folder,
    find,
    lineage,
    read_input,
    read_inputs,
    read_rows,
    read_scalars,
)
from engine.stages.keys import engine_version, run_environment
from engine.stages.metagradient_rows import metagradients_in
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.training import reverse_segment, train_segment
from engine.storage.location import copy_folder, join
from engine.storage.places import CERTIFICATE, run_folder
from engine.storage.records import understood, write_record
from engine.types import Metaparams, State

_REMEDY = "Verify where the run was made, or run it again here with another --store."


def verify_run(
    store: str, run: str, seed: int | None = None, *, trusted: bool = False
) -> Certificate:
    """Make a random segment and a central difference of a finished run again; keep a certificate.

    Args:
        store: fsspec URL of the store.
        run: Name of the run, or the beginning of it.
        seed: Chooses what is compared; drawn by default.
        trusted: Whether the places that the store's recipe names are known to be harmless.

    Raises:
        ConfigurationError: If the run has not finished, is not a descent, or names places.
        StoreError: If what it is compared with is missing or damaged.

    Cost:
        One segment trained and reversed, and two trainings.
    """
    name = find_run(store, run)
    record = _record_of(store, name)
    if not trusted:
        check_places(record.recipe, name, store)
    chosen = random.SystemRandom().randrange(2**31) if seed is None else seed
    draw = random.Random(chosen)
    known = [(each, each.gradient) for each in record.iterates if each.gradient is not None]
    if not known:
        raise CheckpointCorruptError(
            f"The record of run {name} names no metagradient. Let it go on with "
            f"`mgd resume {name}`, which writes it again."
        )
    iterate, gradient = draw.choice(known)
    reverse = draw.choice(lineage(store, gradient, "adjoint"))
    segment = read_segment(store, reverse)
    checks = [
        *_check_segment(record, store, reverse, segment),
        _check_difference(record.recipe, store, iterate.value, gradient, chosen),
    ]
    certificate = Certificate(
        run=name,
        verdict=CheckReport.of(checks).verdict,
        made=datetime.now(UTC).isoformat(),
        seed=chosen,
        outer_step=iterate.outer_step,
        segment=segment,
        checks=checks,
        environment={"engine": engine_version(), **_present(record.recipe)},
    )
    write_record(join(run_folder(store, name), CERTIFICATE), certificate.model_dump(mode="json"))
    write_certified(store, record)
    return certificate


def read_segment(store: str, reverse: Ref) -> Segment:
    """Return the steps that a stage has reversed.

    Raises:
        StoreError: If its record is missing or damaged.
    """
    given = read_inputs(store, reverse)["segment"]
    return understood(f"{store} ({reverse.stage} {reverse.key[:8]})", given, Segment)


def _present(recipe: DescentRecipe) -> dict[str, Any]:
    return {**run_environment(recipe), **machine()}


def _check_segment(record: RunRecord, store: str, reverse: Ref, segment: Segment) -> list[Check]:
    """Train and reverse a segment in a store that holds its inputs only."""
    value, start, end, adjoint = (
        read_input(store, reverse, name) for name in ("value", "start", "end", "adjoint")
    )
    if value is None or end is None or adjoint is None:
        raise CheckpointCorruptError(
            f"The record of {reverse.stage} {reverse.key[:8]} does not say what it was made from. "
            "Run the stage again."
        )
    recipe = record.recipe

    def compare(ref: Ref, inputs: list[Ref | None], make: Callable[[str], Ref]) -> Check:
        with tempfile.TemporaryDirectory(prefix="mgd-verify-") as scratch:
            for each in inputs:
                if each is not None:
                    copy_folder(committed_folder(store, each), committed_folder(scratch, each))
            try:
                return _compare(record, store, ref, scratch, make(scratch), segment)
            except ReplayMismatchError as error:
                return Check(
                    name=f"{ref.stage}-segment",
                    value=None,
                    limit=0,
                    verdict=Verdict.REFUSE,
                    cause=str(error),
                    remedy=_REMEDY,
                )

    return [
        compare(
            end, [value, start], lambda s: train_segment(Run(recipe, s), segment, value, start)
        ),
        compare(
            reverse,
            [value, start, end, adjoint],
            lambda s: reverse_segment(Run(recipe, s), segment, value, start, end, adjoint),
        ),
    ]


def _compare(
    record: RunRecord, store: str, ref: Ref, scratch: str, again: Ref, segment: Segment
) -> Check:
    steps = f"Steps {segment.start} to {segment.stop - 1}"
    verb = "trained" if ref.stage == "train" else "reversed"
    named = {"name": f"{ref.stage}-segment", "limit": 0}
    stored = find(ref.stage, ref.key, store)  # with its own digest made anew from every bit
    if stored is None:
        raise CheckpointCorruptError(
            f"What {ref.stage} {ref.key[:8]} made is damaged, so it cannot be compared. "
            "`mgd resume` makes it again."
        )
    if again.content == ref.content == stored.content:
        cause = f"{steps}, {verb} again, gave the same bits."
        return Check(**named, value=0, verdict=Verdict.PASS, cause=cause)
    before, after = read_rows(store, ref), read_rows(scratch, again)
    found = {name: difference(row, after[name]) for name, row in before.items()}
    places = [(name, each) for name, each in found.items() if each is not None]
    reason = likely_cause(record.environment, _present(record.recipe))
    if not places:
        cause = f"{steps}, {verb} again, gave the same states and other recorded numbers. {reason}"
        return Check(**named, value=1, verdict=Verdict.REFUSE, cause=cause, remedy=_REMEDY)
    name, (index, old, new) = places[0]
    return Check(
        **named,
        value=len(places),
        verdict=Verdict.REFUSE,
        cause=f"{steps}, {verb} again, gave other bits: element {index} of {name} was {old} and is "
        f"{new} now. {reason}",
        remedy=_REMEDY,
    )


def _record_of(store: str, name: str) -> RunRecord:
    """Return the record of a run that can be verified, and refuse any other."""
    recipe = read_recipe(store, name)
    ending = stored_run(store, name).ending
    if ending is not None and not ending.verifiable:
        raise ConfigurationError(
            f"Run {name} is of kind {recipe.kind}, and only parts of a descent can be made again "
            "by themselves. To verify this one, make all of it again in an empty store, by the "
            "command that its report has under How to repeat it: stages of the same bits have the "
            "same `content` in both run.json."
        )
    record = read_run(store, name)
    if run_name(record.recipe) != name:
        raise CheckpointCorruptError(
            f"The record of run {name} holds other settings than those of its recipe, so it was "
            f"changed. Let it go on with `mgd resume {name}`, which writes it again."
        )
    return record


def _check_difference(
    recipe: DescentRecipe, store: str, value: Ref, reversed_at: Ref, seed: int
) -> Check:
    """Compare <metagradient, v> with two trainings along a random direction v."""
    problem = build_problem(recipe)
    routine = problem.routine.at(read_rows(store, value)["value"])
    point = routine.point()
    rows = read_rows(store, reversed_at, routine.device)
    gradient = {name: _metagradient(rows, name, z.shape) for name, z in point.items()}
    direction = _direction(gradient, seed)
    predicted = sum(float((gradient[n].double() * direction[n].double()).sum()) for n in gradient)
    middle = _output(store, reversed_at)
    step = _distance(routine, middle, predicted)

    def value_at(shift: float) -> float:
        moved = {name: z + shift * direction[name] for name, z in point.items()}
        return float(evaluate(routine, train(routine, moved), problem.output))

    with deterministic(recipe.training.threads, tf32=recipe.training.tf32):
        above, below = value_at(step), value_at(-step)
    found = (above - below) / (2 * step)
    # Rounding: every step rounds, at random, so an output is off by about eps sqrt(T) of itself.
    # Smoothness: the slope changes by |second difference| h within the distance h; the symmetric
    # part of that cancels in a smooth run, and not in one that jumps.
    eps = torch.finfo(routine.layout.dtype).eps
    rounding = 4 * eps * math.sqrt(routine.num_steps) * max(abs(middle), 1.0) / step
    bend = abs(above - 2 * middle + below) / step
    tolerance = rounding + bend + 1e-6 * abs(predicted)
    return _judge_difference(found, predicted, tolerance, step)


def _judge_difference(found: float, predicted: float, tolerance: float, step: float) -> Check:
    size = max(abs(predicted), 1e-300)
    error = abs(found - predicted)
    named = {"name": "central-difference", "value": error / size, "limit": tolerance / size}
    shown = (
        f"Two trainings at a distance of {step:.2g} show a slope of {found:.6g}, and the "
        f"metagradient says {predicted:.6g}"
    )
    if error > tolerance:
        return Check(
            **named,
            verdict=Verdict.REFUSE,
            cause=f"{shown}: further apart than rounding and curvature explain ({tolerance:.1e}).",
            remedy="Run mgd check, which looks for the term that is cut from the derivative.",
        )
    if tolerance > 0.5 * size:
        return Check(
            **named,
            verdict=Verdict.WARN,
            cause=f"{shown}; rounding and curvature allow {tolerance:.1e}, which is too much to "
            "decide anything: the run is not smooth enough in z, or its metagradient too small.",
            remedy="Set training.dtype to float64, or arguments.model.activation to gelu.",
        )
    cause = f"{shown}, within what rounding and curvature allow ({tolerance:.1e})."
    return Check(**named, verdict=Verdict.PASS, cause=cause)


def _metagradient(rows: State, name: str, shape: torch.Size) -> Tensor:
    row = metagradients_in(rows).get(name)
    if row is None or row.numel() != shape.numel():
        raise CheckpointCorruptError(
            f"The stage that should hold the metagradient has none of {name}. Run it again."
        )
    return row.reshape(shape)


def _output(store: str, gradient: Ref) -> float:
    """Return the output that a sweep was seeded with."""
    first = lineage(store, gradient, "adjoint")[-1]
    seeded = read_input(store, first, "adjoint")
    output = None if seeded is None else read_scalars(store, seeded)["output"]
    if not isinstance(output, int | float):
        raise CheckpointCorruptError(
            f"The record of what seeded {first.stage} {first.key[:8]} has no output, but "
            f"{str(output)[:40]}. Run it again."
        )
    return float(output)


def _direction(gradient: Metaparams, seed: int) -> Metaparams:
    """Draw v of norm 1 with half of its square along the metagradient.

    A direction that is random throughout is nearly orthogonal to it where z is long, and its slope
    is then lost in rounding.
    """
    drawn = generator(seed, "verify")
    total = _norm(gradient)
    noise = {n: torch.randn(g.shape, generator=drawn).to(g) for n, g in gradient.items()}
    length = _norm(noise)
    return {
        n: (noise[n] / length + (g / total if total else 0)) / math.sqrt(2)
        for n, g in gradient.items()
    }


def _norm(tensors: Metaparams) -> Tensor:
    return torch.stack([tensor.norm() for tensor in tensors.values()]).norm()


def _distance(routine: Routine, output: float, slope: float) -> float:
    """Return h at which the outputs differ by about the cube root of the number format's eps.

    There truncation (h squared) and rounding (eps / h) are about equal for a smooth run.
    """
    eps = torch.finfo(routine.layout.dtype).eps
    change = eps ** (1 / 3) * max(abs(output), 1e-3)
    return min(max(change / max(abs(slope), 1e-12), eps ** (1 / 3)), 1.0)
