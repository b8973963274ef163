"""Metagradient descent: train, reverse the run, move the metaparameters, repeat."""

from datetime import UTC, datetime
from functools import partial

from prefect import flow

from engine.applications.descent.growing import page_so_far
from engine.applications.descent.iterates import Iterate
from engine.applications.descent.record import RunRecord
from engine.planning.expected import descent_works
from engine.problems.segments import first_step, segments
from engine.recipes.descent import DescentRecipe
from engine.storage.location import StoreUrl
from flows.parts.comparisons import compare
from flows.parts.naming import flow_run_name
from flows.parts.opening import Form, opened
from flows.parts.sent import Arguments
from flows.parts.sweep import reverse_sweep
from flows.parts.training import train
from tasks import reporting, training
from tasks.growing import GrowingReport, growing
from tasks.running.progress import following
from tasks.running.runner import StageRunner, tell_scores
from tasks.running.workers import Workers


@flow(name="descent", flow_run_name=flow_run_name)
def descent(  # noqa: PLR0913 (the fields of its form)
    recipe: DescentRecipe,
    store: StoreUrl = "mgd-store",
    settings: tuple[str, ...] | None = (),
    arguments: Arguments = None,
    outer_steps: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    max_seconds: float | None = None,
) -> RunRecord:
    """Descend along the metagradient of a recipe.

    Args:
        recipe: The set-up, and what to optimize of it.
        store: Folder for checkpoints, results and reports: a path, or a URL such as s3://bucket/folder.
        settings: Changes of the recipe, each dotted.key=value as in `mgd run --set`.
        arguments: Arguments of its problem in place of the recipe's own, by name.
        outer_steps: Replaces ``outer.num_steps``.
        seed: Replaces ``training.seed``.
        device: Replaces ``training.device``.
        max_seconds: Replaces ``budget.max_seconds``.
    """
    fields = {
        "outer_steps": outer_steps,
        "seed": seed,
        "device": device,
        "max_seconds": max_seconds,
    }
    form = Form(settings, arguments, fields)
    with opened(recipe, store, form, title_of, training.check) as begun:
        return descend(*begun)


def descend(recipe: DescentRecipe, store: str, workers: Workers) -> RunRecord:
    """Descend on workers that are there, inside a flow run; several may do so at once."""
    started = datetime.now(UTC).isoformat()
    with (
        following(recipe, store, descent_works, workers) as progress,
        growing(recipe, store, title_of(recipe), progress.board) as page,
    ):
        return _descend(StageRunner(recipe, store, progress, workers), page, started)


def title_of(recipe: DescentRecipe) -> str:
    """Return the title of a descent's report."""
    return f"Metagradient descent: {recipe.name}"


def _descend(stages: StageRunner, page: GrowingReport, started: str) -> RunRecord:
    recipe, store, progress = stages.recipe, stages.store, stages.progress
    parts = segments(recipe)
    reversible = [part for part in parts if part.start >= first_step(recipe)]
    num_steps = recipe.outer.num_steps
    checks = reporting.judge(recipe, store, stages.run(training.preflight, "preflight"))
    page.checks = checks
    value = stages.run(training.initial_value, "initial metaparameters")
    iterates: list[Iterate] = []
    for outer_step in range(num_steps + 1):
        borders, final = train(stages, parts, value, f"[{outer_step}]")
        scored = stages.submit(training.evaluate, f"evaluate[{outer_step}]", final=final)
        tell_scores(progress, store, outer_step, scored)
        gradient = None
        if outer_step < num_steps:
            adjoint = stages.run(training.seed, f"seed[{outer_step}]", value=value, final=final)
            gradient = reverse_sweep(stages, reversible, outer_step, value, borders, adjoint)
        scores = scored.result()
        iterate = reporting.read_iterate(store, outer_step, value, final, gradient, scores)
        iterates.append(iterate)
        page.show(partial(page_so_far, recipe, checks, started, list(iterates)))
        if gradient is not None:
            value = stages.run(
                training.update,
                f"update[{outer_step}]",
                outer_step=outer_step,
                value=value,
                gradient=gradient,
            )
    compared = compare(stages, parts, iterates)
    page.stop()
    with progress.reporting():
        return reporting.conclude(
            recipe, store, iterates, stages.counts, started, checks, compared=compared
        )
