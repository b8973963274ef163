"""Writes ``prefect.yaml`` from the recipes, so that the two cannot say different things.

Every recipe becomes one deployment on each kind of work pool, and so does every flow of
house-keeping; the main recipe has another one for several seeds.
After a change of a recipe: ``python -m deployments.make``.
"""

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from prefect import Flow

from engine.recipes.descent import DescentRecipe
from engine.recipes.files import RECIPES, load_recipe
from flows.registry import FLOWS, HOUSEKEEPING, REPLICAS

PREFECT_YAML = Path(__file__).with_name("prefect.yaml")

HEADER = """\
# Written by `python -m deployments.make` from deployments/recipes: change those, or that.
# To deploy, from the repository root, with MGD_STORE and MGD_IMAGE set:
#   prefect --no-prompt deploy --prefect-file deployments/prefect.yaml --all
"""

MAIN = "digits-selection"
"""The recipe that is deployed for several seeds."""

COSTS = {
    "digits-schedule": "1 minute on two CPU cores",
    "digits-selection": "half a minute on two CPU cores",
    "fashion-selection": "6 minutes on two CPU cores",
}
"""Measured times of whole runs, by recipe."""

ENVIRONMENT = {
    # Engine and tasks log with plain loggers; Prefect shows only loggers that it is told of.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "engine,tasks",
    # Threads that belong to no run, such as those that renew leases, need not warn of it.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # A server that is restarted: waits of 2, 4, 8, ... s, eight minutes in all.
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    # glibc gives large blocks back after every step, and the page faults cost more than the step.
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
}
# A machine that is taken away says so by SIGTERM: the run waits for another machine, not crashed.
SPOT = {"PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "reschedule"}


class Pool(NamedTuple):
    """What the deployments on one kind of work pool have in common."""

    variables: list[str]
    """Environment variables that must be set when it is deployed."""

    job_variables: dict[str, Any]
    """Variables of the pool's base job template."""

    device: str | None
    """Torch device; None leaves the recipe's."""

    without_gpu: dict[str, Any]
    """Job variables of a flow that computes nothing."""


POOLS = {
    "process": Pool(["MGD_STORE"], {"env": ENVIRONMENT}, None, {}),
    "docker": Pool(
        ["MGD_STORE", "MGD_IMAGE"],
        {
            "image": "{{ $MGD_IMAGE }}",
            "env": ENVIRONMENT | SPOT,
            "shm_size": "2g",
            "device_requests": [{"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu"]]}],
        },
        "cuda",
        {"device_requests": []},
    ),
    "kubernetes": Pool(
        ["MGD_STORE", "MGD_IMAGE"],
        {
            "image": "{{ $MGD_IMAGE }}",
            "env": ENVIRONMENT | SPOT,
            "gpus": 1,
            "shm_size": "2Gi",
            "memory_limit": "16Gi",
            "deadline_seconds": 86400,
        },
        "cuda",
        {"gpus": 0, "memory_limit": "2Gi", "memory_request": "1Gi", "deadline_seconds": 14400},
    ),
}
"""Kind of work pool to what runs there; the pool itself is ``mgd-<kind>``."""


def cost(recipe: DescentRecipe) -> str:
    """Say what a run costs, in trainings and sweeps, and in time where that was measured."""
    outer, inner = recipe.outer.num_steps, recipe.training.num_steps
    injected = recipe.metaparameters.about.is_injected
    reversed_steps = inner - recipe.injection_step if injected else inner
    work = (
        f"{outer + 1} trainings of {inner} steps and {outer} reverse sweeps over "
        f"{reversed_steps} of them"
    )
    measured = COSTS.get(recipe.name)
    return f"Expected cost: {work}, {measured}." if measured else f"Expected cost: {work}."


def deployment(path: Path, kind: str) -> dict[str, Any]:
    """Return the deployment of one recipe on one kind of work pool.

    Only what the recipe's file says becomes a parameter: defaults stay those of the code that runs.
    """
    recipe, pool = load_recipe(str(path)), POOLS[kind]
    content = yaml.safe_load(path.read_text()) | {"name": recipe.name}
    tags = ["mgd", "auto-resume"]
    if pool.device is not None:
        content["training"] = content.get("training", {}) | {"device": pool.device}
        tags.append("gpu")
    return {
        "name": f"{recipe.name}-{kind}",
        "description": f"{recipe.description} {cost(recipe)}",
        "entrypoint": entrypoint(FLOWS[recipe.kind]),
        "tags": tags,
        "parameters": {"recipe": content, "store": "{{ $MGD_STORE }}"},
        "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
        "schedules": [{"cron": "0 2 * * *", "timezone": "UTC", "slug": "nightly", "active": False}],
        "work_pool": {"name": f"mgd-{kind}", "job_variables": pool.job_variables},
        "build": build(pool),
    }


def replicas(path: Path, kind: str) -> dict[str, Any]:
    """Return the deployment that runs one recipe for several seeds on one kind of work pool.

    Another recipe may be given instead in the parameters of a run.
    """
    content = deployment(path, kind)
    recipe = load_recipe(str(path))
    return content | {
        "name": f"{recipe.name}-replicas-{kind}",
        "description": f"{recipe.description} Once for each of three training seeds, at once where "
        f"there are workers. Each: {cost(recipe)}",
        "entrypoint": entrypoint(REPLICAS[recipe.kind]),
        "parameters": content["parameters"] | {"seeds": [0, 1, 2]},
    }


def housekeeping(name: str, kind: str) -> dict[str, Any]:
    """Return the deployment of a flow of house-keeping on one kind of work pool.

    Started by hand it only says what it would do; its schedule, once it is switched on, does it.
    """
    flow, pool = HOUSEKEEPING[name], POOLS[kind]
    return {
        "name": f"{name}-{kind}",
        "description": f"{(flow.description or '').splitlines()[0]} Reports only, unless told to "
        "delete; its schedule deletes.",
        "entrypoint": entrypoint(flow),
        "tags": ["mgd"],
        "parameters": {"store": "{{ $MGD_STORE }}", "older_than_days": 30, "delete": False},
        "concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"},
        "schedules": [
            {
                "cron": "0 1 * * 0",
                "timezone": "UTC",
                "slug": "weekly",
                "active": False,
                "parameters": {"delete": True},
            }
        ],
        "work_pool": {
            "name": f"mgd-{kind}",
            "job_variables": pool.job_variables | pool.without_gpu,
        },
        "build": build(pool),
    }


def entrypoint(flow: Flow[..., Any]) -> str:
    """Return where a worker finds a flow: its module is installed, so no path is needed."""
    return f"{flow.fn.__module__}.{flow.fn.__name__}"


def build(pool: Pool) -> list[dict[str, Any]]:
    """Return the step that stops a deployment while a variable is unset."""
    require = f"sh deployments/require.sh {' '.join(pool.variables)}"
    return [{"prefect.deployments.steps.run_shell_script": {"script": require}}]


def text() -> str:
    """Return what ``prefect.yaml`` has to hold."""
    recipes = sorted(RECIPES.glob("*.yaml"))
    content = {
        "name": "metagradient-descent",
        # None at all: the packages are in the image or the worker's environment. Without this
        # line Prefect would make runs change to the folder of whoever deployed.
        "pull": [],
        "deployments": [
            *(deployment(path, kind) for kind in POOLS for path in recipes),
            *(replicas(RECIPES / f"{MAIN}.yaml", kind) for kind in POOLS),
            *(housekeeping(name, kind) for kind in POOLS for name in HOUSEKEEPING),
        ],
    }
    return HEADER + yaml.dump(
        content, Dumper=_Plain, sort_keys=False, width=100, default_flow_style=None
    )


class _Plain(yaml.SafeDumper):
    """Writes what is shared out in full: a reader should not have to follow anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


if __name__ == "__main__":
    PREFECT_YAML.write_text(text())
