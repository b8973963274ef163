"""Settings of workers and budget. None of them changes a result."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from engine.recipes.settings import Settings
from engine.secret_urls import SafeUrl


class RunnerName(StrEnum):
    """Where the stages of a run are carried out; changes cost, never the answer."""

    LOCAL = "local"
    DASK = "dask"
    RAY = "ray"


class CodePlace(StrEnum):
    """Where workers find the files of a problem that is not installed."""

    BESIDE = "beside"
    """On their own disks: in the recipe's folder, or where they were started."""

    STORE = "store"
    """In the store, where they are not on the disk. Anyone who can write to the store and knows how
    to make another file of the same digest could have it run; no store can ask for it."""


class PreflightMode(StrEnum):
    """What a run does when its preflight refuses it."""

    ENFORCE = "enforce"
    ADVISE = "advise"


class WorkersSettings(Settings):
    """Settings of the workers; they change the cost, but neither the result nor the run's name."""

    runner: RunnerName = RunnerName.LOCAL
    """One process (local), or the workers of a Dask or a Ray cluster."""

    address: SafeUrl | None = None
    """Dask scheduler (tcp://host:8786) or Ray head (ray://host:10001); empty starts a cluster on
    this machine for the run."""

    num_workers: Annotated[int | None, Field(ge=1, le=10_000)] = None
    """Processes of the cluster that is started for the run; empty means 2."""

    gpus_per_stage: Annotated[int, Field(ge=0)] = 0
    """GPUs that a stage takes for itself. Dask workers must offer them: --resources GPU=1."""

    lookahead: Annotated[int | None, Field(ge=0)] = None
    """Most trajectories of a segment that may be in the store at once, replayed by other workers
    before the adjoint gets there; empty means 2 on a cluster, none in one process."""

    code: CodePlace = CodePlace.BESIDE
    """Where workers find a problem's file: beside the recipe on their own disks, or (store) in the
    store, in which the start of a run then keeps it."""

    @model_validator(mode="after")
    def _settings_are_read(self) -> "WorkersSettings":
        cluster = {"address": self.address, "num_workers": self.num_workers}
        given = [name for name, value in cluster.items() if value is not None]
        if self.runner is RunnerName.LOCAL and (given or self.gpus_per_stage):
            name = (given or ["gpus_per_stage"])[0]
            raise ValueError(
                f"workers.{name} is {getattr(self, name)}, but workers.runner is local, which is "
                "one process and would ignore it. Use runner dask or ray, or leave it out."
            )
        if len(given) == 2:
            raise ValueError(
                f"workers.num_workers is {self.num_workers}, but the cluster at {self.address} "
                "has its own workers. Leave num_workers out, or address."
            )
        return self

    @property
    def most_trajectories(self) -> int:
        """``lookahead`` with its default filled in."""
        default = 0 if self.runner is RunnerName.LOCAL else 2
        return default if self.lookahead is None else self.lookahead


class BudgetSettings(Settings):
    """What a run may spend; it stops at a border between stages, and can go on with more.

    No part of a run's name or of a stage's key: a budget changes what is finished, never a result.
    """

    max_seconds: Annotated[float | None, Field(gt=0)] = None
    """Computing time of stages after which the run stops; the next start may spend as much again.
    Empty means no limit."""

    max_bytes: Annotated[int | None, Field(gt=0)] = None
    """Bytes of the stages that the run has made after which it stops; empty means no limit."""
