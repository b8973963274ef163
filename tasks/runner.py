"""Runs the stages of one flow run, and keeps count of them."""

from pathlib import Path
from typing import Any, cast

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.filesystems import RemoteFileSystem

from engine.budget import Budget
from engine.claims import run_name
from engine.config import DescentRecipe, digest
from engine.location import filesystem, is_local, join
from engine.runs import Stages
from engine.stages import Ref
from tasks.progress import Progress

GPU_TAG = "gpu"
"""Task runs with this tag share the GPUs, see ``deployments/pools.py``."""


class StageRunner:
    """Calls stage tasks with their records on the run's own store, and counts what became of them.

    Args:
        recipe: The set-up, handed to every stage.
        store: fsspec URL of the store.
        progress: Is told of every stage.
    """

    def __init__(self, recipe: DescentRecipe, store: str, progress: Progress) -> None:
        self.recipe, self.store, self.progress = recipe, store, progress
        self.total = self.cached = self.retried = 0
        self.budget = Budget(recipe.budget, store, run_name(recipe))
        self._records = result_storage(store)

    def run(self, stage: Task[..., Ref], name: str, **inputs: Any) -> Ref:  # noqa: ANN401 (the stage's)
        """Run one stage under a readable name and return its reference.

        Raises:
            BudgetSpentError: If that was the last stage that the run may do.
            Exception: Whatever the stage raised, after its retries.
        """
        named = stage.with_options(
            task_run_name=name,
            result_storage=self._records,
            on_completion=[self._note_retry],
            tags=stage_tags(self.recipe),
        )
        state = cast(State[Ref], named(self.recipe, self.store, **inputs, return_state=True))
        self.total += 1
        self.cached += state.name == "Cached"
        ref = state.result()
        self.progress.stage_done(name, self.total)
        self.budget.spend(ref, self.total, self.progress.num_stages)
        return ref

    @property
    def counts(self) -> Stages:
        """How many stages ran so far, how many were cached and how many retried."""
        return Stages(total=self.total, cached=self.cached, retried=self.retried)

    def _note_retry(self, task: Task[..., Ref], task_run: TaskRun, state: State[Ref]) -> None:
        del task, state
        self.retried += task_run.run_count > 1


def stage_tags(recipe: DescentRecipe) -> set[str]:
    """Return what Prefect's limits count stages by: ``gpu`` for those that compute on one."""
    return {GPU_TAG} if recipe.training.device.startswith("cuda") else set()


def result_storage(store: str) -> Any:  # noqa: ANN401 (a Path or a block, as Prefect takes it)
    """Return where Prefect keeps the records of stages: beside the checkpoints.

    A local folder needs no block. Anything else is a block that has to be saved by name before a
    task may use it.
    """
    folder = join(store, "results")
    file_system, path = filesystem(folder)
    if is_local(file_system):
        return Path(path)
    block = RemoteFileSystem(basepath=folder)
    block.save(f"mgd-{digest(folder)[:16]}", overwrite=True)
    return block
