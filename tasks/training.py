"""The stages of a metagradient descent as Prefect tasks: one decorator, one engine call each."""

from prefect import task

from engine.planning import plan as planning
from engine.recipes.descent import DescentRecipe
from engine.runs.run import begin_run
from engine.schedules.segments import Segment
from engine.stages import training as stages
from engine.stages.references import Ref
from tasks.running.stage_task import stage_task


@task
def check(recipe: DescentRecipe, store: str) -> None:
    """Refuse an impossible run before anything is trained; keep settings and plan of another.

    See ``engine.stages.training.prepare``, ``engine.runs.run.begin_run`` and
    ``engine.planning.plan.keep_plan``.
    """
    stages.prepare(recipe, store)
    begin_run(recipe, store)
    planning.keep_plan(recipe, store)


@stage_task("preflight")
def preflight(recipe: DescentRecipe, store: str) -> Ref:
    """Try the run on short twins; see ``engine.stages.training.preflight``."""
    return stages.preflight(recipe, store)


@stage_task("initial")
def initial_value(recipe: DescentRecipe, store: str) -> Ref:
    """Commit z_0; see ``engine.stages.training.initial_value``."""
    return stages.initial_value(recipe, store)


@stage_task("train")
def train_segment(
    recipe: DescentRecipe, store: str, segment: Segment, value: Ref, start: Ref | None
) -> Ref:
    """Train one segment; safe to retry, see ``engine.stages.training.train_segment``."""
    return stages.train_segment(recipe, store, segment, value, start)


@stage_task("seed")
def seed_adjoint(recipe: DescentRecipe, store: str, value: Ref, final: Ref) -> Ref:
    """Seed the adjoint at the end of the run; see ``engine.stages.training.seed``."""
    return stages.seed(recipe, store, value, final)


@stage_task("replay")
def replay_segment(
    recipe: DescentRecipe, store: str, segment: Segment, value: Ref, start: Ref | None
) -> Ref:
    """Commit the states of one segment; see ``engine.stages.training.replay_segment``."""
    return stages.replay_segment(recipe, store, segment, value, start)


@stage_task("reverse")
def reverse_segment(  # noqa: PLR0913 (what a stage reads)
    recipe: DescentRecipe,
    store: str,
    segment: Segment,
    value: Ref,
    start: Ref | None,
    end: Ref,
    adjoint: Ref,
    *,
    trajectory: Ref | None = None,
) -> Ref:
    """Reverse one segment; safe to retry, see ``engine.stages.training.reverse_segment``."""
    return stages.reverse_segment(
        recipe, store, segment, value, start, end, adjoint, trajectory=trajectory
    )


@stage_task("update")
def update(recipe: DescentRecipe, store: str, outer_step: int, value: Ref, gradient: Ref) -> Ref:
    """Move the metaparameters; see ``engine.stages.training.update``."""
    return stages.update(recipe, store, outer_step, value, gradient)


@stage_task("evaluate")
def evaluate(recipe: DescentRecipe, store: str, value: Ref, final: Ref) -> Ref:
    """Score a trained model on the held-out splits; see ``engine.stages.training.evaluate``."""
    return stages.evaluate(recipe, store, value, final)
