"""When a finished stage is used again, and when a failed one is tried again."""

import logging
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from prefect import Task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.results import ResultStore
from prefect.types import DateTime

from engine import commits, keys
from engine.claims import claim, run_name
from engine.config import DescentRecipe
from engine.errors import EngineError, StoreError
from engine.keys import Ref
from engine.location import filesystem, is_passing

COST_ONLY = {"recipe", "store", "trajectory"}
"""Parameters of tasks that are no inputs: the recipe counts by itself, the others change no bit."""

logger = logging.getLogger(__name__)

_LONG_AGO = DateTime(2000, 1, 1, tzinfo=UTC)


@dataclass
class StagePolicy(CachePolicy):
    """Keys a task by the engine's stage key, and honours a hit only while its rows are intact.

    The task's parameters besides those in ``COST_ONLY`` are the stage's inputs.
    """

    stage: str = ""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,  # noqa: ANN401 (Prefect's signature)
    ) -> str | None:
        """Return the key; a record whose rows are gone or damaged is made to miss."""
        del flow_parameters, kwargs
        rest = {name: value for name, value in inputs.items() if name not in COST_ONLY}
        recipe, store = inputs["recipe"], inputs["store"]
        key = keys.stage_key(self.stage, recipe, rest)
        record = f"{self.stage}-{key}"
        filesystem(store)  # first, so that Prefect's storage too gets the session that it sets up
        results = task_ctx.result_store
        cached = results.exists(record)
        claimed = (store, run_name(recipe), self.stage, key, task_ctx.task_run.name)
        claim(*claimed, cached=cached)  # before it is looked for: see engine.claims
        if cached and not _is_intact(results, record, commits.find(self.stage, key, store)):
            claim(*claimed, cached=False)
            # Storages have no delete: a record that has expired does not exist either, and the
            # body, which then runs, writes it anew.
            results.write(obj=None, key=record, expiration=_LONG_AGO)
        return record


def _is_intact(results: ResultStore, record: str, found: Ref | None) -> bool:
    """Say whether Prefect's record of a stage holds the reference that was found committed."""
    if found is None:
        return False  # and why has been said
    try:
        recorded = results.read(record).result
    except Exception as error:  # whatever a storage or a serializer raises
        recorded = f"{type(error).__name__}: {error}"
    if recorded != found:
        logger.warning("Prefect's record %s is made again: it holds %s", record, recorded)
    return recorded == found


def stage_name(task: Task[..., Any]) -> str:
    """Return which stage a task carries out; its own name if it is none of the engine's."""
    policy = task.cache_policy
    return policy.stage if isinstance(policy, StagePolicy) else task.name


def smaller_pieces(recipe: DescentRecipe) -> DescentRecipe | None:
    """Return the recipe with half the examples reversed at a time; None if it is one already.

    Sums are made in another order then, so the last bits change, and with them the keys.
    """
    size = recipe.replay.micro_batch or recipe.training.batch_size
    if size == 1:
        return None
    replay = recipe.replay.model_copy(update={"micro_batch": size // 2})
    return recipe.model_copy(update={"replay": replay})


def is_transient(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Say whether the same attempt may succeed later: a store that did not answer.

    A wrong number stays wrong. What a stage needs another worker or smaller pieces for is not
    tried here but handed in again, see ``tasks.runner``.
    """
    del task, task_run
    error = state.result(raise_on_failure=False)
    if isinstance(error, EngineError):
        # Missing or damaged rows are StoreErrors too, and stay so: only plain ones are tried again.
        return type(error) is StoreError
    return isinstance(error, Exception) and is_passing(error)
