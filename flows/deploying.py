"""Recipes and house-keeping as deployments on a work pool: what runs there, and with what.

A deployment is made for one pool, whose own base job template says what its jobs can be given: an
image, a GPU, memory. So any kind of pool will do, and nothing about pools is written down here.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import (
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
    WorkPool,
)
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.callables import ParameterSchema

from engine.errors import ConfigurationError
from engine.problems.kept_code import keep_code
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import (
    DEFAULT_RECIPE,
    Recipe,
    list_recipes,
    read_recipe_file,
    validate_recipe,
)
from engine.recipes.problem_functions import names_code
from engine.storage.location import absolute
from flows import loading
from flows.forms import form, recipe_form, recipe_values
from flows.registry import FLOWS, HOUSEKEEPING, REPLICAS, TRUST

RESUME_TAG = "auto-resume"
"""Runs with this tag go on by themselves after a crash; see ``deployments/automations.py``."""

ENVIRONMENT = {
    # Engine and tasks log with plain loggers; Prefect shows only loggers that it is told of.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "engine,tasks",
    # Prefect logs each state of each task run, and each hook: hundreds of rows that say nothing.
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",
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

_GPU: dict[str, Any] = {
    "gpus": 1,
    "device_requests": [{"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu"]]}],
}
_NO_GPU: dict[str, Any] = {"gpus": 0, "device_requests": []}
_SMALL: dict[str, Any] = {
    "memory_limit": "2Gi",
    "memory_request": "1Gi",
    "deadline_seconds": 14400,
}
"""Job variables of a flow that computes nothing."""


@dataclass(frozen=True)
class DeployTarget:
    """Where deployments go: a work pool, the store of their runs, and the image of their jobs.

    Attributes:
        pool: Name of the work pool.
        variables: Variables of its base job template; a job variable that is not among them is left
            out.
        store: Path or URL that every worker reaches.
        image: Image of the jobs, where the pool has one.
        suffix: Ends the names, for a second deployment of the same recipe.
    """

    pool: str
    variables: frozenset[str]
    store: str
    image: str | None = None
    suffix: str = ""

    @classmethod
    def of(cls, pool: WorkPool, store: str, image: str | None, suffix: str = "") -> "DeployTarget":
        """Check store and image by the template of a pool.

        Raises:
            ConfigurationError: If the jobs would have no image, or could not reach the store.
        """
        properties = pool.base_job_template.get("variables", {}).get("properties", {})
        in_containers = "image" in properties
        if in_containers and not image and "default" not in properties["image"]:
            raise ConfigurationError(
                f"The work pool {pool.name} runs jobs in containers, and its template names no "
                "image. Give one that has this project, e.g. --image registry/mgd:0.1.0, or set "
                "MGD_IMAGE; deployments/Dockerfile makes it."
            )
        if in_containers and "://" not in store and not os.path.isabs(store):
            raise ConfigurationError(
                f"--store {store!r} is a folder of this machine, and what a container of the work "
                f"pool {pool.name} writes there is lost with it. Use a URL that the jobs reach, "
                "e.g. --store s3://bucket/folder, or set MGD_STORE."
            )
        return cls(
            pool.name,
            frozenset(properties),
            absolute(store),
            image if in_containers else None,
            suffix,
        )

    @property
    def has_gpus(self) -> bool:
        """Whether its jobs can be given a GPU."""
        return not self.variables.isdisjoint(_GPU)

    def job_variables(self, **wanted: Any) -> dict[str, Any]:  # noqa: ANN401 (as the template says)
        """Return the variables of a job: those wanted that the pool knows, and its own."""
        in_containers = "image" in self.variables
        always: dict[str, Any] = {"env": ENVIRONMENT | SPOT if in_containers else ENVIRONMENT}
        if self.image:
            always["image"] = self.image
        return {name: value for name, value in (always | wanted).items() if name in self.variables}

    def deployment_name(self, name: str) -> str:
        """Return the name of a deployment."""
        return f"{name}-{self.suffix}" if self.suffix else name


def recipe_deployment(
    recipe: str,
    target: DeployTarget,
    changes: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    folder: str | None = None,
) -> RunnerDeployment:
    """Return the deployment of one recipe.

    Only what its file and the changes say becomes a parameter: defaults stay those of the code
    that runs. Where jobs can have a GPU, the recipe's device is the GPU unless a change names one.

    Args:
        recipe: Name of a shipped recipe, or path of a YAML file.
        target: Where it goes.
        changes: Assignments ``dotted.key=value``.
        seeds: One run for each of these training seeds, together.
        folder: Where workers have the files of a user's own problem; by default where they are.

    Raises:
        ConfigurationError: If the recipe cannot be run, or not for several seeds.
    """
    content, checked = _content(recipe, target, list(changes), folder)
    flow, parameters = FLOWS[checked.kind], {"recipe": content, "store": target.store}
    said = list(content.get("arguments", {}))
    about = f"{checked.description} {cost(checked)}".strip()
    if seeds is not None:
        if checked.kind not in REPLICAS:
            raise ConfigurationError(
                f"--seeds {','.join(map(str, seeds))}: a recipe of kind {checked.kind} is run for "
                "one seed. Use --set training.seed=N."
            )
        flow = REPLICAS[checked.kind]
        parameters["seeds"] = list(seeds)
        about += f" Once for each of {len(seeds)} training seeds, in parallel if workers are free."
    on_gpu = checked.descent.training.device.startswith("cuda")
    return _Deployment(
        flow=flow,
        name=checked.name,
        target=target,
        parameters=recipe_values(flow, checked, said) | parameters,
        form=recipe_form(flow, checked, said),
        description=about,
        tags=["mgd", RESUME_TAG, *(["gpu"] if on_gpu else [])],
        job_variables=target.job_variables(**(_GPU if on_gpu else _NO_GPU)),
        schedule=DeploymentScheduleCreate(
            schedule=CronSchedule(cron="0 2 * * *", timezone="UTC"), slug="nightly", active=False
        ),
    ).make()


def deployment_alone(
    name: str, target: DeployTarget, files: Sequence[str] = ()
) -> RunnerDeployment:
    """Return the deployment of a flow that has no recipe of its own.

    Args:
        name: Name of a flow in ``flows.registry.TRUST`` or ``HOUSEKEEPING``.
        target: Where it goes.
        files: Recipes that do not ship, by path, which its form offers as well.
    """
    if name in HOUSEKEEPING:
        return housekeeping_deployment(name, target)
    flow, offered = TRUST[name], "recipe" in TRUST[name].parameters.properties
    parameters: dict[str, Any] = {"store": target.store}
    if offered:
        parameters |= {"recipe": DEFAULT_RECIPE, "device": "cuda" if target.has_gpus else "cpu"}
    recipes = [*list_recipes(), *map(absolute, files)] if offered else []
    return _Deployment(
        flow=flow,
        name=name,
        target=target,
        parameters=parameters,
        form=form(flow, recipes),
        description=(flow.description or "").splitlines()[0],
        tags=["mgd", *(["gpu"] if target.has_gpus else [])],
        job_variables=target.job_variables(**(_GPU if target.has_gpus else _NO_GPU)),
    ).make()


def housekeeping_deployment(name: str, target: DeployTarget) -> RunnerDeployment:
    """Return the deployment of a flow of house-keeping.

    Started by hand it only says what it would do; its schedule, once it is switched on, does it.
    """
    flow = HOUSEKEEPING[name]
    description = (flow.description or "").splitlines()[0]
    return _Deployment(
        flow=flow,
        name=name,
        target=target,
        parameters={
            "store": target.store,
            "older_than_days": 30,
            "grace_hours": 24,
            "delete": False,
        },
        form=form(flow),
        description=f"{description} Reports only, unless told to delete; its schedule deletes.",
        tags=["mgd"],
        job_variables=target.job_variables(**_NO_GPU, **_SMALL),
        when_one_runs=ConcurrencyLimitStrategy.CANCEL_NEW,
        schedule=DeploymentScheduleCreate(
            schedule=CronSchedule(cron="0 1 * * 0", timezone="UTC"),
            slug="weekly",
            active=False,
            parameters={"delete": True},
        ),
    ).make()


@dataclass(frozen=True, kw_only=True)
class _Deployment:
    """A deployment of one run at a time, of a flow that is installed where it runs.

    Attributes:
        flow: The flow, which is named by its module: nothing is pulled, and no path of this machine
            is kept.
        name: Name of the deployment, without the suffix of the target.
        target: Where it goes.
        parameters: Parameters of the flow, which a form changes.
        form: Schema of the form.
        description: Text that Prefect's UI shows.
        tags: Tags of its runs.
        job_variables: Variables of the pool's jobs.
        schedule: When it runs by itself; none by default.
        when_one_runs: What happens to a run while another one is going on.
    """

    flow: Flow[..., Any]
    name: str
    target: DeployTarget
    parameters: dict[str, Any]
    form: ParameterSchema
    description: str
    tags: list[str]
    job_variables: dict[str, Any]
    schedule: DeploymentScheduleCreate | None = None
    when_one_runs: ConcurrencyLimitStrategy = ConcurrencyLimitStrategy.ENQUEUE

    def make(self) -> RunnerDeployment:
        """Return Prefect's object, which is not yet known to a server."""
        made = self.flow.to_deployment(
            self.target.deployment_name(self.name),
            parameters=self.parameters,
            description=self.description,
            tags=self.tags,
            concurrency_limit=ConcurrencyLimitConfig(
                limit=1, collision_strategy=self.when_one_runs
            ),
            schedules=[self.schedule] if self.schedule else [],
            work_pool_name=self.target.pool,
            job_variables=self.job_variables,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        assert isinstance(made, RunnerDeployment)  # a coroutine only inside of an event loop
        # The flow's own module says nothing until torch is there; this one loads it and says so.
        made.entrypoint = f"{loading.__name__}.{self.flow.fn.__name__}"
        # Prefect has no other way to a form than a signature, which is the same for all recipes.
        made._parameter_openapi_schema = self.form
        return made


def apply(deployments: Sequence[RunnerDeployment], client: SyncPrefectClient) -> None:
    """Put deployments into the server; one that is there gets everything but its schedules.

    Those are its owners': a schedule that a user has switched on stays on.

    Raises:
        ConfigurationError: If one of its name is on another pool; then none was put there.
    """
    for made in deployments:
        try:
            found = client.read_deployment_by_name(made.full_name)
        except ObjectNotFound:
            continue
        if found.work_pool_name not in (None, made.work_pool_name):
            raise ConfigurationError(
                f"{made.full_name} is deployed on the work pool {found.work_pool_name}, and would "
                f"move to {made.work_pool_name}. Add --suffix, e.g. --suffix gpu, for one on each, "
                f"or delete it first: prefect deployment delete {made.full_name!r}."
            )
        made.schedules = [
            DeploymentScheduleCreate(
                schedule=each.schedule,
                active=each.active,
                parameters=each.parameters,
                slug=each.slug,
            )
            for each in found.schedules
        ]
    for made in deployments:
        made.apply()


def cost(recipe: Recipe) -> str:
    """Say what a run of a descent costs, in trainings and sweeps; nothing of other kinds."""
    if type(recipe) is not DescentRecipe:
        return ""
    outer, inner = recipe.outer.num_steps, recipe.training.num_steps
    injected = recipe.metaparameters.about.is_injected
    reversed_steps = inner - recipe.injection_step if injected else inner
    return (
        f"Expected cost: {outer + 1} trainings of {inner} steps and {outer} reverse sweeps over "
        f"{reversed_steps} of them."
    )


def _content(
    recipe: str, target: DeployTarget, changes: list[str], folder: str | None
) -> tuple[dict[str, Any], Recipe]:
    """Return a recipe's content as parameters, and the recipe with its defaults."""
    named = {change.partition("=")[0].strip() for change in changes}
    wants_gpu = target.has_gpus and not named & {"training", "training.device"}
    on_gpu = ["training.device=cuda"] if wants_gpu else []
    path, content = read_recipe_file(recipe, [*on_gpu, *changes])
    checked = validate_recipe(dict(content), str(path))
    if names_code(checked.problem, checked.arguments):
        # With digests, workers take the arguments as checked, and compare their own source.
        content |= {"arguments": checked.arguments, "code": checked.code}
        content["folder"] = folder or checked.folder
        keep_code(checked.descent, target.store, deployed=True)
    else:
        content.pop("folder", None)
    return content, checked
