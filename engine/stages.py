"""The stages of a metagradient descent: named, content-addressed, verified units of work.

A stage reads what other stages committed and commits its own result under a key that is a digest
of everything that shapes it. Same key, same bits: a stage that finds its result committed and
intact does nothing. Between stages travel ``Ref``s, never tensors.

Layout: ``<store>/stages/<stage>/<key>/`` holds the rows, and ``record.json``, written last, which
commits the stage.
"""

import logging
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checks import check_routine
from engine.claims import run_name
from engine.config import DescentRecipe, Settings, digest
from engine.determinism import deterministic, environment
from engine.errors import CheckpointMissingError, StoreError
from engine.fingerprint import state_fingerprint
from engine.location import check_writable, join, remove_folder
from engine.metagradients import make_plan
from engine.outer import make_outer
from engine.outputs import classification_scores
from engine.problem import SPLITS, Problem, build_problem
from engine.records import read_record, write_record
from engine.replay import Sweep, check_losses, replay, seed_adjoint
from engine.schedule import Forward
from engine.store import RowStore
from engine.trajectories import reverse_segment as reverse
from engine.trajectories import segment_states
from engine.types import State

logger = logging.getLogger(__name__)

NOT_INNER = {"kind", "name", "description", "outer", "replay", "workers", "budget"}
"""Settings that cannot change a training run; any other counts in its key, new ones too."""

NOT_OUTER = {"kind", "name", "description", "replay", "workers", "budget"}
"""Settings that cannot change an outer update, besides ``outer.num_steps``."""


class Ref(Settings):
    """Names a committed stage and the bits that it made."""

    stage: str
    """Kind of stage, e.g. train."""

    key: str
    """Digest of everything that shaped it, 32 hex digits."""

    content: str
    """Digest of what it made, 16 hex digits."""


class Segment(Settings):
    """Consecutive steps, half-open."""

    start: int
    """First step."""

    stop: int
    """Step after the last one."""


def first_step(recipe: DescentRecipe) -> int:
    """Return the first step that reads z; the reverse sweep ends there."""
    return build_problem(recipe).routine.first_step


def segments(recipe: DescentRecipe) -> list[Segment]:
    """Cut the run into segments, with a border at the first step that reads z."""
    length, total = recipe.replay.steps_per_segment, recipe.training.num_steps
    first = first_step(recipe)
    starts = [*range(0, first, length), *range(first, total, length)]
    return [
        Segment(start=start, stop=stop)
        for start, stop in zip(starts, [*starts[1:], total], strict=True)
    ]


def prepare(recipe: DescentRecipe, store: str) -> None:
    """Refuse an impossible run: reads the data, tries one step and a write; leaves nothing.

    Raises:
        ConfigurationError: With the value, the reason and the remedy.
    """
    problem = build_problem(recipe)
    make_plan(recipe.replay.schedule, recipe.replay.arity)
    with deterministic(recipe.training.threads):
        check_routine(problem.routine, problem.output, problem.routine.point())
    check_writable(store)


def initial_value(recipe: DescentRecipe, store: str) -> Ref:
    """Commit z_0."""
    return run_stage(
        "initial",
        recipe,
        store,
        {},
        lambda problem: ({"value": problem.kind.value.reshape(-1)}, {}),
    )


def train_segment(
    recipe: DescentRecipe, store: str, segment: Segment, value: Ref, start: Ref | None
) -> Ref:
    """Train ``segment`` at z and commit the state at its end.

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        segment: Steps to train.
        value: z.
        start: The stage that trained up to ``segment.start``; None for s_0.
    """

    def compute(problem: Problem) -> tuple[State, dict[str, Any]]:
        routine = problem.routine_at(_rows(store, value)["value"])
        first = routine.initial_state() if start is None else _rows(store, start, routine.device)
        sweep = Sweep(state=first)
        forward = [Forward(segment.start, segment.stop)]
        replay(forward, routine, routine.point(), {}, sweep)
        check_losses(sweep.losses, segment.start, segment.stop)
        losses = [float(sweep.losses[step]) for step in range(segment.start, segment.stop)]
        return sweep.state, {"losses": losses}

    return run_stage(
        "train", recipe, store, {"segment": segment, "value": value, "start": start}, compute
    )


def replay_segment(
    recipe: DescentRecipe, store: str, segment: Segment, value: Ref, start: Ref | None
) -> Ref:
    """Train ``segment`` again and commit the state before each of its steps, as rows 0, 1, ...

    It needs no adjoint, so it can be done before the adjoint gets there; ``reverse_segment`` then
    takes its states from here. The arguments are those of ``train_segment``.
    """

    def compute(problem: Problem) -> tuple[Iterator[State], dict[str, Any]]:
        routine = problem.routine_at(_rows(store, value)["value"])
        first = routine.initial_state() if start is None else _rows(store, start, routine.device)
        return segment_states(routine, segment.start, segment.stop, first), {}

    inputs = {"segment": segment, "value": value, "start": start}
    num_rows = segment.stop - segment.start
    return run_stage("replay", recipe, store, inputs, compute, num_rows=num_rows)


def seed(recipe: DescentRecipe, store: str, value: Ref, final: Ref) -> Ref:
    """Evaluate the output at s_T and commit its adjoint; the record holds ``output``."""

    def compute(problem: Problem) -> tuple[State, dict[str, Any]]:
        routine = problem.routine_at(_rows(store, value)["value"])
        state = _rows(store, final, routine.device)
        output, adjoint = seed_adjoint(routine, state, problem.output)
        return adjoint, {"output": float(output)}

    return run_stage("seed", recipe, store, {"value": value, "final": final}, compute)


def reverse_segment(  # noqa: PLR0913 (what a stage reads)
    recipe: DescentRecipe,
    store: str,
    segment: Segment,
    value: Ref,
    start: Ref | None,
    adjoint: Ref,
    *,
    trajectory: Ref | None = None,
) -> Ref:
    """Replay and reverse ``segment``; commit the adjoint at its start and the metagradient so far.

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        segment: Steps to reverse.
        value: z.
        start: The stage that trained up to ``segment.start``; None for s_0.
        adjoint: The stage that made the adjoint at ``segment.stop``.
        trajectory: The stage that has replayed the segment, to save the work. It is no input: the
            states are the same bits, and are made here where it is gone.
    """

    def compute(problem: Problem) -> tuple[State, dict[str, Any]]:
        routine = problem.routine_at(_rows(store, value)["value"])
        after = _rows(store, adjoint, routine.device)
        sweep = Sweep(
            adjoint={
                name: row for name, row in after.items() if not name.startswith("metagradient_")
            },
            metagradient={
                name: row.reshape(routine.metaparameters[name].value.shape)
                for name, row in _named(after, "metagradient_").items()
            },
        )
        device = routine.device
        reverse(
            routine,
            range(segment.start, segment.stop),
            sweep,
            first=lambda: routine.initial_state() if start is None else _rows(store, start, device),
            plan=make_plan(recipe.replay.schedule, recipe.replay.arity),
            trajectory=trajectory and _folder(store, trajectory.stage, trajectory.key),
        )
        norms = {str(step): float(norm) for step, norm in sweep.adjoint_norms.items()}
        return {**sweep.adjoint, **_prefixed(sweep.metagradient, "metagradient_")}, {
            "adjoint_norms": norms
        }

    inputs: dict[str, Any] = {
        "segment": segment,
        "value": value,
        "start": start,
        "adjoint": adjoint,
    }
    return run_stage("reverse", recipe, store, inputs, compute)


def update(recipe: DescentRecipe, store: str, outer_step: int, value: Ref, gradient: Ref) -> Ref:
    """Move z along the metagradient and commit the next one, with the update's own state."""

    def compute(problem: Problem) -> tuple[State, dict[str, Any]]:
        before = _rows(store, value)
        (metagradient,) = _named(_rows(store, gradient), "metagradient_").values()
        if recipe.outer.maximize:
            metagradient = -metagradient
        move = make_outer(recipe.outer)
        memory = _named(before, "outer_")
        moved, memory = move(before["value"], metagradient, memory, outer_step)
        moved = problem.kind.project(moved.reshape(problem.kind.value.shape)).reshape(-1)
        return {"value": moved, **_prefixed(memory, "outer_")}, {
            "moved": int((moved != before["value"]).sum())
        }

    inputs = {"outer_step": outer_step, "value": value, "gradient": gradient}
    return run_stage("update", recipe, store, inputs, compute)


def evaluate(recipe: DescentRecipe, store: str, value: Ref, final: Ref) -> Ref:
    """Score the trained model; the record holds loss and accuracy on each held-out split."""

    def compute(problem: Problem) -> tuple[State, dict[str, Any]]:
        routine = problem.routine
        state = _rows(store, final, routine.device)
        scores: dict[str, Any] = {}
        for name in SPLITS:
            examples = problem.held_out[name]
            scores[name] = routine.evaluate(
                lambda model, e=examples: classification_scores(model, e.inputs, e.labels), state
            )
        return {}, scores

    return run_stage("evaluate", recipe, store, {"value": value, "final": final}, compute)


def committed(stage: str, recipe: DescentRecipe, store: str, inputs: dict[str, Any]) -> Ref | None:
    """Return a stage if it is committed, without a look at its rows; see ``find`` for one."""
    folder = _folder(store, stage, stage_key(stage, recipe, inputs))
    try:
        return Ref.model_validate(read_record(join(folder, "record.json"))["ref"])
    except (StoreError, KeyError, ValueError):
        return None


def discard(store: str, ref: Ref) -> None:
    """Delete what a stage made; nothing happens if it is gone. Its next use makes it again."""
    remove_folder(_folder(store, ref.stage, ref.key))


def read_rows(store: str, ref: Ref) -> State:
    """Return the vectors that a stage committed, on the CPU, verified.

    Raises:
        StoreError: If they are missing or damaged; names the stage and the vector.
    """
    return _rows(store, ref)


def read_scalars(store: str, ref: Ref) -> dict[str, Any]:
    """Return the numbers that a stage recorded."""
    return read_record(join(_folder(store, ref.stage, ref.key), "record.json"))["scalars"]


def lineage(store: str, ref: Ref, upstream: str) -> list[Ref]:
    """Return a stage and those of its kind before it, last first.

    Args:
        store: fsspec URL of the store.
        ref: Where to begin.
        upstream: The input that names the stage before, e.g. ``start`` of a train stage.
    """
    chain = [ref]
    while True:
        record = read_record(join(_folder(store, chain[-1].stage, chain[-1].key), "record.json"))
        before = record["inputs"].get(upstream)
        if before is None or before["stage"] != ref.stage:
            return chain
        chain.append(Ref.model_validate(before))


def stage_key(stage: str, recipe: DescentRecipe, inputs: dict[str, Any]) -> str:
    """Return the digest of everything that shapes a stage's result, 32 hex digits.

    Settings are left out by name, so that a new one counts until somebody decides that it cannot
    change a result.
    """
    settings = recipe.model_dump(mode="json", exclude=NOT_OUTER if stage == "update" else NOT_INNER)
    settings.get("outer", {}).pop("num_steps", None)
    content = {
        "stage": stage,
        "settings": settings,
        "data": build_problem(recipe).data.fingerprint,
        "inputs": {
            name: value.model_dump(mode="json") if isinstance(value, Settings) else value
            for name, value in inputs.items()
        },
        "engine": engine_version(),
        "environment": run_environment(recipe),
    }
    return digest(content)[:32]


def find(stage: str, key: str, store: str) -> Ref | None:
    """Return the stage if it is committed and every bit of it is intact, else None.

    Cost:
        Reads all of its rows.
    """
    folder = _folder(store, stage, key)
    try:
        record = read_record(join(folder, "record.json"))
        ref = Ref.model_validate(record["ref"])
        intact = ref == Ref(
            stage=stage, key=key, content=_content(_fingerprints(folder), record["scalars"])
        )
    except (StoreError, KeyError, ValueError):
        return None
    return ref if intact else None


def run_environment(recipe: DescentRecipe) -> dict[str, Any]:
    """Describe what the bits of a run depend on besides its inputs."""
    return environment(recipe.training.device, recipe.training.threads)


@lru_cache(maxsize=1)
def engine_version() -> str:
    """Return the digest of the engine's source files: a changed engine reuses no stage.

    Files that only read what stages made are left out, by name.
    """
    root = Path(__file__).parent
    files = [path for path in sorted(root.rglob("*.py")) if path.name not in _READERS]
    return digest({str(path.relative_to(root)): path.read_text() for path in files})[:16]


_READERS = {
    *("budget.py", "claims.py", "conclusion.py", "figures.py", "housekeeping.py", "inventory.py"),
    *("overview.py", "quantities.py", "recipes.py", "report.py", "runs.py"),
    *("smooth_recipes.py", "smooth_search.py", "smoothness_figures.py", "smoothness_runs.py"),
}


def run_stage(
    stage: str,
    recipe: DescentRecipe,
    store: str,
    inputs: dict[str, Any],
    compute: Callable[[Problem], tuple[State | Iterator[State], dict[str, Any]]],
    *,
    num_rows: int = 1,
) -> Ref:
    """Commit what ``compute`` makes of the recipe's problem, unless it is committed already.

    Args:
        stage: Kind of stage.
        recipe: The set-up.
        store: fsspec URL of the store.
        inputs: What else shapes the result.
        compute: Returns vectors by name, or several such rows, and numbers for the record.
        num_rows: How many rows it makes.
    """
    key = stage_key(stage, recipe, inputs)
    found = find(stage, key, store)
    if found is not None:
        return found
    folder = _folder(store, stage, key)
    remove_folder(folder)  # what a killed or damaged attempt has left
    started = time.perf_counter()
    with deterministic(recipe.training.threads):
        made, scalars = compute(build_problem(recipe))
        states = iter([made] if isinstance(made, dict) else made)
        fingerprints, num_bytes = _save(folder, states, num_rows, {"stage": stage, "key": key})
    ref = Ref(stage=stage, key=key, content=_content(fingerprints, scalars))
    record = {
        "ref": ref.model_dump(),
        "scalars": scalars,
        "inputs": {
            name: value.model_dump() if isinstance(value, Settings) else value
            for name, value in inputs.items()
        },
        "seconds": time.perf_counter() - started,
        "bytes": num_bytes,
        "run": run_name(recipe),
        "environment": run_environment(recipe),
        "engine": engine_version(),
    }
    write_record(join(folder, "record.json"), record)
    logger.info("%s %s committed, %.1f s", stage, key[:8], record["seconds"])
    return ref


def _save(
    folder: str, states: Iterator[State], num_rows: int, attributes: dict[str, Any]
) -> tuple[list[dict[str, str]], int]:
    """Write states as rows 0, 1, ... as they are made; return their fingerprints and bytes."""
    fingerprints: list[dict[str, str]] = []
    rows, num_bytes = None, 0
    for number, state in enumerate(states):
        if not state:
            continue  # a stage of numbers alone
        row = {name: vector.detach().cpu() for name, vector in state.items()}
        if rows is None:
            layout = {name: (len(vector), vector.dtype) for name, vector in row.items()}
            rows = RowStore.create(folder, layout, num_rows, attributes=attributes)
        rows.save(number, row)
        fingerprints.append(state_fingerprint(row))
        num_bytes += sum(vector.nbytes for vector in row.values())
    return fingerprints, num_bytes


def _content(fingerprints: list[dict[str, str]], scalars: dict[str, Any]) -> str:
    return digest({"rows": fingerprints, "scalars": scalars})[:16]


def _fingerprints(folder: str) -> list[dict[str, str]]:
    """Read every row that a stage has committed."""
    try:
        rows = RowStore.open(folder)
    except CheckpointMissingError:
        return []
    return [state_fingerprint(rows.load(number)) for number in rows.steps()]


def _folder(store: str, stage: str, key: str) -> str:
    return join(store, "stages", stage, key)


def _rows(store: str, ref: Ref, device: torch.device | None = None) -> State:
    rows = RowStore.open(_folder(store, ref.stage, ref.key)).load(0)
    return rows if device is None else {name: row.to(device) for name, row in rows.items()}


def _prefixed(tensors: dict[str, Tensor], prefix: str) -> State:
    return {prefix + name: tensor.reshape(-1) for name, tensor in tensors.items()}


def _named(rows: State, prefix: str) -> dict[str, Tensor]:
    found = {name: row for name, row in rows.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): row for name, row in found.items()}
