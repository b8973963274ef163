"""Runs the stages of one flow run, and keeps count of them.

References travel between stages, never tensors. A stage may be submitted before the stages that it
reads have finished: its inputs may be ``StageFuture``s.
"""

import logging
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture

from engine.errors import MemoryExhaustedError, WorkerLostError
from engine.numerics.process import keep_freed_memory
from engine.progress.meter import heard_by
from engine.progress.time_left import REPLAY
from engine.recipes.descent import DescentRecipe
from engine.recipes.names import run_name
from engine.runs.budget import Budget
from engine.runs.run import Stages
from engine.stages import commits
from engine.stages.keys import engine_version
from engine.stages.references import Ref
from engine.stages.run import Run
from tasks.running.policy import smaller_pieces
from tasks.running.progress import Progress
from tasks.running.stage_task import CACHED, ENGINE, stage_name, stage_of
from tasks.running.stopping import to_its_end
from tasks.running.workers import Workers

logger = logging.getLogger(__name__)

LOST_WORKERS = 3
"""Times that a stage is handed in again after the cluster has given it up."""


class StageFuture:
    """A stage that was handed in; ``result`` waits for its reference."""

    def __init__(self, settle: Callable[[], Ref], handle: PrefectFuture[Ref] | None = None) -> None:
        self._settle, self._ref = settle, None
        self.handle = handle

    def result(self) -> Ref:
        """Return the stage's reference when it is committed.

        Raises:
            Exception: Whatever the stage, or one that it reads, raised after its retries.
        """
        if self._ref is None:
            self._ref = self._settle()
        return self._ref

    def peek(self) -> Ref | None:
        """Return the stage's reference if it is committed by now; any thread may ask."""
        if self.handle is None:
            return self.result()
        state = self.handle.state
        return cast(Ref, state.result()) if state.is_completed() else None


def tell_scores(progress: Progress, store: str, outer_step: int, scored: StageFuture) -> None:
    """Say what the model of an outer step scores when that is known, before its reverse sweep."""

    def look() -> bool:
        ref = scored.peek()
        if ref is not None:
            progress.scored(outer_step, commits.read_scalars(store, ref))
        return ref is not None

    if not look():
        progress.when(look)


GPU_TAG = "gpu"
"""Task runs with this tag share the GPUs, see ``deployments/pools.py``."""


class StageRunner:
    """Hands stages to workers, and counts them.

    Args:
        recipe: The set-up, handed to every stage. After a stage that ran out of GPU memory it
            has smaller micro-batches.
        store: fsspec URL of the store.
        progress: Is told of every stage that begins and ends.
        workers: Where stages run.
    """

    def __init__(
        self, recipe: DescentRecipe, store: str, progress: Progress, workers: Workers | None = None
    ) -> None:
        self.recipe, self.store, self.progress = recipe, store, progress
        self.workers = workers or Workers()
        self.total = self.cached = self.retried = 0
        self.budget = Budget(recipe.budget, store, run_name(recipe))

    def run(self, stage: Task[..., Ref], name: str, **inputs: Any) -> Ref:  # noqa: ANN401 (the stage's)
        """Run one stage under a readable name and return its reference; see ``submit``."""
        return self.submit(stage, name, **inputs).result()

    def submit(self, stage: Task[..., Ref], name: str, **inputs: Any) -> StageFuture:  # noqa: ANN401 (the stage's)
        """Hand in one stage under a readable name, to be carried out beside others.

        Without a cluster it is carried out at once, and an error is raised here.

        Args:
            stage: A task of ``tasks.training``, or one like them.
            name: Name of its task run, in the UI.
            **inputs: The stage's; a ``StageFuture`` stands for its reference.

        Raises:
            BudgetSpentError: If that was the last stage that the run may do.
        """
        named = stage.with_options(
            task_run_name=name,
            tags=stage_tags(self.recipe),
            on_running=[_prepare_process],
            on_completion=[_note_attempts],
            on_failure=[_free_memory],
        )
        if self.workers.runner is None:
            ref = self._settle(named, name, inputs)
            return StageFuture(lambda: ref)
        handles = {
            name: value.handle if isinstance(value, StageFuture) else value
            for name, value in inputs.items()
        }
        handle = self.workers.submit(named, self._handed_over(named, handles))
        return StageFuture(lambda: self._settle(named, name, inputs, handle), handle)

    def peek(self, stage: Task[..., Ref], **inputs: Any) -> Ref | None:  # noqa: ANN401 (the stage's)
        """Return the stage's reference if it is committed; does not look at its rows."""
        declared = stage_of(stage)
        assert declared is not None  # only stages of the engine are looked for
        return declared.committed(Run(self.recipe, self.store), **inputs)

    def discard(self, ref: Ref) -> None:
        """Delete the result of a stage that no other stage needs."""
        commits.discard(self.store, ref)

    @property
    def counts(self) -> Stages:
        """How many stages ran so far, how many were cached and how many retried."""
        return Stages(total=self.total, cached=self.cached, retried=self.retried)

    def _settle(
        self,
        stage: Task[..., Ref],
        name: str,
        inputs: dict[str, Any],
        handle: PrefectFuture[Ref] | None = None,
    ) -> Ref:
        """Wait for a stage; hand it in again if its worker is lost or its memory too small."""
        # What it reads comes first: where that failed, its error is the cause.
        inputs = {
            name: value.result() if isinstance(value, StageFuture) else value
            for name, value in inputs.items()
        }
        lost = shrunk = 0
        kind = stage_name(stage)
        while True:
            self.progress.begins(name, kind)
            try:
                state = to_its_end(name, partial(self._attempt, stage, inputs, handle))
            except BaseException:
                self.progress.begins_again(name)
                raise
            if state is not None and state.is_completed():
                break
            handle = None
            self.progress.begins_again(name)
            if state is not None and state.is_failed():
                self._shrink(name, stage, state)
                shrunk += 1
            else:
                lost += 1
                logger.warning("The worker of %s is lost, for the %d. time", name, lost)
                if lost > LOST_WORKERS:
                    raise WorkerLostError(
                        f"{name} has lost its worker {lost} times. Look into the workers' logs: "
                        "most often their memory is too small. The same command goes on."
                    )
        ref = cast(Ref, state.result())
        self.progress.ends(name, kind, ref, cached=state.name == CACHED)
        # A trajectory is a part of the reverse stage that uses it, done elsewhere.
        if kind != REPLAY:
            self.total += 1
            self.cached += state.name == CACHED
            self.retried += bool(lost or shrunk or (state.message or "").endswith(_ATTEMPTS))
            self.budget.spend(ref, self.total, self.progress.num_stages)
        return ref

    def _attempt(
        self, stage: Task[..., Ref], inputs: dict[str, Any], handle: PrefectFuture[Ref] | None
    ) -> State[Ref] | None:
        """Return the final state of one attempt; None if its worker is lost."""
        if self.workers.runner is None:
            with heard_by(self.progress.meter):
                return cast(State[Ref], stage(**self._parameters(inputs), return_state=True))
        handle = handle or self.workers.submit(stage, self._handed_over(stage, inputs))
        try:
            handle.result(raise_on_failure=False)
        except (*self.workers.lost, UnfinishedRun):
            return None  # or that of a stage which it reads, and which was handed in again
        return handle.state

    def _shrink(self, name: str, stage: Task[..., Ref], state: State[Ref]) -> None:
        """Go on with smaller pieces where GPU memory ran out; raise any other error."""
        error = state.result(raise_on_failure=False)
        if not isinstance(error, torch.OutOfMemoryError):
            state.result()
        smaller = smaller_pieces(self.recipe) if stage_name(stage) == "reverse" else None
        if smaller is None:
            raise MemoryExhaustedError(
                f"{name} does not fit into the memory of its device: {error}. Use a smaller "
                "training.batch_size or model, or a device with more memory."
            )
        size = smaller.replay.micro_batch
        logger.warning("%s ran out of memory; the run goes on with micro_batch=%s", name, size)
        self.recipe = smaller

    def _parameters(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"recipe": self.recipe, "store": self.store, **inputs}

    def _handed_over(self, stage: Task[..., Ref], inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters of a stage for another process that carries it out."""
        version = {} if stage_of(stage) is None else {ENGINE: engine_version()}
        return {**self._parameters(inputs), **version}


_ATTEMPTS = " attempts"


def _prepare_process(_task: Task[..., Ref], _task_run: TaskRun, _state: State[Ref]) -> None:
    """Set up the process that runs a stage: a cluster's worker was not started by the flow."""
    keep_freed_memory()


def _note_attempts(_task: Task[..., Ref], task_run: TaskRun, state: State[Ref]) -> None:
    """Say in the state how often a stage was tried: nothing else travels back from a worker."""
    if task_run.run_count > 1:
        state.message = f"{task_run.run_count}{_ATTEMPTS}"


def _free_memory(_task: Task[..., Ref], _task_run: TaskRun, state: State[Ref]) -> None:
    """Free the memory that a failed stage still holds through the frames of its error."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, torch.OutOfMemoryError):
        traceback.clear_frames(error.__traceback__)
        torch.cuda.empty_cache()


def stage_tags(recipe: DescentRecipe) -> set[str]:
    """Return the tags by which Prefect's limits count stages: ``gpu`` where one is used."""
    return {GPU_TAG} if recipe.training.device.startswith("cuda") else set()
