"""The stages of privacy canaries: one for each outer step, and one for each audit."""

import torch
from torch import Tensor

from engine.applications.canaries.canaries import (
    Canaries,
    audit,
    draw_inside,
    first_canaries,
    pixel_gradient,
    with_wrong_labels,
)
from engine.metaparameters.outer_updates import make_outer
from engine.numerics.determinism import seed_for
from engine.problems.built import BuiltProblem
from engine.recipes.descent import OuterRule
from engine.recipes.settings import Document
from engine.recipes.training import Retraining
from engine.stages.commits import Made, read_rows
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.stage import stage


class CanarySet(Document):
    """Which canaries a stage is about."""

    number: int
    """m, canaries."""

    seed: int
    """Seeds halves, starts, orders and wrong labels."""


@stage("move-canaries", reverses=True)
def move_canaries(
    run: Run, chosen: CanarySet, outer_step: int, before: Ref | None, rule: OuterRule
) -> Made:
    """Train with a random half of the canaries, reverse the run, and move all pixels.

    The row ``value`` holds the pixels, the record ``gap``, measured on the half and the training
    of this step, before the move, and what its later steps showed, ``wrong`` and ``uncompared``.

    Args:
        run: The run.
        chosen: Which canaries.
        outer_step: n; gives half, start and order.
        before: The stage that moved them last; None for the images of the data.
        rule: How they move; its number of steps does not matter.
    """
    problem = run.problem
    rows = {} if before is None else read_rows(run.store, before)
    canaries = _placed(problem, chosen, rows.get("value"))
    inside = draw_inside(chosen.number, chosen.seed, "step", outer_step)
    order = seed_for(chosen.seed, "step", outer_step) % 2**62
    value, gradient, later = pixel_gradient(run.settled, problem, canaries, inside, order)
    memory = {
        name.removeprefix("outer_"): row for name, row in rows.items() if name.startswith("outer_")
    }
    flat = canaries.images.cpu().reshape(-1)
    moved, memory = make_outer(rule)(flat, gradient.cpu().reshape(-1), memory, outer_step)
    if problem.data.bounds is not None:
        low, high = (torch.as_tensor(b, dtype=moved.dtype) for b in problem.data.bounds)
        moved = moved.view(canaries.images.shape).clamp(low, high).reshape(-1)
    kept = {f"outer_{name}": row.reshape(-1) for name, row in memory.items()}
    found = {"gap": -value, "wrong": later.wrong, "uncompared": later.unseen}
    return {"value": moved, **kept}, found


@stage("audit-canaries")
def audit_canaries(
    run: Run,
    chosen: CanarySet,
    images: Ref | None,
    wrong_labels: bool,
    num_audits: int,
    retraining: Retraining,
) -> Made:
    """Measure losses of canaries in fresh trainings, with half of them in each.

    The rows ``losses`` and ``inside`` go training by training.

    Args:
        run: The run.
        chosen: Which canaries.
        images: The stage that moved them last; None for the images of the data.
        wrong_labels: Whether their labels are wrong.
        num_audits: Trainings.
        retraining: How they are carried out.
    """
    problem = run.problem
    rows = {} if images is None else read_rows(run.store, images)
    canaries = _placed(problem, chosen, rows.get("value"))
    if wrong_labels:
        canaries = with_wrong_labels(canaries, problem.data.num_classes, chosen.seed)
    losses, inside = audit(problem, canaries, num_audits, chosen.seed, retraining)
    return {"losses": losses.reshape(-1), "inside": inside.to(losses).reshape(-1)}, {}


def read_images(problem: BuiltProblem, store: str, moved: Ref, number: int) -> Tensor:
    """Return the pixels that a stage made, shape (canaries, channels, height, width)."""
    return _placed(
        problem, CanarySet(number=number, seed=0), read_rows(store, moved)["value"]
    ).images


def read_audit(store: str, ref: Ref, number: int) -> tuple[Tensor, Tensor]:
    """Return losses of an audit, and who was IN, both of shape (audits, canaries)."""
    rows = read_rows(store, ref)
    return rows["losses"].reshape(-1, number), rows["inside"].reshape(-1, number) > 0.5


def _placed(problem: BuiltProblem, chosen: CanarySet, value: Tensor | None) -> Canaries:
    canaries = first_canaries(problem, chosen.number)
    if value is None:
        return canaries
    return Canaries(value.reshape(canaries.images.shape).to(canaries.images), canaries.labels)
