"""Workers that carry out stages: this process, or those of a Dask or a Ray cluster.

Prefect's own task runners do the work. They are used as context managers inside a flow, so that
the settings of the run choose one without a subflow, also where a deployment calls the flow.
"""

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner

from engine.errors import ConfigurationError
from engine.extras import install
from engine.progress.meter import doing
from engine.recipes.execution import RunnerName, WorkersSettings

if TYPE_CHECKING:
    from prefect_dask.task_runners import DaskTaskRunner

T = TypeVar("T")

CONNECT_SECONDS = 20
"""Longest wait for a cluster to answer."""


@dataclass(frozen=True)
class Workers:
    """Where stages run.

    Attributes:
        runner: A started task runner, or None: in this process, one stage at a time.
        resources: Makes the context in which a stage is submitted, which claims its GPUs.
        lost: What a future raises when the worker died, however often the cluster tried again.
        hear: Lets what stages tell while they are at work be heard, by topic; None if they tell
            nothing but in the store.
    """

    runner: TaskRunner[Any] | None = None
    resources: Callable[[], AbstractContextManager[Any]] = nullcontext
    lost: tuple[type[Exception], ...] = ()
    hear: Callable[[str, Callable[[dict[str, Any]], None]], None] | None = None

    def submit(self, stage: Task[..., T], parameters: dict[str, Any]) -> PrefectFuture[T]:
        """Hand a task to the cluster; parameters may hold futures of this cluster."""
        assert self.runner is not None
        with self.resources():
            return self.runner.submit(stage, parameters=parameters)

    def together(self, chains: list[Callable[[], T]]) -> list[T]:
        """Call functions that run independent chains of stages, at once where there are workers.

        In one process they are called one after the other. On a cluster each waits for its own
        stages in a thread, and computes nothing here.

        Raises:
            Exception: What the first chain that failed has raised.
        """
        if self.runner is None or len(chains) < 2:
            return [chain() for chain in chains]
        pool = ThreadPoolExecutor(len(chains))
        try:
            # A copy each: the flow run is a context variable.
            waiting = [pool.submit(copy_context().run, chain) for chain in chains]
            return [each.result() for each in waiting]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def open_workers(settings: WorkersSettings) -> Iterator[Workers]:
    """Connect to the workers of a run, or start them, and let go of them at the end.

    Raises:
        ConfigurationError: If the package for them is missing, or nobody answers at the address.
    """
    match settings.runner:
        case RunnerName.LOCAL:
            yield Workers()
        case RunnerName.DASK:
            with _dask(settings) as workers:
                yield workers
        case RunnerName.RAY:
            with _ray(settings) as workers:
                yield workers


@contextmanager
def _dask(settings: WorkersSettings) -> Iterator[Workers]:
    try:
        import dask.config
        from dask.base import annotate
        from distributed import CancelledError, SpecCluster
        from distributed.comm.core import CommClosedError
        from distributed.scheduler import KilledWorker
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise _missing(settings, error) from error
    logging.getLogger("distributed").setLevel(logging.ERROR)
    gpus = settings.gpus_per_stage
    kind: dict[str, Any] = {"address": settings.address}
    if settings.address is None:
        # One worker a process and one thread a worker: a stage sets torch's threads for a process.
        spec = _dask_spec(settings.num_workers or 2, gpus)
        kind = {"cluster_class": SpecCluster, "cluster_kwargs": spec}
    runner = DaskTaskRunner(**kind, client_kwargs={"timeout": CONNECT_SECONDS})
    options = {
        "distributed.scheduler.work-stealing": False,  # a stage is long, and stays where it is
        "logging": {"distributed": "error"},  # else a page for each connection
        "distributed.scheduler.http.routes": [],  # pages that anyone could open
        # A worker's process reads this when it starts. What fails there the scheduler hears.
        "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
    }
    with dask.config.set(options), runner:
        try:
            with _waiting_for_workers(settings):
                runner.client  # noqa: B018 (connects when it is first read)
        except (OSError, TimeoutError, ValueError) as error:
            raise _unreachable(settings, "a Dask scheduler", error) from error
        yield Workers(
            runner,
            (lambda: annotate(resources={"GPU": gpus})) if gpus else nullcontext,
            (KilledWorker, CancelledError, CommClosedError),
            partial(_hear_events, runner),
        )


def _hear_events(
    runner: "DaskTaskRunner", topic: str, heard: Callable[[dict[str, Any]], None]
) -> None:
    """Hand on what workers log under a topic, without the time that Dask puts beside it."""
    runner.client.subscribe_topic(topic, lambda event: heard(event[1]))


def _dask_spec(num_workers: int, gpus: int) -> dict[str, Any]:
    """Describe a cluster on this machine, in which each worker sees GPUs of its own.

    Anyone who reaches a scheduler or a worker of Dask's runs code as its user. Every user of a
    machine reaches its loopback address, so they talk in TLS with a key that is in no file and goes
    with the run; by themselves workers would also listen to the network.
    """
    from distributed import Nanny, Scheduler
    from distributed.security import Security

    own = Security.temporary()
    private = {"host": "127.0.0.1", "protocol": "tls://", "security": own, "dashboard": False}
    workers = {}
    for number in range(num_workers):
        options: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, **private}
        # All of them at once, while they start; else each does it with its first stage.
        options["preload"] = ["tasks.training"]
        if gpus:
            seen = range(number * gpus, (number + 1) * gpus)
            options["resources"] = {"GPU": gpus}
            options["env"] = {"CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu in seen)}
        workers[number] = {"cls": Nanny, "options": options}
    return {
        "workers": workers,
        "scheduler": {"cls": Scheduler, "options": private},
        "security": own,
        "silence_logs": "ERROR",
    }


@contextmanager
def _ray(settings: WorkersSettings) -> Iterator[Workers]:
    try:
        import ray
        import ray.exceptions
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
    except ImportError as error:
        raise _missing(settings, error) from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if settings.address is None:
        options |= {"num_cpus": settings.num_workers or 2, "include_dashboard": False}
        options["_node_ip_address"] = "127.0.0.1"
        # Ray asks for a token, and by itself keeps one where others of the machine may read it. It
        # reads the environment once, so all clusters of a process have the same.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    runner = RayTaskRunner(address=settings.address, init_kwargs=options)
    try:
        with _waiting_for_workers(settings):
            runner.__enter__()
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        raise _unreachable(settings, "a Ray cluster", error) from error
    gpus = settings.gpus_per_stage
    try:
        yield Workers(
            runner,
            lambda: remote_options(num_cpus=1, num_gpus=gpus, max_retries=3),
            (ray.exceptions.RayError,),
        )
    finally:
        runner.__exit__(None, None, None)


def _waiting_for_workers(settings: WorkersSettings) -> AbstractContextManager[None]:
    """Say what is waited for until workers are there."""
    return doing("starting the workers" if settings.address is None else "reaching the workers")


def _missing(settings: WorkersSettings, error: ImportError) -> ConfigurationError:
    name = settings.runner.value
    return ConfigurationError(
        f"workers.runner is {name}, but {error.name or 'its package'} is not installed here. "
        f"Run: {install(name)}."
    )


def _unreachable(settings: WorkersSettings, what: str, error: Exception) -> ConfigurationError:
    place = "on this machine" if settings.address is None else f"at {settings.address}"
    reason = " ".join(str(error).split())[:300]
    return ConfigurationError(
        f"workers.address is {settings.address}, but {what} cannot be reached {place}: {reason}. "
        "Start it, or correct workers.address; empty starts a cluster for the run."
    )
