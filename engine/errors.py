"""Every exception that the engine raises on purpose.

A message says what was refused (with the values), why, and what to do about it.
The second parent is the closest builtin, so that callers may catch either.

A message speaks of arguments as a notebook has them (``learning_rate``, ``eps_root``). Whoever
wrote a recipe is told the keys besides, which the error carries apart from its message.
"""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import wraps
from inspect import signature
from typing import Any, TypeVar, cast


def with_settings(message: str, settings: Sequence[str]) -> str:
    """Return a message with the keys of a recipe that its remedy is about."""
    return f"{message} (In a recipe: {', '.join(settings)}.)" if settings else message


class EngineError(Exception):
    """Base class: catch this to catch anything the engine raises on purpose.

    Attributes:
        settings: Keys of a recipe that the remedy is about, e.g. ``training.learning_rate``.
    """

    def __init__(self, *args: object, settings: Sequence[str] = ()) -> None:
        super().__init__(*args)
        self.settings = tuple(settings)

    def in_recipe(self) -> str:
        """Return the message for somebody who wrote a recipe."""
        return with_settings(str(self), self.settings)


class ConfigurationError(EngineError, ValueError):
    """A run was asked for that cannot be made; nothing has been trained or written."""


class ScheduleError(ConfigurationError):
    """A schedule was asked for with impossible numbers, or breaks a rule of schedules."""


class DataError(ConfigurationError):
    """Examples are missing, do not fit together, or hold values that are not finite."""


class StoreError(EngineError, OSError):
    """A store cannot be read or written."""


class StoreUnavailableError(StoreError, ConfigurationError):
    """A store cannot be opened or written at all."""


class StoreRefusedError(StoreError):
    """A store that a run or a command is at work on may not be read or written (any more)."""


class CheckpointMissingError(StoreError, FileNotFoundError):
    """A row was asked for that is not committed."""


class CheckpointCorruptError(StoreError):
    """A committed row does not hold the bits that were committed."""


class CheckpointMismatchError(StoreError):
    """A store belongs to a trajectory with another configuration."""


class UndifferentiableError(ConfigurationError):
    """A step cannot be differentiated twice, or a part of it is cut out of the graph."""


class WitnessError(UndifferentiableError):
    """A step that the user's module takes by itself is another one than the engine's."""


class IdleParametersError(ConfigurationError):
    """Some steps leave out parameters that others use, and nobody said what an update does then."""


class NonFiniteError(EngineError, ArithmeticError):
    """A loss, a state or an adjoint became infinite or NaN."""


class NonFiniteStartError(NonFiniteError, ConfigurationError):
    """The first step, tried before any training, or its derivative, is infinite or NaN."""


class ReplayMismatchError(EngineError, RuntimeError):
    """A replayed state differs from the one that the forward sweep made."""


class LeaseLostError(EngineError, RuntimeError):
    """An attempt of a stage was taken for dead, and another one took over."""


class StoreFullError(StoreError):
    """There is no space left for what has to be written."""


class BudgetSpentError(EngineError, RuntimeError):
    """A run has spent what it may; what is finished stays, and it can go on."""


class WorkerLostError(EngineError, RuntimeError):
    """The worker of a stage died, again and again."""


class MemoryExhaustedError(EngineError, MemoryError):
    """A stage does not fit into the memory of its device, however it is cut."""


class DeterminismError(EngineError, RuntimeError):
    """A switch that bits depend on was moved while the engine ran."""


class UntrustworthyError(ConfigurationError):
    """The preflight refuses a run: its metagradient would not mean anything."""


class OutputError(EngineError, OSError):
    """What a command has to say cannot be written where it was sent to."""


def words_of(error: BaseException) -> str:
    """Return an error's message without its full stop; ``it says no more`` if it is empty."""
    return str(error).strip().rstrip(".") or "it says no more"


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that was most likely meant, or None.

    A name that says the word in full, as ``num_steps`` says ``steps``, comes before one that only
    looks like it, as ``step_size`` does.

    Args:
        word: What was written.
        known: The names that there are.
        cutoff: How alike two names have to look, from 0 to 1; see ``difflib``.
    """
    known, asked = list(known), set(_parts(word))
    whole = [name for name in known if asked and asked <= set(_parts(name))]
    close = get_close_matches(word, whole, 1, 0.0) or get_close_matches(word, known, 1, cutoff)
    return close[0] if close else None


def _parts(name: str) -> list[str]:
    return name.lower().replace("-", "_").split("_")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a sentence that begins with a space and names the nearest known word, or nothing."""
    close = nearest(word, known)
    return f" Did you mean {close}?" if close else ""


_USUAL = {
    "lr": "learning_rate",
    "schedule": "learning_rate",
    "scheduler": "learning_rate",
    "lr_scheduler": "learning_rate",
    "steps": "num_steps",
    "max_steps": "num_steps",
    "bs": "batch_size",
    "batchsize": "batch_size",
    "wd": "weight_decay",
    "criterion": "loss",
    "loss_fn": "loss",
    "data": "examples",
    "dataset": "examples",
    "opt": "optimizer",
    "eps": "step_size",
    "h": "step_size",
    "v": "direction",
}
"""What the field calls arguments, to what they are called here."""

_ELSEWHERE = {
    "epochs": "A run is counted in steps: num_steps = epochs * len(examples) // batch_size",
    "num_epochs": "A run is counted in steps: num_steps = epochs * len(examples) // batch_size",
    "weight_decay": "It is the optimizer's: optimizer=engine.adamw(weight_decay=...)",
    "wd": "It is the optimizer's: optimizer=engine.adamw(weight_decay=...)",
    "momentum": "It is the optimizer's: optimizer=engine.sgd(momentum=...)",
    "device": "A run is where the model's parameters are: model.to(device)",
    "shuffle": "The order of the examples is order=, or is drawn by seed=",
    "schedule": "A schedule of learning rates is learning_rate= of the Routine; one of states is "
    "an option of engine.metagradient",
}
"""What to write where this has no argument of its own, by what somebody looked for."""

_Call = TypeVar("_Call", bound=Callable[..., Any])
_Made = TypeVar("_Made")


def naming_arguments(function: _Call) -> _Call:
    """Refuse an argument by a name that the function does not have, in words.

    Python's own ``TypeError`` says neither what there is nor what was meant.
    """
    known = [name for name in signature(function).parameters if name != "self"]
    called = function.__qualname__.removesuffix(".__init__")

    @wraps(function)
    def checked(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 (whatever was handed in)
        for name in named:
            if name not in known:
                raise ConfigurationError(
                    f"{called} has no argument {name!r}.{_suggestion(name, known)} Its arguments "
                    f"are {', '.join(known)}."
                )
        return function(*arguments, **named)

    return cast(_Call, checked)


def naming_fields(made: type[_Made]) -> type[_Made]:
    """Refuse an argument of a class by a name that it does not have, as ``naming_arguments``."""
    made.__init__ = naming_arguments(made.__init__)
    return made


def _suggestion(name: str, known: Sequence[str]) -> str:
    """Return a sentence on what to write, which begins with a space; empty if nobody knows."""
    usual = _USUAL.get(name.lower())
    if usual in known:
        return f" Write {usual}=."
    if name.lower() in _ELSEWHERE:
        return f" {_ELSEWHERE[name.lower()]}."
    return did_you_mean(name, known)
