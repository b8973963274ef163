"""The stages of a measurement of metasmoothness, besides those that a descent has as well.

The training at z is that of a descent, and shared with it. Each other training starts from a
committed point z + distance v and depends on no other, so they run at once where there are workers.
"""

from typing import Any

import torch

from engine.preflight.metasmoothness import agreement, draw_direction, second_difference, shifted
from engine.problems.problem import BuiltProblem
from engine.recipes.descent import DescentRecipe
from engine.recipes.settings import Settings
from engine.recipes.smoothness import DirectionKind, SmoothnessConfig
from engine.replay.interpreter import Sweep, check_losses, replay
from engine.schedules.segments import Segment
from engine.schedules.trees import Forward
from engine.stages.commits import read_rows, run_stage
from engine.stages.references import Ref
from engine.types import Metaparams, State


class Shift(Settings):
    """How far along which direction a training starts from z."""

    by: DirectionKind | None
    """Kind of direction."""

    seed: int
    """Seeds the directions."""

    direction: int
    """Number of the direction."""

    distance: float
    """In units of v; the directions are not normalized."""


def perturb(recipe: DescentRecipe, store: str, value: Ref, shift: Shift) -> Ref:
    """Commit the point z + distance v."""

    def compute(problem: BuiltProblem) -> tuple[State, dict[str, Any]]:
        z = problem.routine_at(read_rows(store, value)["value"]).point()
        labels = problem.data.splits["train"].labels
        groups = labels if labels.ndim == 1 else None
        drawn = SmoothnessConfig(by=shift.by, seed=shift.seed)
        direction = draw_direction(z, drawn, shift.direction, groups)
        moved = shifted(z, direction, shift.distance)
        return {name: tensor.reshape(-1) for name, tensor in moved.items()}, {}

    return run_stage("perturb", recipe, store, {"value": value, "shift": shift}, compute)


def train_at(
    recipe: DescentRecipe,
    store: str,
    segment: Segment,
    value: Ref,
    point: Ref,
    start: Ref | None,
) -> Ref:
    """Train ``segment`` at a perturbed point and commit the state at its end."""

    def compute(problem: BuiltProblem) -> tuple[State, dict[str, Any]]:
        routine = problem.routine_at(read_rows(store, value)["value"])
        rows = read_rows(store, point)
        z: Metaparams = {
            name: rows[name].reshape(tensor.shape).to(tensor)
            for name, tensor in routine.point().items()
        }
        first = routine.initial_state(z)
        if start is not None:
            first = {name: row.to(routine.device) for name, row in read_rows(store, start).items()}
        sweep = Sweep(state={name: row.detach() for name, row in first.items()})
        replay([Forward(segment.start, segment.stop)], routine, z, {}, sweep)
        check_losses(sweep.losses, segment.start, segment.stop)
        return sweep.state, {}

    inputs = {"segment": segment, "value": value, "point": point, "start": start}
    return run_stage("train-at", recipe, store, inputs, compute)


def output_at(recipe: DescentRecipe, store: str, final: Ref) -> Ref:
    """Evaluate the output at a final state; the record holds ``output``."""

    def compute(problem: BuiltProblem) -> tuple[State, dict[str, Any]]:
        rows = read_rows(store, final)
        state = {name: row.to(problem.routine.device) for name, row in rows.items()}
        with torch.no_grad():
            return {}, {"output": float(problem.routine.evaluate(problem.output, state))}

    return run_stage("output", recipe, store, {"final": final}, compute)


def compare(
    recipe: DescentRecipe, store: str, at_0: Ref, at_h: Ref, at_2h: Ref, step: float
) -> Ref:
    """Compare three trainings; the record holds both definitions and the three outputs.

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        at_0: s_T at z.
        at_h: s_T at z + h v.
        at_2h: s_T at z + 2 h v.
        step: h.
    """

    def compute(problem: BuiltProblem) -> tuple[State, dict[str, Any]]:
        routine = problem.routine
        states = [
            {name: row.to(routine.device) for name, row in read_rows(store, ref).items()}
            for ref in (at_0, at_h, at_2h)
        ]
        first, second, third = (state["params"] for state in states)
        with torch.no_grad():
            outputs = [float(routine.evaluate(problem.output, state)) for state in states]
        return {}, {
            "definition_1": second_difference(outputs[0], outputs[1], outputs[2], step),
            "definition_2": agreement(first, second, third),
            "outputs": outputs,
        }

    inputs = {"at_0": at_0, "at_h": at_h, "at_2h": at_2h, "step": step}
    return run_stage("compare", recipe, store, inputs, compute)
