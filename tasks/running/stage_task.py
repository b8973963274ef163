"""The stages of the engine as Prefect tasks: what is committed is used again, and nothing else.

Prefect can keep results of tasks and answer from them. That is not used: its records name their own
serializer, and even its JSON calls what the record names, so a record in a store that somebody else
can write to would run code. Whether a stage is done says ``engine.stages.commits.find``, which
reads plain bytes and compares every one of them with what was committed. A stage that was found
there ends in the state ``Cached``, as Prefect calls it. ``results/`` in a store is of an earlier
version; nothing reads it.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from engine.recipes.names import run_name
from engine.stages import commits, keys
from engine.stages.claims import claim
from engine.stages.references import Ref
from engine.stages.stage_records import any_record, stage_folder
from engine.storage.location import store_errors
from tasks.running.policy import is_transient

COST_ONLY = {"recipe", "store", "trajectory"}
"""Parameters of tasks that are no inputs: the recipe counts by itself, the others change no bit."""

CACHED = "Cached"
"""Name of the state of a stage whose committed result was used again."""

_OPTIONS: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": 6,
    "retry_delay_seconds": exponential_backoff(2),  # 2, 4, ... 64 s: two minutes of patience
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}

P = ParamSpec("P")


def stage_task(stage: str) -> Callable[[Callable[P, Ref]], Task[P, Ref]]:
    """Make a task of a function that calls the engine for a stage.

    Its parameters besides those in ``COST_ONLY`` are the stage's inputs.
    """

    def decorate(body: Callable[P, Ref]) -> Task[P, Ref]:
        signature = inspect.signature(body)

        @wraps(body)
        def carry_out(*args: P.args, **kwargs: P.kwargs) -> Any:  # noqa: ANN401 (Ref or State)
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            found = _committed(stage, given.arguments)
            if found is None:
                return body(*args, **kwargs)
            # One that the same task run has committed before it was tried again is its own.
            return Completed(name=CACHED, data=found) if _is_first_attempt() else found

        carry_out.__dict__["stage"] = stage
        return cast("Task[P, Ref]", task(carry_out, **_OPTIONS))

    return decorate


def stage_name(task: Task[..., Any]) -> str:
    """Return which stage a task carries out; its own name if it is none of the engine's."""
    return getattr(task.fn, "stage", task.name)


def _committed(stage: str, given: dict[str, Any]) -> Ref | None:
    """Claim a stage for the run, and return it if it is committed and intact."""
    recipe, store = given["recipe"], given["store"]
    inputs = {name: value for name, value in given.items() if name not in COST_ONLY}
    key = keys.stage_key(stage, recipe, inputs)
    claimed = (store, run_name(recipe), stage, key, _task_run_name(stage))
    with store_errors(store):
        likely = any_record(stage_folder(store, stage, key)) is not None
        claim(*claimed, cached=likely)  # before it is looked for: see engine.stages.claims
        found = commits.find(stage, key, store) if likely else None
        if likely and found is None:
            claim(*claimed, cached=False)
    return found


def _task_run_name(stage: str) -> str:
    context = TaskRunContext.get()
    return stage if context is None else context.task_run.name


def _is_first_attempt() -> bool:
    context = TaskRunContext.get()
    return context is None or context.task_run.run_count <= 1
