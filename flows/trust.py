"""Flows that check, plan, verify and measure smoothness, for a start from the UI.

They do what the commands of these names do. Recipes are named, because there is one deployment of
each flow and not one for each recipe; a name is that of a shipped recipe, or the path of a file
that the worker has.
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from engine.applications.smoothness.record import SmoothnessRecord
from engine.planning.forecast import Forecast
from engine.preflight.verdict import CheckReport
from engine.recipes.files import DEFAULT_RECIPE, load_recipe, load_to_measure
from engine.storage.location import StoreUrl, absolute
from flows.metasmoothness import metasmoothness
from tasks import trust


@flow(name="check", flow_run_name="check {recipe}")
def check(
    recipe: str = DEFAULT_RECIPE,
    settings: tuple[str, ...] | None = (),
    device: str | None = None,
    store: StoreUrl = "mgd-store",
) -> CheckReport:
    """Check on short twins of its run whether the metagradient of a recipe can be trusted.

    Args:
        recipe: Name of a shipped recipe, or path of a YAML file that the worker has.
        settings: Changes of the recipe, each dotted.key=value as in mgd check --set.
        device: Replaces training.device: cpu, cuda or cuda:N.
        store: Folder for checkpoints, results and reports: a path, or a URL such as s3://bucket/folder.
    """
    return trust.check(load_recipe(recipe, _changes(settings, device)), absolute(store))


@flow(name="plan", flow_run_name="plan {recipe}")
def plan(
    recipe: str = DEFAULT_RECIPE,
    settings: tuple[str, ...] | None = (),
    device: str | None = None,
    price: Annotated[float | None, Field(ge=0)] = None,
    store: StoreUrl = "mgd-store",
) -> Forecast:
    """Measure a step for a few seconds, and show the fastest schedule and the cost of a run.

    Args:
        recipe: Name of a shipped recipe, or path of a YAML file that the worker has.
        settings: Changes of the recipe, each dotted.key=value as in mgd plan --set.
        device: Replaces training.device: cpu, cuda or cuda:N.
        price: Price of an hour of the device, in any currency; empty leaves it out.
        store: Folder for checkpoints, results and reports: a path, or a URL such as s3://bucket/folder.
    """
    return trust.plan(load_recipe(recipe, _changes(settings, device)), absolute(store), price)


@flow(name="verify", flow_run_name="verify {run}")
def verify(
    run: str,
    seed: Annotated[int | None, Field(ge=0)] = None,
    trusted: bool = False,
    store: StoreUrl = "mgd-store",
) -> str:
    """Recompute a random segment and a difference of a finished run, and keep a certificate.

    Args:
        run: Name of a finished run, or the beginning of it.
        seed: Chooses what is made again; empty draws one.
        trusted: Read and connect to the places that the store's recipe names, whatever they are.
        store: Folder for checkpoints, results and reports: a path, or a URL such as s3://bucket/folder.
    """
    return trust.verify(run, absolute(store), seed, trusted)


@flow(name="smoothness", flow_run_name="smoothness of {recipe}")
def smoothness(
    recipe: str = DEFAULT_RECIPE,
    directions: Annotated[int | None, Field(ge=1)] = None,
    settings: tuple[str, ...] | None = (),
    device: str | None = None,
    store: StoreUrl = "mgd-store",
) -> SmoothnessRecord:
    """Measure how smoothly the trained model of a recipe responds to changes of its set-up.

    Args:
        recipe: Name of a shipped recipe, or path of a YAML file that the worker has.
        directions: Random directions, two trainings each; empty leaves it to the recipe.
        settings: Changes of the recipe, each dotted.key=value as in mgd smoothness --set.
        device: Replaces training.device: cpu, cuda or cuda:N.
        store: Folder for checkpoints, results and reports: a path, or a URL such as s3://bucket/folder.
    """
    given = {} if directions is None else {"directions": directions}
    measured = load_to_measure(recipe, _changes(settings, device), given)
    return metasmoothness.fn(measured, absolute(store))


def _changes(settings: tuple[str, ...] | None, device: str | None) -> list[str]:
    """Return the changes of a form to a recipe; its device counts unless a setting names one."""
    changes = [each for each in settings or () if each.strip()]
    chosen = [f"training.device={device}"] if device else []
    return [*chosen, *changes]
