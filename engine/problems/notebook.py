"""A problem's training as a run without a recipe."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from engine.errors import ConfigurationError, EngineError
from engine.metaparameters.base import Metaparameter
from engine.recipes.code.user_code import raised
from engine.routine.optimizer import Optimizer
from engine.routine.rates import rates_alone
from engine.routine.routine import Routine

if TYPE_CHECKING:
    from engine.problems.base import Problem

_STEPS = "num_steps"
"""The argument of what a problem makes for T steps."""


def notebook_routine(
    problem: "Problem", metaparameters: Mapping[str, Metaparameter], settings: Mapping[str, Any]
) -> Routine:
    """Return a problem's training as a run, without a recipe; see ``Problem.routine``.

    Raises:
        ConfigurationError: Names what neither problem nor settings say.
    """
    seed, steps = settings.get("seed", 0), settings.get("num_steps")
    made = problem.model if isinstance(problem.model, nn.Module) else problem.model(seed)
    own = {
        "augment": problem.augment,
        "order": problem.order,
        "state": problem.state,
        "advance": problem.advance,
        "optimizer": for_steps(problem.optimizer, steps) if steps else problem.optimizer,
        "learning_rate": for_steps(problem.learning_rate, steps) if steps else None,
    }
    said = {name: each for name, each in own.items() if each is not None} | dict(settings)
    if isinstance(said.get("learning_rate"), LRScheduler) and steps:
        optimizer = said.get("optimizer")
        known = optimizer if isinstance(optimizer, Optimizer) else None
        said["learning_rate"] = rates_alone(said["learning_rate"], steps, known)
    wanted = ("num_steps", "batch_size", "optimizer", "learning_rate")
    if missing := [name for name in wanted if name not in said]:
        raise ConfigurationError(
            f"Neither the problem nor the call says {', '.join(missing)}. Hand in "
            f"{', '.join(f'{name}=' for name in missing)} as of engine.Routine, e.g. "
            "problem.routine({...}, num_steps=100, batch_size=20, optimizer=engine.adamw(), "
            "learning_rate=0.01)."
        )
    return Routine(
        model=made,
        loss=problem.training_loss or problem.loss,
        examples=problem.train,
        metaparameters=dict(metaparameters),
        **said,
    )


def for_steps(given: Any, num_steps: int) -> Any:  # noqa: ANN401 (whatever was handed in)
    """Return a part of a problem, called with T if it is a function of ``num_steps``."""
    if not callable(given) or isinstance(given, type):
        return given
    try:
        names = inspect.signature(given).parameters  # by name: many functions take anything
    except (TypeError, ValueError):  # of a builtin, which says nothing about its arguments
        return given
    if _STEPS not in names:
        return given
    try:
        return given(num_steps=num_steps)
    except EngineError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"A function of num_steps, which the problem has for its optimizer or its learning "
            f"rates, raised {raised(error)}. It is called with num_steps={num_steps}."
        ) from error
