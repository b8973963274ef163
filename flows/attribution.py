"""Attribution: one training, one reverse sweep for all queries, and trainings that judge it."""

from datetime import UTC, datetime
from functools import partial

from prefect import flow

from engine.applications.attribution.record import (
    AttributionRecord,
    AttributionStages,
    judged_baselines,
)
from engine.applications.attribution.works import subsets, works
from engine.preflight.verdict import CheckReport
from engine.problems.segments import first_step, segments
from engine.recipes.attribution import AttributionBaseline, AttributionRecipe, AttributionSettings
from engine.stages.commits import read_scalars
from engine.stages.references import Ref
from engine.storage.location import StoreUrl
from flows.parts.naming import flow_run_name
from flows.parts.opening import Form, opened
from flows.parts.sent import Arguments
from flows.parts.sweep import reverse_sweep
from flows.parts.training import train
from tasks import attribution as work
from tasks import reporting, training
from tasks.growing import GrowingReport, growing
from tasks.running.progress import following
from tasks.running.runner import StageFuture, StageRunner
from tasks.running.workers import Workers


@flow(name="attribution", flow_run_name=flow_run_name)
def attribution(  # noqa: PLR0913 (the fields of its form)
    recipe: AttributionRecipe,
    store: StoreUrl = "mgd-store",
    settings: tuple[str, ...] | None = (),
    arguments: Arguments = None,
    queries: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    max_seconds: float | None = None,
) -> AttributionRecord:
    """Attribute the losses of several queries to the training examples, and judge the answer.

    Args:
        recipe: The training, and what to attribute.
        store: Folder for checkpoints, results and reports: a path, or a URL such as s3://bucket/folder.
        settings: Changes of the recipe, each dotted.key=value as in `mgd run --set`.
        arguments: Arguments of its problem in place of the recipe's own, by name.
        queries: Replaces ``attribution.num_queries``.
        seed: Replaces ``training.seed``.
        device: Replaces ``training.device``.
        max_seconds: Replaces ``budget.max_seconds``.
    """
    fields = {"queries": queries, "seed": seed, "device": device, "max_seconds": max_seconds}
    form = Form(settings, arguments, fields)
    with opened(recipe, store, form, _title, work.check) as begun:
        return attribute(*begun)


def attribute(recipe: AttributionRecipe, store: str, workers: Workers) -> AttributionRecord:
    """Attribute on workers that are there, inside a flow run."""
    started = datetime.now(UTC).isoformat()
    with (
        following(recipe, store, partial(works, recipe, store=store), workers) as progress,
        growing(recipe, store, _title(recipe), progress.board) as page,
    ):
        stages = StageRunner(recipe.descent, store, progress, workers)
        return _attribute(recipe, stages, page, started)


def _title(recipe: AttributionRecipe) -> str:
    return f"Attribution: {recipe.name}"


def _attribute(
    recipe: AttributionRecipe, stages: StageRunner, page: GrowingReport, started: str
) -> AttributionRecord:
    settings, store, parts = recipe.attribution, stages.store, segments(recipe.descent)
    reversible = [part for part in parts if part.start >= first_step(recipe.descent)]
    groups = subsets(settings)
    checks = page.checks = preflight(stages, settings)
    value = stages.run(training.initial_value, "initial metaparameters")
    borders, final = train(stages, parts, value)
    # All that needs no metagradient is handed in before the sweep, and done beside it by workers.
    scored = stages.submit(training.evaluate, "evaluate", final=final)
    baselines = {
        name: baseline(stages, name, settings, final)
        for name, why_not in judged_baselines(recipe, store).items()
        if why_not is None
    }
    trainings = [
        stages.submit(
            work.train_without,
            f"train without {each.removals.percent:g} % [{each.start}-{each.stop})",
            queries=settings.queries,
            subsets=each,
            retraining=settings.retraining,
        )
        for each in groups
    ]
    adjoint = seeded(stages, settings, value, final)
    loss = read_scalars(store, scored.result())["test"]["loss"]
    page.add_finding(f"The model whose predictions are explained has a test loss of {loss:.4f}.")
    gradient = reverse_sweep(stages, reversible, 0, value, borders, adjoint)
    spanned = None
    if settings.basis is not None:
        name = "scores by the directions"
        spanned = stages.run(work.basis_scores, name, seeds=adjoint, gradient=gradient)
    found = AttributionStages(
        final=final,
        seed=adjoint,
        gradient=gradient,
        spanned=spanned,
        scores=scored.result(),
        baselines={name: each.result() for name, each in baselines.items()},
        trainings=[each.result() for each in trainings],
    )
    page.stop()
    with stages.progress.reporting():
        return work.conclude(recipe, store, found, stages.counts, started, checks)


def preflight(stages: StageRunner, settings: AttributionSettings) -> CheckReport:
    """Try the run on short twins, and a few removals on the run itself."""
    recipe, store = stages.recipe, stages.store
    checks = reporting.judge(recipe, store, stages.run(training.preflight, "preflight"))
    if not settings.trial_subsets:
        return checks
    queries, removals = settings.trial
    tried = stages.run(
        work.trial,
        "try removals",
        queries=queries,
        removals=removals,
        num_subsets=settings.trial_subsets,
        retraining=settings.retraining,
    )
    return CheckReport.of([*checks.checks, *reporting.judge(recipe, store, tried).checks])


def seeded(stages: StageRunner, settings: AttributionSettings, value: Ref, final: Ref) -> Ref:
    """Make the adjoints of the queries, or of the directions that are swept in their place."""
    inputs = {"value": value, "final": final, "queries": settings.queries}
    if settings.basis is None:
        return stages.run(work.seed_queries, "seed queries", **inputs)
    sizes = {"size": settings.basis, "num_checked": settings.basis_checked}
    return stages.run(work.seed_basis, "seed directions", **inputs, **sizes)


def baseline(
    stages: StageRunner, name: AttributionBaseline, settings: AttributionSettings, final: Ref
) -> StageFuture:
    """Hand in the scores of a baseline."""
    if name is AttributionBaseline.FINAL_GRADIENT:
        return stages.submit(
            work.final_gradients, "final gradients", final=final, queries=settings.queries
        )
    return stages.submit(
        work.trak,
        "TRAK",
        final=final,
        queries=settings.queries,
        dimension=settings.trak_dimension,
        seed=settings.seed,
    )
