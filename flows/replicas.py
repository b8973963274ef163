"""Replicas: the same descent for several training seeds, at once where there are workers."""

from functools import partial

from prefect import flow

from engine.applications.descent.record import RunRecord
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import with_seed
from engine.storage.location import StoreUrl, absolute
from flows.descent import descend, title_of
from flows.parts.form import taken_from_form
from flows.parts.naming import flow_run_name
from flows.parts.sent import Arguments
from tasks import training
from tasks.growing import told_if_stopped
from tasks.running.attempt import one_process
from tasks.running.workers import open_workers


@flow(name="replicas", flow_run_name=flow_run_name)
def replicas(  # noqa: PLR0913 (the fields of its form)
    recipe: DescentRecipe,
    seeds: list[int],
    store: StoreUrl = "mgd-store",
    settings: tuple[str, ...] | None = (),
    arguments: Arguments = None,
    outer_steps: int | None = None,
    device: str | None = None,
    max_seconds: float | None = None,
) -> list[RunRecord]:
    """Descend once for each training seed; each is a run of its own, with its own report.

    Args:
        recipe: The set-up, and what to optimize of it.
        seeds: Takes the place of ``training.seed``, one after the other.
        store: Folder for checkpoints, results and reports: a path, or a URL such as s3://bucket/folder.
        settings: Changes of the recipe, each dotted.key=value as in `mgd run --set`.
        arguments: Arguments of its problem in place of the recipe's own, by name.
        outer_steps: Replaces ``outer.num_steps``.
        device: Replaces ``training.device``.
        max_seconds: Replaces ``budget.max_seconds``.
    """
    recipe = taken_from_form(
        recipe,
        store,
        settings,
        arguments,
        outer_steps=outer_steps,
        device=device,
        max_seconds=max_seconds,
    )
    store = absolute(store)
    recipes = [with_seed(recipe, seed) for seed in seeds]
    for each in recipes:
        with told_if_stopped(each, store, title_of(each)):
            training.check(each, store)
    with one_process(recipes[0], store), open_workers(recipe.workers) as workers:
        return workers.together([partial(descend, each, store, workers) for each in recipes])
