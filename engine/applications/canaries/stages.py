"""The stages of privacy canaries: one for each outer step, and one for each audit."""

from typing import Any

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
from engine.problems.problem import BuiltProblem
from engine.recipes.attribution import Retraining
from engine.recipes.descent import DescentRecipe, OuterConfig
from engine.recipes.settings import Settings
from engine.stages.commits import read_rows, run_stage
from engine.stages.references import Ref
from engine.types import State


class CanarySet(Settings):
    """Which canaries a stage is about."""

    number: int
    """m, canaries."""

    seed: int
    """Seeds halves, starts, orders and wrong labels."""


def move_canaries(
    recipe: DescentRecipe,
    store: str,
    chosen: CanarySet,
    outer_step: int,
    before: Ref | None,
    rule: OuterConfig,
) -> Ref:
    """Train with a random half of the canaries, reverse the run, and move all pixels.

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        chosen: Which canaries.
        outer_step: n; gives half, start and order.
        before: The stage that moved them last; None for the images of the data.
        rule: How they move; its number of steps does not matter.

    Returns:
        The stage: the row ``value`` holds the pixels, the record ``gap``, measured on the half
        and the training of this step, before the move.
    """

    def compute(problem: BuiltProblem) -> tuple[State, dict[str, Any]]:
        rows = {} if before is None else read_rows(store, before)
        canaries = _placed(problem, chosen, rows.get("value"))
        inside = draw_inside(chosen.number, chosen.seed, "step", outer_step)
        order = seed_for(chosen.seed, "step", outer_step) % 2**62
        value, gradient = pixel_gradient(recipe, problem, canaries, inside, order)
        memory = {
            name.removeprefix("outer_"): row
            for name, row in rows.items()
            if name.startswith("outer_")
        }
        flat = canaries.images.cpu().reshape(-1)
        moved, memory = make_outer(rule)(flat, gradient.cpu().reshape(-1), memory, outer_step)
        if problem.data.bounds is not None:
            moved = moved.clamp(*problem.data.bounds)
        kept = {f"outer_{name}": row.reshape(-1) for name, row in memory.items()}
        return {"value": moved, **kept}, {"gap": -value}

    inputs = {"chosen": chosen, "outer_step": outer_step, "before": before, "rule": rule}
    return run_stage("move-canaries", recipe, store, inputs, compute)


def audit_canaries(  # noqa: PLR0913 (what a stage reads)
    recipe: DescentRecipe,
    store: str,
    chosen: CanarySet,
    images: Ref | None,
    wrong_labels: bool,
    num_audits: int,
    retraining: Retraining,
) -> Ref:
    """Measure losses of canaries in fresh trainings, with half of them in each.

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        chosen: Which canaries.
        images: The stage that moved them last; None for the images of the data.
        wrong_labels: Whether their labels are wrong.
        num_audits: Trainings.
        retraining: How they are carried out.

    Returns:
        The stage: the rows ``losses`` and ``inside``, training by training.
    """

    def compute(problem: BuiltProblem) -> tuple[State, dict[str, Any]]:
        rows = {} if images is None else read_rows(store, images)
        canaries = _placed(problem, chosen, rows.get("value"))
        if wrong_labels:
            canaries = with_wrong_labels(canaries, problem.data.num_classes, chosen.seed)
        losses, inside = audit(recipe, problem, canaries, num_audits, chosen.seed, retraining)
        return {"losses": losses.reshape(-1), "inside": inside.to(losses).reshape(-1)}, {}

    inputs = {
        "chosen": chosen,
        "images": images,
        "wrong_labels": wrong_labels,
        "num_audits": num_audits,
        "retraining": retraining,
    }
    return run_stage("audit-canaries", recipe, store, inputs, compute)


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
