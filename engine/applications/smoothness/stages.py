"""The stages of a measurement of metasmoothness, besides those that a descent has as well.

The training at z is that of a descent, and shared with it. Each other training starts from a
committed point z + distance v and depends on no other, so they run at once where there are workers.
"""

import torch

from engine.preflight.metasmoothness import agreement, draw_direction, second_difference, shifted
from engine.recipes.settings import Document
from engine.recipes.smoothness import DirectionKind, SmoothnessSettings
from engine.replay.interpreter import Sweep, check_losses, replay
from engine.schedules.segments import Segment
from engine.schedules.trees import Forward
from engine.stages.commits import Made, read_rows
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.stage import stage
from engine.types import Metaparams


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


@stage("perturb")
def perturb(run: Run, value: Ref, shift: Shift) -> Made:
    """Commit the point z + distance v."""
    problem = run.problem
    z = problem.routine.at(read_rows(run.store, value)["value"]).point()
    groups = problem.data.splits["train"].one_label_each
    drawn = SmoothnessSettings(by=shift.by, seed=shift.seed)
    direction = draw_direction(z, drawn, shift.direction, groups)
    moved = shifted(z, direction, shift.distance)
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
    routine = run.problem.routine
    state = read_rows(run.store, final, routine.device)
    with torch.no_grad():
        return {}, {"output": float(routine.evaluate(run.problem.output, state))}


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
    routine, output = run.problem.routine, run.problem.output
    states = [read_rows(run.store, ref, routine.device) for ref in (at_0, at_h, at_2h)]
    first, second, third = (state["params"] for state in states)
    with torch.no_grad():
        outputs = [float(routine.evaluate(output, state)) for state in states]
    return {}, {
        "definition_1": second_difference(outputs[0], outputs[1], outputs[2], step),
        "definition_2": agreement(first, second, third),
        "outputs": outputs,
    }
