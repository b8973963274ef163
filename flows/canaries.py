"""Privacy canaries: move their pixels along the metagradient, then audit them beside others."""

from datetime import UTC, datetime
from functools import partial

from prefect import flow

from engine.applications.canaries.record import BEFORE, OWN, WRONG, CanariesRecord
from engine.applications.canaries.stages import CanarySet
from engine.applications.canaries.works import works
from engine.recipes.canaries import CanariesRecipe
from engine.stages.commits import read_scalars
from engine.stages.references import Ref
from engine.storage.location import StoreUrl
from flows.parts.naming import flow_run_name
from flows.parts.opening import Form, opened
from flows.parts.sent import Arguments
from tasks import canaries as work
from tasks import reporting, training
from tasks.growing import GrowingReport, growing
from tasks.running.progress import following
from tasks.running.runner import StageRunner
from tasks.running.workers import Workers


@flow(name="canaries", flow_run_name=flow_run_name)
def canaries(  # noqa: PLR0913 (the fields of its form)
    recipe: CanariesRecipe,
    store: StoreUrl = "mgd-store",
    settings: tuple[str, ...] | None = (),
    arguments: Arguments = None,
    canaries: int | None = None,
    outer_steps: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    max_seconds: float | None = None,
) -> CanariesRecord:
    """Optimize canaries for the gap between models that were trained on them and others.

    Args:
        recipe: The training, which of its examples are canaries, and how they move.
        store: Folder for checkpoints, results and reports: a path, or a URL such as s3://bucket/folder.
        settings: Changes of the recipe, each dotted.key=value as in `mgd run --set`.
        arguments: Arguments of its problem in place of the recipe's own, by name.
        canaries: Replaces ``canaries.num_canaries``.
        outer_steps: Replaces ``outer.num_steps``.
        seed: Replaces ``training.seed``.
        device: Replaces ``training.device``.
        max_seconds: Replaces ``budget.max_seconds``.
    """
    fields = {
        "canaries": canaries,
        "outer_steps": outer_steps,
        "seed": seed,
        "device": device,
        "max_seconds": max_seconds,
    }
    form = Form(settings, arguments, fields)
    with opened(recipe, store, form, _title, work.check) as begun:
        return optimize(*begun)


def optimize(recipe: CanariesRecipe, store: str, workers: Workers) -> CanariesRecord:
    """Optimize and audit on workers that are there, inside a flow run."""
    started = datetime.now(UTC).isoformat()
    with (
        following(recipe, store, partial(works, recipe), workers) as progress,
        growing(recipe, store, _title(recipe), progress.board) as page,
    ):
        stages = StageRunner(recipe.descent, store, progress, workers)
        return _optimize(recipe, stages, page, started)


def _title(recipe: CanariesRecipe) -> str:
    return f"Privacy canaries: {recipe.name}"


def _optimize(
    recipe: CanariesRecipe, stages: StageRunner, page: GrowingReport, started: str
) -> CanariesRecord:
    settings, descent, store = recipe.canaries, recipe.descent, stages.store
    chosen = CanarySet(number=settings.num_canaries, seed=settings.seed)
    # How many steps there will be changes none of them.
    rule = recipe.rule.model_copy(update={"num_steps": 1})

    def audit(name: str, images: Ref | None, *, wrong_labels: bool = False) -> Ref:
        return stages.run(
            work.audit_canaries,
            f"audit {name}",
            chosen=chosen,
            images=images,
            wrong_labels=wrong_labels,
            num_audits=settings.num_audits,
            retraining=settings.retraining,
        )

    checks = reporting.judge(descent, store, stages.run(training.preflight, "preflight"))
    page.checks = checks
    moved: list[Ref] = []
    for outer_step in range(recipe.outer.num_steps):
        moved.append(
            stages.run(
                work.move_canaries,
                f"move[{outer_step}]",
                chosen=chosen,
                outer_step=outer_step,
                before=moved[-1] if moved else None,
                rule=rule,
            )
        )
        reporting.heed_later_steps(descent, store, moved[-1])
        gap = read_scalars(store, moved[-1])["gap"]
        page.add_finding(f"Outer step {outer_step}: the gap of the canaries is {gap:.3f} nats.")
    audits = {
        OWN: audit(OWN, moved[-1]),
        BEFORE: audit(BEFORE, None),
        WRONG: audit(WRONG, None, wrong_labels=True),
    }
    page.stop()
    with stages.progress.reporting():
        return work.conclude(recipe, store, moved, audits, stages.counts, started, checks)
