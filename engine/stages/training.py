"""The stages of a metagradient descent: named, content-addressed, verified units of work.

A stage reads what other stages committed and commits its own result under a key that is a digest
of everything that shapes it (``engine.stages.keys``). A stage that finds its result committed and
intact does nothing (``engine.stages.commits``). Between stages travel ``Ref``s, never tensors.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from engine.errors import CheckpointCorruptError, CheckpointMissingError
from engine.numerics.determinism import deterministic
from engine.planning.plan import followed
from engine.preflight.checkup import checked
from engine.preflight.verdict import Check, CheckReport, Verdict
from engine.problems.built import check_repeats, check_scores, make_step_vjp
from engine.progress.meter import doing
from engine.recipes.execution import RunnerName
from engine.recipes.problem_functions import is_shipped, names_code
from engine.recipes.replay import ScheduleName
from engine.replay.borders import differs, refuse_difference
from engine.replay.interpreter import as_numbers
from engine.replay.outer_step import move_value, reverse_steps, train_steps
from engine.replay.refusals.first_step import check_routine, check_unroll
from engine.replay.refusals.later_steps import LaterSteps
from engine.replay.seeding import seed_adjoint
from engine.replay.segment import segment_states
from engine.routine.diagnosis import asked_rightly, told_by_witness
from engine.routine.routine import Routine
from engine.schedules.by_name import schedule_maker
from engine.schedules.segments import Segment
from engine.stages.ahead import made_ahead
from engine.stages.commits import Made, committed_rows, read_origin, read_rows
from engine.stages.metagradient_rows import as_rows, metagradients_in, only_metagradient
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.stage import stage
from engine.storage.location import check_writable
from engine.storage.states import RowStore
from engine.types import State
from engine.witness.memory.asked import refuse_memory
from engine.witness.memory.between_steps import noting_memory
from engine.witness.witness import testify

logger = logging.getLogger(__name__)


def prepare(run: Run, *, witness: bool = False) -> float:
    """Refuse an impossible run: read the data, try a step and a write, leave nothing behind.

    Args:
        run: The run.
        witness: Whether the module that was handed in takes a step by itself, with which the
            engine's has to agree; for a run that has no preflight, which asks for it otherwise.

    Returns:
        The seconds that it took to try a step.

    Raises:
        ConfigurationError: If a setting is refused; names its value, the reason and the remedy.
        WitnessError: If the module's own step is another one.
    """
    recipe, problem = run.recipe, run.problem
    check_repeats(recipe, run.store)
    if recipe.replay.schedule is not ScheduleName.AUTO:
        schedule_maker(recipe.replay)
    make_step_vjp(recipe, problem.routine)
    with (
        doing("trying one training step and its derivative"),
        deterministic(recipe.training.threads, tf32=recipe.training.tf32),
        asked_rightly(problem.routine, [problem.output]),
    ):
        if witness:
            refuse_memory(problem.routine, problem.routine.point())
        # Of computing, where this thread computes: other work on a machine makes no step longer.
        clock = time.thread_time if problem.routine.device.type == "cpu" else time.perf_counter
        begun = clock()
        check_routine(problem.routine, [problem.output], problem.routine.point())
        seconds = clock() - begun
        if witness:
            with told_by_witness():
                # It is no metagradient that is asked for, so an update may move in jumps.
                testify(problem.routine, [problem.output], problem.routine.point(), jumps=True)
        check_unroll(problem.routine, recipe.replay.unroll)
        check_scores(recipe, run.store)
    check_writable(run.store)
    return seconds


@contextmanager
def preflight_ahead(run: Run, seconds: float) -> Iterator[None]:
    """Make a short preflight in a thread while the block starts the run.

    It is not done where workers carry out the stages, or where the recipe names code of the user's,
    which might not run beside a training.

    Args:
        run: The run; it has a preflight.
        seconds: What it took to try a step, as ``prepare`` returns it.
    """
    recipe = run.recipe
    local = recipe.workers.runner is RunnerName.LOCAL
    if local and seconds <= _QUICK and not names_code(recipe.problem, recipe.arguments):
        with made_ahead(preflight, run):
            yield
    else:
        yield


_QUICK = 0.05
"""Seconds to try a step up to which a preflight is made ahead: it takes a hundred times as long,
and whoever stops a start waits for what is at work."""


@stage("preflight", reverses=True)
def preflight(run: Run) -> Made:
    """Try the run on short twins and commit what was found; the record holds a ``CheckReport``."""
    problem = run.problem
    with asked_rightly(problem.routine, [problem.output]):
        found = checked(problem.routine, problem.output, run.settled.replay)
    told = found.for_recipe(run.recipe.model_dump(mode="json"), problem.unread)
    ready = is_shipped(run.recipe.problem)
    return {}, with_notes(told, problem.notes, ready=ready).model_dump(mode="json")


def with_notes(report: CheckReport, notes: Sequence[str], *, ready: bool = False) -> CheckReport:
    """Return a report with what people should know of the examples, as one warning.

    A check for each would put as many boxes before the figures of a report.

    Args:
        report: The report.
        notes: In whole sentences.
        ready: Whether the problem ships, so that its arguments are what people can change.
    """
    what = "the arguments of the problem, or its files" if ready else "what the problem returns"
    if not notes:
        return report
    this = "this" if len(notes) == 1 else "any of this"
    told = Check(
        name="examples",
        verdict=Verdict.WARN,
        value=None,
        limit=None,
        cause=" ".join(notes),
        remedy=f"If {this} was not meant, change {what}.",
    )
    return report.with_checks([told])


@stage("initial")
def initial_value(run: Run) -> Made:
    """Commit z_0."""
    return {"value": run.problem.kind.value.reshape(-1)}, {}


@stage("train")
def train_segment(run: Run, segment: Segment, value: Ref, start: Ref | None) -> Made:
    """Train ``segment`` at z and commit the state at its end.

    Args:
        run: The run.
        segment: Steps to train.
        value: z.
        start: The stage that trained up to ``segment.start``; None for s_0.
    """
    routine = _routine_at(run, value)
    steps = range(segment.start, segment.stop)
    with noting_memory(routine):
        state, losses = train_steps(routine, steps, _start(routine, run.store, start))
    return state, {"losses": losses}


def _steps_of(segment: Segment, **_: object) -> int:
    return segment.stop - segment.start


@stage("replay", num_rows=_steps_of)
def replay_segment(run: Run, segment: Segment, value: Ref, start: Ref | None) -> Made:
    """Train ``segment`` again and commit the state before each of its steps, as rows 0, 1, ...

    It needs no adjoint, so it can be done before the adjoint gets there; ``reverse_segment`` then
    takes its states from here. The arguments are those of ``train_segment``.
    """
    routine = _routine_at(run, value)
    first = _start(routine, run.store, start)
    return segment_states(routine, segment.start, segment.stop, first), {}


@stage("seed")
def seed(run: Run, value: Ref, final: Ref) -> Made:
    """Evaluate the output at s_T and commit its adjoint; the record holds ``output``."""
    routine = _routine_at(run, value)
    state = read_rows(run.store, final, routine.device)
    output, adjoint = seed_adjoint(routine, state, run.problem.output)
    return adjoint, {"output": float(output)}


@stage("reverse", cost_only={"trajectory"}, reverses=True)
def reverse_segment(  # noqa: PLR0913 (what a stage reads)
    run: Run,
    segment: Segment,
    value: Ref,
    start: Ref | None,
    end: Ref,
    adjoint: Ref,
    *,
    trajectory: Ref | None = None,
) -> Made:
    """Replay and reverse ``segment``; commit the adjoint at its start and the metagradient so far.

    An adjoint of several outputs is stored as one row, output by output; so is the metagradient.

    Args:
        run: The run.
        segment: Steps to reverse.
        value: z.
        start: The stage that trained up to ``segment.start``; None for s_0.
        end: The stage that trained up to ``segment.stop``, which the replay has to meet.
        adjoint: The stage that made the adjoint at ``segment.stop``.
        trajectory: The stage that has replayed the segment, to save the work. It is no input: the
            states are the same bits, and are made here where it is gone.

    Raises:
        ReplayMismatchError: If the replay meets another state than ``end`` made; names the step,
            the element and the likely cause.
    """
    routine, store = _routine_at(run, value), run.store
    later = LaterSteps(routine, routine.point(), refuses=False)  # whoever asked heeds the record
    after = read_rows(store, adjoint, routine.device)
    so_far = {
        name: _shaped(row, routine.metaparameters[name].value.shape)
        for name, row in metagradients_in(after).items()
    }
    shapes = {name: row.shape for name, row in routine.initial_state().items()}
    with later.memory.reversing():
        sweep = reverse_steps(
            routine,
            range(segment.start, segment.stop),
            ({name: _shaped(after[name], shape) for name, shape in shapes.items()}, so_far),
            first=lambda: _start(routine, store, start),
            meet=partial(_compare_end, store, routine, end, segment.stop),
            vjp=make_step_vjp(run.settled, routine),
            maker=schedule_maker(followed(run.recipe, store)),
            later=later,
            trajectory=_rows_ahead(store, trajectory),
        )
    rows = _prefixed(sweep.adjoint, "")
    return {**rows, **as_rows(sweep.metagradient)}, {
        "adjoint_norms": as_numbers(sweep.adjoint_norms),
        "layer_norms": as_numbers(sweep.layer_norms),
        "share_norms": as_numbers(sweep.share_norms),
        "uncompared": later.unseen,
        "wrong": later.wrong,
    }


def _compare_end(store: str, routine: Routine, end: Ref, stop: int, again: State) -> None:
    """Compare where the replay of a segment leads, s_stop, with what ``end`` made."""
    fingerprints, made_in = read_origin(store, end)
    if differs(again, fingerprints):
        refuse_difference(routine, stop, read_rows(store, end), again, made_in)


@stage("update", moves=True)
def update(run: Run, outer_step: int, value: Ref, gradient: Ref) -> Made:
    """Move z along the metagradient and commit the next one, with the update's own state."""
    before = read_rows(run.store, value)
    metagradient = only_metagradient(read_rows(run.store, gradient))
    moved, memory = move_value(
        run.recipe.rule,
        run.problem.kind,
        before["value"],
        metagradient,
        _rows_below(before, "outer_"),
        outer_step,
    )
    return {"value": moved, **_prefixed(memory, "outer_")}, {
        "moved": int((moved != before["value"]).sum())
    }


@stage("evaluate")
def evaluate(run: Run, final: Ref) -> Made:
    """Score the trained model; the record holds loss and accuracy on each held-out split."""
    state = read_rows(run.store, final, run.problem.routine.device)
    return {}, run.problem.scores(state)


def _routine_at(run: Run, value: Ref) -> Routine:
    """Return the run at a committed z."""
    noting_memory(run.problem.routine)  # before a stage of this process calls code of the user's
    return run.problem.routine.at(read_rows(run.store, value)["value"])


def _rows_ahead(store: str, trajectory: Ref | None) -> RowStore | None:
    """Return the states of a segment that was replayed ahead; None if there are none (any more)."""
    if trajectory is None:
        return None
    try:
        return committed_rows(store, trajectory)
    except (CheckpointMissingError, CheckpointCorruptError) as error:
        logger.warning("The segment is replayed here. %s", error)
        return None


def _start(routine: Routine, store: str, start: Ref | None) -> State:
    """Return the state at the start of a segment; s_0 where no stage trained up to it."""
    if start is None:
        return routine.initial_state()
    return read_rows(store, start, routine.device)


def _shaped(row: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Give a stored row its shape back, with a leading axis if it is that of several outputs."""
    return row.reshape(shape) if row.numel() == math.prod(shape) else row.reshape(-1, *shape)


def _prefixed(tensors: dict[str, Tensor], prefix: str) -> State:
    return {prefix + name: tensor.reshape(-1) for name, tensor in tensors.items()}


def _rows_below(rows: State, prefix: str) -> dict[str, Tensor]:
    found = {name: row for name, row in rows.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): row for name, row in found.items()}
