"""The stages of the engine as Prefect tasks: what is committed is used again, and nothing else.

Prefect can keep results of tasks and answer from them. That is not used: its records name their own
serializer, and even its JSON calls what the record names, so a record in a store that another user
can write to would run code. Whether a stage is done says ``engine.stages.commits.find``, which
reads plain bytes and compares every one of them with what was committed. A stage that was found
there ends in the state ``Cached``, as Prefect calls it. ``results/`` in a store is of an earlier
version; nothing reads it.
"""

import inspect
import socket
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.states import Completed
from prefect.tasks import exponential_backoff

import engine
from engine.errors import ConfigurationError
from engine.recipes.descent import DescentRecipe
from engine.stages import commits
from engine.stages.claims import claim
from engine.stages.keys import engine_version
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.stage import Stage
from engine.storage.location import store_errors
from tasks.running.elsewhere import reporting_stage
from tasks.running.policy import is_transient

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

ENGINE = "engine"
"""Parameter of every task: the version of the engine that hands it to a cluster; empty in one
process. Workers with another one refuse, see ``_refuse_another_engine``."""

P = ParamSpec("P")


def stage_task(stage: Stage[P]) -> Task[Concatenate[DescentRecipe, str, P], Ref]:
    """Make a task of a stage, which takes ``recipe`` and ``store`` in place of the run.

    Name, words for people and the other parameters are those of the stage. A task travels to a
    worker as its values, and the stage in it as a name, so a worker has to be able to import the
    engine and this module only.
    """

    def carry_out(recipe: DescentRecipe, store: str, *args: P.args, **kwargs: P.kwargs) -> Any:  # noqa: ANN401 (Ref or State)
        _refuse_another_engine(cast("dict[str, Any]", kwargs).pop(ENGINE, ""))
        run = Run(recipe, store)
        key = stage.key(run, *args, **kwargs)
        found = _committed(stage.name, key, run)
        if found is None:
            with reporting_stage(run, stage.name, key, _task_run_name(stage.name)):
                return stage(run, *args, **kwargs)
        # One that the same task run has committed before it was tried again is its own.
        return Completed(name=CACHED, data=found) if _is_first_attempt() else found

    made = cast(Any, carry_out)
    made.__name__, made.__qualname__ = stage.compute.__name__, stage.compute.__qualname__
    made.__doc__, made.__signature__ = stage.__doc__, _signature(stage)
    made.stage = stage
    return cast("Task[Concatenate[DescentRecipe, str, P], Ref]", task(made, **_OPTIONS))


def _signature(stage: Stage[...]) -> inspect.Signature:
    """Return the signature of a stage's task: JSON takes the place of the run."""
    _, *inputs = stage.signature.parameters.values()
    place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    run = [
        inspect.Parameter("recipe", place, annotation=DescentRecipe),
        inspect.Parameter("store", place, annotation=str),
    ]
    version = inspect.Parameter(ENGINE, inspect.Parameter.KEYWORD_ONLY, default="", annotation=str)
    return stage.signature.replace(parameters=[*run, *inputs, version])


def _refuse_another_engine(expected: str) -> None:
    """Refuse to carry out a stage with another engine than the process that hands it in.

    It would commit the stage under a key of its own, which that process never finds again, by rules
    that may be others, and neither would say so.

    Args:
        expected: Version of the other process; empty if it is this one.

    Raises:
        ConfigurationError: Names the worker and where its engine lies.
    """
    if expected and expected != engine_version():
        raise ConfigurationError(
            f"A worker on {socket.gethostname()} has another version of the engine, in "
            f"{Path(engine.__file__).parent}: its source has the digest {engine_version()}, and "
            f"that of the process that runs the flow has {expected}. Install the same version for "
            "both, or start the workers where the same one is imported (PYTHONPATH)."
        )


def stage_of(task: Task[..., Any]) -> Stage[...] | None:
    """Return the stage that a task carries out; None if it is not one of the engine's."""
    return getattr(task.fn, "stage", None)


def stage_name(task: Task[..., Any]) -> str:
    """Return the name of the stage that a task carries out; its own if that is none."""
    stage = stage_of(task)
    return task.name if stage is None else stage.name


def _committed(stage: str, key: str, run: Run) -> Ref | None:
    """Claim a stage for the run, and return it if it is committed and intact."""
    claimed = (run.store, run.name, stage, key, _task_run_name(stage))
    with store_errors(run.store):
        likely = commits.committed(stage, key, run.store) is not None
        claim(*claimed, cached=likely)  # before it is looked for: see engine.stages.claims
        found = commits.find(stage, key, run.store) if likely else None
        if likely and found is None:
            claim(*claimed, cached=False)
    return found


def _task_run_name(stage: str) -> str:
    context = TaskRunContext.get()
    return stage if context is None else context.task_run.name


def _is_first_attempt() -> bool:
    context = TaskRunContext.get()
    return context is None or context.task_run.run_count <= 1
