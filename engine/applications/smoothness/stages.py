"""The stages of a measurement of metasmoothness, besides those that a descent has as well.

The training at z is that of a descent, and shared with it. The others are one batched run, a stage
that makes the numbers at once, where that comes to the same. Where not, each starts from a
committed point z + distance v and depends on no other, so they run at once where there are workers.
"""

from collections.abc import Sequence
from typing import Any

import torch

from engine.preflight.metasmoothness import agreement, draw_direction, second_difference, shifted
from engine.preflight.moved import train_around
from engine.problems.built import BuiltProblem
from engine.recipes.settings import Document
from engine.recipes.smoothness import DirectionKind, SmoothnessSettings
from engine.replay.interpreter import Sweep, check_losses, replay
from engine.schedules.segments import Segment
from engine.schedules.trees import Forward
from engine.stages.commits import Made, read_rows
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.stage import stage
from engine.types import Metaparams, State


class Shift(Document):
    """How far along which direction a training starts from z."""

    by: DirectionKind | None
    """Kind of direction."""

    seed: int
    """Seeds the directions."""

    direction: int
    """Number of the direction."""

    distance: float
    """In units of v; the directions are not normalized."""

    @classmethod
    def of(cls, settings: SmoothnessSettings, direction: int, distance: float) -> "Shift":
        """Return a shift as settings draw the directions."""
        return cls(by=settings.by, seed=settings.seed, direction=direction, distance=distance)


@stage("perturb")
def perturb(run: Run, value: Ref, shift: Shift) -> Made:
    """Commit the point z + distance v."""
    z = run.problem.routine.at(read_rows(run.store, value)["value"]).point()
    moved = _shifted(run.problem, z, shift)
    return {name: tensor.reshape(-1) for name, tensor in moved.items()}, {}


@stage("train-at")
def train_at(run: Run, segment: Segment, value: Ref, point: Ref, start: Ref | None) -> Made:
    """Train ``segment`` at a perturbed point and commit the state at its end."""
    routine = run.problem.routine.at(read_rows(run.store, value)["value"])
    rows = read_rows(run.store, point)
    z: Metaparams = {
        name: rows[name].reshape(tensor.shape).to(tensor)
        for name, tensor in routine.point().items()
    }
    first = routine.initial_state(z)
    if start is not None:
        first = read_rows(run.store, start, routine.device)
    sweep = Sweep(state={name: row.detach() for name, row in first.items()})
    replay([Forward(segment.start, segment.stop)], routine, z, {}, sweep)
    check_losses(sweep.losses, segment.start, segment.stop)
    return sweep.state, {}


@stage("output")
def output_at(run: Run, final: Ref) -> Made:
    """Evaluate the output at a final state; the record holds ``output``."""
    state = read_rows(run.store, final, run.problem.routine.device)
    return {}, {"output": _output(run.problem, state)}


@stage("compare")
def compare(run: Run, at_0: Ref, at_h: Ref, at_2h: Ref, step: float) -> Made:
    """Compare three trainings; the record holds both definitions and the three outputs.

    Args:
        run: The run.
        at_0: s_T at z.
        at_h: s_T at z + h v.
        at_2h: s_T at z + 2 h v.
        step: h.
    """
    device = run.problem.routine.device
    states = [read_rows(run.store, ref, device) for ref in (at_0, at_h, at_2h)]
    return {}, _compared(run.problem, states, step)


@stage("along")
def train_along(
    run: Run, value: Ref, at_z: Ref, settings: SmoothnessSettings, distances: list[float]
) -> Made:
    """Train along all directions as one batched run.

    The record holds ``compared``, for each direction what ``compare`` says, and ``outputs``, that
    at each of the distances; or ``one_by_one``, why the trainings are to be made one by one.

    Args:
        run: The run.
        value: z.
        at_z: s_T of the training at z by itself.
        settings: The directions, and the step.
        distances: More of them along the first direction.
    """
    problem = run.problem
    routine = problem.routine.at(read_rows(run.store, value)["value"])
    z, step = routine.point(), settings.step
    pairs = [(i, far * step) for i in range(settings.directions) for far in (1, 2)]
    points = [
        _shifted(problem, z, Shift.of(settings, direction, distance))
        for direction, distance in [*pairs, *((0, each) for each in distances)]
    ]
    alone = read_rows(run.store, at_z, routine.device)
    states, why_not = train_around(routine, [z, *points], alone)
    if why_not is not None:
        return {}, {"one_by_one": why_not}
    last = len(states) - len(distances)
    trios = [[states[0], states[i], states[i + 1]] for i in range(1, last, 2)]
    return {}, {
        "compared": [_compared(problem, trio, step) for trio in trios],
        "outputs": [_output(problem, state) for state in states[last:]],
    }


def _shifted(problem: BuiltProblem, z: Metaparams, shift: Shift) -> Metaparams:
    """Return z + distance v."""
    groups = problem.data.splits["train"].one_label_each
    drawn = SmoothnessSettings(by=shift.by, seed=shift.seed)
    direction = draw_direction(z, drawn, shift.direction, groups)
    return shifted(z, direction, shift.distance)


def _compared(problem: BuiltProblem, states: Sequence[State], step: float) -> dict[str, Any]:
    """Return both definitions and the outputs of trainings at z, z + h v and z + 2 h v."""
    first, second, third = (state["params"] for state in states)
    outputs = [_output(problem, state) for state in states]
    return {
        "definition_1": second_difference(outputs[0], outputs[1], outputs[2], step),
        "definition_2": agreement(first, second, third),
        "outputs": outputs,
    }


def _output(problem: BuiltProblem, state: State) -> float:
    with torch.no_grad():
        return float(problem.routine.evaluate(problem.output, state))
