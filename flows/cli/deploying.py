"""``mgd deploy``: recipes, checks and house-keeping as deployments on a pool of a server."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import ConfigurationError
from engine.recipes.files import list_recipes, load_recipe
from engine.secret_urls import refuse_secrets
from flows.cli.options import PoolOptions
from flows.cli.server.local_server import connected
from flows.cli.server.surroundings import prefect_settings
from flows.cli.server.working_folder import left_out
from flows.cli.terminal.screen import say, tell

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import WorkPool
    from prefect.deployments.runner import RunnerDeployment

    from flows.deploying import DeployTarget


WITHOUT_RECIPE = ("check", "plan", "verify", "smoothness", "clean")
"""Names of ``flows.registry``, ``TRUST`` and ``HOUSEKEEPING``, which only Prefect could read."""


class DeployRequest(NamedTuple):
    """What a command line asks for.

    Attributes:
        names: Recipes by name or path, and flows that have no recipe of their own.
        changes: Assignments ``dotted.key=value`` to each recipe.
        seeds: One run for each of these training seeds.
    """

    names: Sequence[str]
    changes: Sequence[str] = ()
    seeds: Sequence[int] | None = None


def deploy(request: DeployRequest, where: PoolOptions, *, as_json: bool = False) -> None:
    """Make the deployments of a request, and say what they are called and what they need.

    Args:
        request: What to deploy.
        where: The work pool, which must exist, and what its jobs find there.
        as_json: End with one JSON object; all else goes to standard error.

    Raises:
        ConfigurationError: If something of it cannot be; then nothing was deployed.
    """
    url = prefect_settings().api.url
    if not url:
        raise ConfigurationError(
            "A deployment is kept by a Prefect server, and PREFECT_API_URL names none. Start one, "
            "and set it as deployments/README.md, section 1, says."
            + (f" {not_obeyed}" if (not_obeyed := left_out()) else "")
        )
    refuse_secrets("--folder", where.folder or "", is_place=True)
    check(request)  # what can be refused is, before Prefect's client and torch are loaded
    with connected(None):
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            deployments = put(request, where, client)
    for line in _instructions(deployments, where.pool):
        tell(line, err=as_json)
    if as_json:
        made = [each.full_name for each in deployments]
        say(json.dumps({"pool": where.pool, "store": where.store, "deployments": made}))


def put(
    request: DeployRequest, where: PoolOptions, client: "SyncPrefectClient"
) -> "list[RunnerDeployment]":
    """Put the deployments of a checked request into a server.

    Raises:
        ConfigurationError: If something of it cannot be; then nothing was deployed.
    """
    from flows.deploying import DeployTarget, apply

    pool = _read_pool(client, where.pool)
    target = DeployTarget.of(pool, where.store, where.image, where.suffix)
    deployments = [_deployment_of(name, request, target, where.folder) for name in request.names]
    apply(deployments, client)
    return deployments


def shipped() -> list[str]:
    """Return all that can be deployed without a user's own file."""
    return [*list_recipes(), *WITHOUT_RECIPE]


def check(request: DeployRequest) -> None:
    """Refuse a request of which something is no recipe, or cannot be run.

    Raises:
        ConfigurationError: Names it, and the remedy.
    """
    if not request.names:
        raise ConfigurationError(
            "No deployment was named. Give recipes, by name or by path of a YAML "
            f"file, or {', '.join(WITHOUT_RECIPE)}; or use --all for everything that ships."
        )
    for name in request.names:
        if name not in WITHOUT_RECIPE:
            load_recipe(name, list(request.changes))


def _read_pool(client: "SyncPrefectClient", name: str) -> "WorkPool":
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_work_pool(name)
    except ObjectNotFound:
        there = ", ".join(sorted(each.name for each in client.read_work_pools())) or "none"
        raise ConfigurationError(
            f"--pool {name!r}: the server has no such work pool, but {there}. Make those of this "
            "project with `python -m deployments.pools`, or name another."
        ) from None


def _deployment_of(
    name: str, request: DeployRequest, target: "DeployTarget", folder: str | None
) -> "RunnerDeployment":
    from flows.deploying import deployment_alone, recipe_deployment

    if name in WITHOUT_RECIPE:
        files = [each for each in request.names if each not in shipped()]
        return deployment_alone(name, target, files)
    return recipe_deployment(name, target, request.changes, request.seeds, folder)


def _instructions(deployments: "list[RunnerDeployment]", pool: str) -> list[str]:
    """Say what was deployed, what its workers must have, and how to start a run."""
    lines = [f"Deployed on {pool}: {each.full_name}" for each in deployments]
    for each in deployments:
        recipe = each.parameters.get("recipe")
        if isinstance(recipe, dict) and recipe.get("code"):  # some are about a recipe by its name
            if (recipe.get("workers") or {}).get("code") == "store":
                lines.append(
                    f"{each.full_name} runs code of yours. It is kept in "
                    f"{each.parameters['store']} as it is now, and workers take it from there. "
                    "Deploy again after an edit."
                )
                continue
            lines.append(
                f"{each.full_name} runs code of yours. Its workers need "
                f"{', '.join(sorted(recipe['code']))}, unchanged since now, in "
                f"{recipe.get('folder')} (--folder names another place); a run compares the "
                "digests, and refuses what was edited. Deploy again after an edit."
            )
    return [
        *lines,
        # Prefect's own command obeys files of the folder in which it stands; nobody's lie there.
        f"A worker takes its runs: `cd / && prefect worker start --pool {pool}`",
        f"Start a run: `prefect deployment run {deployments[0].full_name!r} --watch`",
    ]
