"""When a finished stage is used again, and when a failed one is tried again."""

from dataclasses import dataclass
from datetime import UTC
from typing import Any

from prefect import Task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.types import DateTime

from engine import stages
from engine.claims import claim, run_name
from engine.errors import EngineError, StoreError

_LONG_AGO = DateTime(2000, 1, 1, tzinfo=UTC)


@dataclass
class StagePolicy(CachePolicy):
    """Keys a task by the engine's stage key, and honours a hit only while its rows are intact.

    The task's parameters besides ``recipe`` and ``store`` are the stage's inputs.
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
        rest = {name: value for name, value in inputs.items() if name not in ("recipe", "store")}
        recipe, store = inputs["recipe"], inputs["store"]
        key = stages.stage_key(self.stage, recipe, rest)
        record = f"{self.stage}-{key}"
        results = task_ctx.result_store
        cached = results.exists(record)
        claimed = (store, run_name(recipe), self.stage, key, task_ctx.task_run.name)
        claim(*claimed, cached=cached)  # before it is looked for: see engine.claims
        if cached and stages.find(self.stage, key, store) is None:
            claim(*claimed, cached=False)
            # Storages have no delete: a record that has expired does not exist either, and the
            # body, which then runs, writes it anew.
            results.write(obj=None, key=record, expiration=_LONG_AGO)
        return record


def is_transient(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Say whether another attempt may succeed: a store that did not answer, not a wrong number."""
    del task, task_run
    error = state.result(raise_on_failure=False)
    # Missing or damaged rows are StoreErrors too, and stay so: only the plain ones are tried again.
    return (
        type(error) is StoreError if isinstance(error, EngineError) else isinstance(error, OSError)
    )
