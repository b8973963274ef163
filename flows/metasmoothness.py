"""Metasmoothness: trainings beside each other, each from a slightly moved set-up, compared."""

from datetime import UTC, datetime
from functools import partial

from prefect import flow

from engine.applications.smoothness.record import SmoothnessRecord, Trained
from engine.applications.smoothness.stages import Shift
from engine.applications.smoothness.works import works
from engine.problems.segments import segments
from engine.recipes.smoothness import MetasmoothnessRecipe, SmoothnessSettings
from engine.recipes.training import Retraining
from engine.stages.commits import read_scalars
from engine.stages.references import Ref
from engine.storage.location import StoreUrl
from flows.parts.naming import flow_run_name
from flows.parts.opening import Form, opened
from flows.parts.sent import Arguments
from flows.parts.training import hand_in_training
from tasks import smoothness, training
from tasks.growing import GrowingReport, growing
from tasks.running.progress import following
from tasks.running.runner import StageFuture, StageRunner
from tasks.running.workers import Workers


@flow(name="metasmoothness", flow_run_name=flow_run_name)
def metasmoothness(  # noqa: PLR0913 (the fields of its form)
    recipe: MetasmoothnessRecipe,
    store: StoreUrl = "mgd-store",
    settings: tuple[str, ...] | None = (),
    arguments: Arguments = None,
    directions: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    max_seconds: float | None = None,
) -> SmoothnessRecord:
    """Measure how smoothly a training answers to changes of its set-up.

    Args:
        recipe: The training, and how to measure.
        store: Folder for checkpoints, results and reports: a path, or a URL such as s3://bucket/folder.
        settings: Changes of the recipe, each dotted.key=value as in `mgd run --set`.
        arguments: Arguments of its problem in place of the recipe's own, by name.
        directions: Replaces ``smoothness.directions``.
        seed: Replaces ``training.seed``.
        device: Replaces ``training.device``.
        max_seconds: Replaces ``budget.max_seconds``.
    """
    fields = {"directions": directions, "seed": seed, "device": device, "max_seconds": max_seconds}
    form = Form(settings, arguments, fields)
    with opened(recipe, store, form, _title, smoothness.check) as begun:
        return measure(*begun)


def measure(recipe: MetasmoothnessRecipe, store: str, workers: Workers) -> SmoothnessRecord:
    """Measure on workers that are there, inside a flow run; several may do so at once."""
    started = datetime.now(UTC).isoformat()
    with (
        following(recipe, store, partial(works, recipe, store=store), workers) as progress,
        growing(recipe, store, _title(recipe), progress.board) as page,
    ):
        stages = StageRunner(recipe.descent, store, progress, workers)
        return _measure(recipe, stages, page, started)


def _title(recipe: MetasmoothnessRecipe) -> str:
    return f"Metasmoothness of {recipe.name}"


def _measure(
    recipe: MetasmoothnessRecipe, stages: StageRunner, page: GrowingReport, started: str
) -> SmoothnessRecord:
    settings, store, parts = recipe.smoothness, stages.store, segments(recipe.descent)
    value = stages.run(training.initial_value, "initial metaparameters")
    base = hand_in_training(stages, parts, value=value)
    scores = stages.submit(training.evaluate, "evaluate", final=base)
    found, why_not = None, None
    if settings.retraining is Retraining.BATCHED:
        found, why_not = _train_together(stages, settings, value, base)
        if why_not is not None:
            page.add_finding(f"The trainings go one by one: {why_not}")
    if found is None:
        found = _train_each(stages, settings, value, base)
    for direction, each in enumerate(found.compared(store)):
        agreement = each["definition_2"]
        page.add_finding(f"Direction {direction}: Definition 2 is {agreement:.3f}.")
    scored = scores.result()
    page.stop()
    with stages.progress.reporting():
        return smoothness.conclude(recipe, store, found, scored, stages.counts, started, why_not)


def _train_together(
    stages: StageRunner, settings: SmoothnessSettings, value: Ref, base: StageFuture
) -> tuple[Trained | None, str | None]:
    """Train along all directions as one batched run; return what was made, or none and why."""
    distances = landscape_distances(settings.landscape, settings.step)
    ref = stages.run(
        smoothness.train_along,
        "train along all directions",
        value=value,
        at_z=base,
        settings=settings,
        distances=distances,
    )
    why_not = read_scalars(stages.store, ref).get("one_by_one")
    if why_not is not None:
        return None, why_not
    return Trained(directions=[ref], heights=dict.fromkeys(distances, ref)), None


def _train_each(
    stages: StageRunner, settings: SmoothnessSettings, value: Ref, base: StageFuture
) -> Trained:
    """Train along the directions by a training of its own for each point."""
    parts = segments(stages.recipe)

    def train_shifted(direction: int, distance: float) -> StageFuture:
        shift = Shift.of(settings, direction, distance)
        words = f"[{direction}] {distance:+g} v"
        point = stages.submit(smoothness.perturb, f"perturb{words}", value=value, shift=shift)
        return hand_in_training(stages, parts, words, smoothness.train_at, value=value, point=point)

    # All trainings are handed in before any is waited for.
    step = settings.step
    pairs = [
        (train_shifted(direction, step), train_shifted(direction, 2 * step))
        for direction in range(settings.directions)
    ]
    distances = landscape_distances(settings.landscape, step)
    sights = {distance: train_shifted(0, distance) for distance in distances}
    comparisons = [
        stages.submit(
            smoothness.compare, f"compare[{i}]", at_0=base, at_h=one, at_2h=two, step=step
        )
        for i, (one, two) in enumerate(pairs)
    ]
    heights = {
        distance: stages.submit(smoothness.output_at, f"output {distance:+g} v", final=final)
        for distance, final in sights.items()
    }
    return Trained(
        directions=[each.result() for each in comparisons],
        heights={distance: each.result() for distance, each in heights.items()},
    )


def landscape_distances(count: int, step: float) -> list[float]:
    """Return distances around 0, h and 2 h, ahead and behind by turns."""
    steps = [offset for k in range(count) for offset in (3 + k, -1 - k)]
    return [offset * step for offset in steps[:count]]
