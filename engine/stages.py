"""The stages of a metagradient descent: named, content-addressed, verified units of work.

A stage reads what other stages committed and commits its own result under a key that is a digest
of everything that shapes it. Same key, same bits: a stage that finds its result committed and
intact does nothing. Between stages travel ``Ref``s, never tensors.

Layout: ``<store>/stages/<stage>/<key>/`` holds the rows, and ``record.json``, written last, which
commits the stage.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checks import check_routine
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
from engine.schedule import Forward, Tier
from engine.store import MemoryStates, RowStore
from engine.types import State

NOT_INNER = {"kind", "name", "description", "outer", "replay"}
"""Settings that cannot change a training run; any other counts in its key, new ones too."""

NOT_OUTER = {"kind", "name", "description", "replay"}
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
    return _run_stage(
        "initial", recipe, store, {}, lambda problem: ({"value": problem.kind.value}, {})
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

    return _run_stage(
        "train", recipe, store, {"segment": segment, "value": value, "start": start}, compute
    )


def seed(recipe: DescentRecipe, store: str, value: Ref, final: Ref) -> Ref:
    """Evaluate the output at s_T and commit its adjoint; the record holds ``output``."""

    def compute(problem: Problem) -> tuple[State, dict[str, Any]]:
        routine = problem.routine_at(_rows(store, value)["value"])
        state = _rows(store, final, routine.device)
        output, adjoint = seed_adjoint(routine, state, problem.output)
        return adjoint, {"output": float(output)}

    return _run_stage("seed", recipe, store, {"value": value, "final": final}, compute)


def reverse_segment(
    recipe: DescentRecipe,
    store: str,
    segment: Segment,
    value: Ref,
    start: Ref | None,
    adjoint: Ref,
) -> Ref:
    """Replay and reverse ``segment``; commit the adjoint at its start and the metagradient so far.

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        segment: Steps to reverse.
        value: z.
        start: The stage that trained up to ``segment.start``; None for s_0.
        adjoint: The stage that made the adjoint at ``segment.stop``.
    """

    def compute(problem: Problem) -> tuple[State, dict[str, Any]]:
        routine = problem.routine_at(_rows(store, value)["value"])
        first = routine.initial_state() if start is None else _rows(store, start, routine.device)
        after = _rows(store, adjoint, routine.device)
        sweep = Sweep(
            adjoint={
                name: row for name, row in after.items() if not name.startswith("metagradient_")
            },
            metagradient=_named(after, "metagradient_"),
        )
        states = MemoryStates()
        states.save(segment.start, first)
        plan = make_plan(recipe.replay.schedule, recipe.replay.arity)
        actions = plan(segment.stop - segment.start, segment.start)
        replay(actions, routine, routine.point(), {Tier.MEMORY: states}, sweep)
        norms = {str(step): float(norm) for step, norm in sweep.adjoint_norms.items()}
        return {**sweep.adjoint, **_prefixed(sweep.metagradient, "metagradient_")}, {
            "adjoint_norms": norms
        }

    inputs = {"segment": segment, "value": value, "start": start, "adjoint": adjoint}
    return _run_stage("reverse", recipe, store, inputs, compute)


def update(recipe: DescentRecipe, store: str, outer_step: int, value: Ref, gradient: Ref) -> Ref:
    """Move z along the metagradient and commit the next one, with the update's own state."""

    def compute(problem: Problem) -> tuple[State, dict[str, Any]]:
        before = _rows(store, value)
        (metagradient,) = _named(_rows(store, gradient), "metagradient_").values()
        move = make_outer(recipe.outer)
        memory = _named(before, "outer_")
        moved, memory = move(before["value"], metagradient, memory, outer_step)
        moved = problem.kind.project(moved)
        return {"value": moved, **_prefixed(memory, "outer_")}, {
            "moved": int((moved != before["value"]).sum())
        }

    inputs = {"outer_step": outer_step, "value": value, "gradient": gradient}
    return _run_stage("update", recipe, store, inputs, compute)


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

    return _run_stage("evaluate", recipe, store, {"value": value, "final": final}, compute)


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
            stage=stage, key=key, content=_content(_load(folder), record["scalars"])
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


_READERS = {"conclusion.py", "figures.py", "recipes.py", "report.py", "runs.py"}


def _run_stage(
    stage: str,
    recipe: DescentRecipe,
    store: str,
    inputs: dict[str, Any],
    compute: Callable[[Problem], tuple[State, dict[str, Any]]],
) -> Ref:
    key = stage_key(stage, recipe, inputs)
    found = find(stage, key, store)
    if found is not None:
        return found
    folder = _folder(store, stage, key)
    remove_folder(folder)  # what a killed or damaged attempt has left
    started = time.perf_counter()
    with deterministic(recipe.training.threads):
        rows, scalars = compute(build_problem(recipe))
    rows = {name: row.detach().cpu() for name, row in rows.items()}
    if rows:
        layout = {name: (len(row), row.dtype) for name, row in rows.items()}
        RowStore.create(folder, layout, 1, attributes={"stage": stage, "key": key}).save(0, rows)
    ref = Ref(stage=stage, key=key, content=_content(rows, scalars))
    record = {
        "ref": ref.model_dump(),
        "scalars": scalars,
        "inputs": {
            name: value.model_dump() if isinstance(value, Settings) else value
            for name, value in inputs.items()
        },
        "seconds": time.perf_counter() - started,
        "environment": run_environment(recipe),
        "engine": engine_version(),
    }
    write_record(join(folder, "record.json"), record)
    return ref


def _content(rows: State, scalars: dict[str, Any]) -> str:
    return digest({"rows": state_fingerprint(rows), "scalars": scalars})[:16]


def _folder(store: str, stage: str, key: str) -> str:
    return join(store, "stages", stage, key)


def _load(folder: str) -> State:
    try:
        return RowStore.open(folder).load(0)
    except CheckpointMissingError:
        return {}


def _rows(store: str, ref: Ref, device: torch.device | None = None) -> State:
    rows = RowStore.open(_folder(store, ref.stage, ref.key)).load(0)
    return rows if device is None else {name: row.to(device) for name, row in rows.items()}


def _prefixed(tensors: dict[str, Tensor], prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _named(rows: State, prefix: str) -> dict[str, Tensor]:
    found = {name: row for name, row in rows.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): row for name, row in found.items()}
