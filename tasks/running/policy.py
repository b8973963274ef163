"""When a failed stage is tried again, and how."""

from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from engine.errors import EngineError, StoreError
from engine.recipes.descent import DescentRecipe
from engine.storage import transient_errors


def smaller_pieces(recipe: DescentRecipe) -> DescentRecipe | None:
    """Return the recipe with half the examples reversed at a time; None if it is one already.

    Sums are made in another order then, so the last bits change, and with them the keys.
    """
    size = recipe.replay.micro_batch or recipe.training.batch_size
    if size == 1:
        return None
    replay = recipe.replay.model_copy(update={"micro_batch": size // 2})
    return recipe.model_copy(update={"replay": replay})


def is_transient(_task: Task[..., Any], _task_run: TaskRun, state: State[Any]) -> bool:
    """Say whether the same attempt may succeed later: a store that did not answer.

    A wrong number stays wrong. What a stage needs another worker or smaller pieces for is not
    tried here but handed in again, see ``tasks.running.runner``.
    """
    error = state.result(raise_on_failure=False)
    if isinstance(error, EngineError):
        # Missing or damaged rows are StoreErrors too, and stay so: only plain ones are tried again.
        return type(error) is StoreError
    return isinstance(error, Exception) and transient_errors.is_transient(error)
