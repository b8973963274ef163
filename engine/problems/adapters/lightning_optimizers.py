"""The optimizer of a Lightning module, its learning rates and clipping, and the number of steps."""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import nn

from engine.errors import ConfigurationError, EngineError
from engine.problems.adapters.lightning_modules import stood_in
from engine.problems.adapters.torch_optimizers import rate_of
from engine.recipes.code.user_code import raised
from engine.routine.optimizer import Optimizer
from engine.routine.rates import rates_alone


@dataclass(frozen=True)
class TrainingLength:
    """How long a training is, in steps and batches.

    Attributes:
        num_steps: T.
        batch_size: Examples of a step: those of a batch, times the batches accumulated.
        accumulated: Batches whose gradients are accumulated in a step.
        a_pass: Steps of one pass over the examples.
        batches: Batches of one pass.
    """

    num_steps: int
    batch_size: int
    accumulated: int
    a_pass: int
    batches: int


def length_of(trainer: Any, loader: Any, num_steps: int | None) -> TrainingLength:  # noqa: ANN401 (of a library)
    """Return how long a training is by its Trainer, or by a number of steps in its place.

    Raises:
        ConfigurationError: If neither says it.
    """
    accumulated = 1 if trainer is None else trainer.accumulate_grad_batches
    batches = _batches(trainer, loader)
    a_pass = math.ceil(batches / accumulated)
    if num_steps is None and trainer is not None:
        epochs, most = trainer.max_epochs, trainer.max_steps
        of_epochs = [] if epochs in (None, -1) else [epochs * a_pass]
        num_steps = min([*of_epochs, *([most] if most > 0 else [])], default=None)
    if num_steps is None:
        raise ConfigurationError(
            "It is not known how many steps the training takes. Hand in num_steps=, or a Trainer "
            "with max_epochs or max_steps."
        )
    return TrainingLength(num_steps, loader.batch_size * accumulated, accumulated, a_pass, batches)


def _batches(trainer: Any, loader: Any) -> int:  # noqa: ANN401 (of a library)
    """Return the batches of a pass: a number or a share of the loader's, if the Trainer says so."""
    limit = None if trainer is None else trainer.limit_train_batches
    if limit is None:
        return len(loader)
    return min(len(loader), limit if isinstance(limit, int) else int(len(loader) * limit))


def configured_by(module: nn.Module, length: TrainingLength) -> tuple[Any, Any]:
    """Return the optimizer and the settings of its scheduler, a dict or None."""
    known = SimpleNamespace(
        estimated_stepping_batches=length.num_steps,
        max_steps=length.num_steps,
        max_epochs=math.ceil(length.num_steps / length.a_pass),
        num_training_batches=length.batches,
        accumulate_grad_batches=length.accumulated,
    )
    try:
        with stood_in(module, known):
            given: Any = module.configure_optimizers()  # pyright: ignore[reportCallIssue] (of Lightning)
    except EngineError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"configure_optimizers raised {raised(error)}. The Trainer is replaced here by an "
            f"object that only has {', '.join(vars(known))}. Use these, or numbers of your own."
        ) from error
    return _one_of_each(given)


def _one_of_each(given: Any) -> tuple[Any, Any]:  # noqa: ANN401 (of a library)
    """Return the one optimizer and the one scheduler of what ``configure_optimizers`` returned.

    Lightning allows an optimizer, a dict, a list of either, and a pair of two lists.
    """
    if isinstance(given, tuple | list) and len(given) == 1 and isinstance(given[0], dict):
        (given,) = given
    schedulers: Any = None
    if isinstance(given, dict):
        given, schedulers = given["optimizer"], given.get("lr_scheduler")
    elif isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], list | tuple):
        given, schedulers = given
    optimizers = list(given) if isinstance(given, tuple | list) else [given]
    schedulers = list(schedulers) if isinstance(schedulers, tuple | list) else [schedulers]
    if len(optimizers) != 1 or len(schedulers) > 1 or isinstance(optimizers[0], dict):
        remedy = "Give all parameters to one optimizer, in groups."
        if len(optimizers) == 1:
            remedy = "Make one of them, by the step (torch's ChainedScheduler, or a LambdaLR)."
        raise ConfigurationError(
            f"configure_optimizers returns {len(optimizers)} optimizers and {len(schedulers)} "
            f"schedulers, but a run has one of each. {remedy}"
        )
    if optimizers[0] is None:
        raise ConfigurationError("configure_optimizers returns no optimizer. Return one.")
    return optimizers[0], schedulers[0] if schedulers else None


@dataclass(frozen=True)
class RatesOfSteps:
    """Maps T to the learning rate of each step."""

    configured: tuple[Any, Any]
    length: TrainingLength
    optimizer: Optimizer

    def __call__(self, num_steps: int) -> Any:  # noqa: ANN401 (a number, or one for each step)
        """Return the rate, or one for each of ``num_steps`` steps."""
        optimizer, given = self.configured
        settings = given if isinstance(given, dict) else {"scheduler": given}
        scheduler = settings["scheduler"]
        if scheduler is None:
            return rate_of(next(group for group in optimizer.param_groups if group["params"]))
        by_step = settings.get("interval", "epoch") == "step"
        frequency, place = settings.get("frequency", 1), [0]
        for step in range(num_steps - 1):
            place.append(place[-1] + self._is_moved_after(step, by_step, frequency))
        found = rates_alone(scheduler, place[-1] + 1, self.optimizer)
        return [found[each] for each in place]

    def _is_moved_after(self, step: int, by_step: bool, frequency: int) -> bool:
        """Say whether Lightning moves the scheduler after a step.

        Where it is moved by steps, the frequency counts the batches of the pass, not the steps.
        """
        passes, place = divmod(step, self.length.a_pass)
        seen = min((place + 1) * self.length.accumulated, self.length.batches)
        if by_step:
            return seen % frequency == 0
        return seen == self.length.batches and (passes + 1) % frequency == 0


def clipping(trainer: Any) -> dict[str, float]:  # noqa: ANN401 (of a library)
    """Return the Trainer's clipping as an argument of an optimizer; empty without clipping."""
    if trainer is None or not trainer.gradient_clip_val:
        return {}
    value = trainer.gradient_clip_val
    algorithm = str(getattr(trainer.gradient_clip_algorithm, "value", "norm") or "norm")
    return {"clip_value" if algorithm == "value" else "clip_norm": float(value)}
