"""Modules of Lightning outside of Lightning's loop: what they may ask, and what is refused."""

import copy
import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.problems.adapters.adapted import only_looked_at
from engine.routine.module.binding import copied

_STEP_HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward"),
    *("on_after_backward", "on_before_optimizer_step", "on_before_batch_transfer"),
    *("on_after_batch_transfer", "transfer_batch_to_device", "backward", "optimizer_step"),
    *("optimizer_zero_grad", "configure_gradient_clipping", "lr_scheduler_step"),
    *("configure_model", "configure_sharded_model"),
)
"""Hooks through which a module may change a step."""

_AROUND = ("setup", "teardown", "prepare_data", "configure_callbacks")
"""Methods around the steps, besides those that begin with ``on_``: not called, and said."""

_ELSEWHERE = ("on_test", "on_predict", "on_save", "on_load", "on_validation_model")
"""How names of hooks begin that have no part in training."""


def refuse_other_loops(
    module: Any,  # noqa: ANN401 (of a library)
    trainer: Any,  # noqa: ANN401 (of a library)
    ignored: tuple[str, ...],
) -> list[str]:
    """Refuse a module whose training is not one loss and one optimizer; say what is left behind.

    Raises:
        ConfigurationError: If it is refused; names the remedy.
    """
    base = next((each for each in type(module).__mro__ if each.__name__ == "LightningModule"), None)
    if base is None:
        raise ConfigurationError(
            f"module is a {type(module).__name__}, not a LightningModule. Hand in one, or write an "
            "engine.Problem: `mgd new`."
        )
    if not module.automatic_optimization:
        raise ConfigurationError(
            f"{type(module).__name__} optimizes by hand (automatic_optimization=False), so a step "
            "cannot be read as one loss and one optimizer. Write it as an engine.Problem, with "
            "`state` and `advance` for everything else that moves: `mgd new`."
        )
    if not module.training:
        raise ConfigurationError(
            f"{type(module).__name__} is in evaluation mode, and Lightning would train it in that "
            "mode, dropout and batch normalization included. Call module.train() first; single "
            "layers may stay in evaluation mode."
        )
    parameters = inspect.signature(module.training_step).parameters.values()
    asked = [each.name for each in parameters if each.default is each.empty]
    if len(asked) > 2:
        raise ConfigurationError(
            f"training_step of {type(module).__name__} takes {', '.join(asked)}, but a step only "
            "has a batch and its number. Several optimizers need several losses, and a run has "
            "one. Give all parameters to one optimizer, or write an engine.Problem: `mgd new`."
        )
    if trainer is not None and trainer.world_size > 1:
        raise ConfigurationError(
            f"The Trainer runs on {trainer.world_size} devices, each with its own batches, but a "
            "run here uses one. Use devices=1, and a batch as large as all of theirs together."
        )
    own = [name for name in _STEP_HOOKS if _overrides(module, base, name) and name not in ignored]
    if own:
        raise ConfigurationError(
            f"{type(module).__name__} has the hook {own[0]}, which is not called here, although it "
            f"may change a step. If it changes nothing, pass ignored_hooks=({own[0]!r},); if it "
            "does, write an engine.Problem: `mgd new`."
        )
    around = [name for name in dir(base) if name.startswith("on_") or name in _AROUND]
    kept = [n for n in around if n not in _STEP_HOOKS and not n.startswith(_ELSEWHERE)]
    named = [*kept, *ignored]
    left = [f"{name} is not called." for name in named if _overrides(module, base, name)]
    return left if trainer is None else [*left, *_of_trainer(trainer)]


def _overrides(module: Any, base: type, name: str) -> bool:  # noqa: ANN401 (of a library)
    return getattr(type(module), name, None) is not getattr(base, name, None)


def in_double(trainer: Any) -> bool:  # noqa: ANN401 (of a library)
    """Say whether a Trainer converts its module and its batches to float64."""
    return trainer is not None and str(trainer.precision) in ("64-true", "64")


def _of_trainer(trainer: Any) -> Iterator[str]:  # noqa: ANN401 (of a library)
    usual = ("32-true", "32")
    if in_double(trainer):
        yield f"precision={trainer.precision}: a recipe needs training.dtype=float64 for it."
    elif str(trainer.precision) not in usual:
        yield f"precision={trainer.precision}: the run computes in its own format, training.dtype."
    if getattr(trainer, "overfit_batches", 0):
        yield (
            f"overfit_batches={trainer.overfit_batches}, for which Lightning leaves out shuffling: "
            "the loader's own order is taken."
        )
    usual = ("ModelCheckpoint", "ModelSummary", "RichModelSummary", "TQDMProgressBar")
    usual += ("RichProgressBar", "LearningRateMonitor", "DeviceStatsMonitor")
    own = [type(each).__name__ for each in trainer.callbacks]
    own = [name for name in own if name not in usual]
    if own:
        yield f"callbacks: {', '.join(own)} are not called."
    kinds = {each.__name__ for callback in trainer.callbacks for each in type(callback).__mro__}
    yield from (f"{name}: {instead}" for name, instead in _INSTEAD.items() if name in kinds)


_AVERAGES = "optimizer=engine.averaged(...) has the mean of the weights."
_INSTEAD = {
    "StochasticWeightAveraging": f"all steps have the module's rates; {_AVERAGES}",
    "WeightAveraging": f"the output is that of the last weights; {_AVERAGES}",
    "GradientAccumulationScheduler": "all steps accumulate as many batches as the first.",
    "BaseFinetuning": "the layers that it freezes are trained from the first step on, unless "
    "you freeze them by requires_grad_(False) before you hand the module in.",
}
"""Callbacks of Lightning that change a training, and what is trained without them."""


class _Silent(nn.Module):
    """Takes the place of a metric, whose count is no part of the training."""

    def forward(self, *_given: Any, **_named: Any) -> Tensor:  # noqa: ANN401 (of a library)
        """Return zero."""
        return torch.zeros(())

    update = compute = reset = forward


def guarded(module: nn.Module) -> nn.Module:
    """Return a copy of a module that logs nothing, counts nothing, and has no Trainer to ask.

    What it asks of the Trainer inside of its steps is refused, because it would be another step
    each time.
    """
    attached = getattr(module, "_trainer", None)
    held = copied(module, known={} if attached is None else {id(attached): None})
    for parent in list(held.modules()):
        for name, child in list(parent.named_children()):
            if any(each.__module__.startswith("torchmetrics") for each in type(child).__mro__):
                setattr(parent, name, _Silent())
    held.__class__ = _guard(type(module))
    return held


@cache
def _guard(kind: type) -> type:
    """Return a subclass that asks no Trainer."""

    def refused(name: str) -> property:
        def stand_in_for(self: Any) -> Any:  # noqa: ANN401 (of a library)
            stand_in = self.__dict__.get("_stand_in")
            if stand_in is not None:
                return stand_in if name == "trainer" else 0
            raise ConfigurationError(
                f"{kind.__name__} asks for self.{name} in training_step, so a step depends on "
                "Lightning's loop. Remove that, or keep the value in the state of an "
                "engine.Problem: `mgd new`."
            )

        return property(stand_in_for)

    def nothing(_self: Any, *_given: Any, **_named: Any) -> None:  # noqa: ANN401 (of a library)
        """Do nothing."""

    names = ("trainer", "current_epoch", "global_step")
    silent: dict[str, Any] = dict.fromkeys(("log", "log_dict", "print"), nothing)
    silent["logger"] = property(lambda _self: _Mute())
    silent["loggers"] = property(lambda _self: [_Mute()])
    return type(kind.__name__, (kind,), {**{name: refused(name) for name in names}, **silent})


class _Mute:
    """Takes the place of a logger: whatever is asked of it or handed to it, it says nothing."""

    def __getattr__(self, name: str) -> "_Mute":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_given: Any, **_named: Any) -> "_Mute":  # noqa: ANN401 (of a library)
        return self


@contextmanager
def stood_in(module: nn.Module, known: Any) -> Iterator[None]:  # noqa: ANN401 (of a library)
    """Answer for the Trainer in the block, with its counts only."""
    module.__dict__["_stand_in"] = known
    try:
        yield
    finally:
        del module.__dict__["_stand_in"]


def training_loss(model: nn.Module, batch: list[Any]) -> Tensor:
    """Return ``training_step`` of each of some batches, shape (batches,)."""
    return torch.stack([_scalar(_step(model, each, 0)) for each in batch])


def _step(model: nn.Module, batch: Any, number: int) -> Any:  # noqa: ANN401 (of a library)
    step: Any = model.training_step
    more = () if len(inspect.signature(step).parameters) == 1 else (number,)
    return step(batch, *more)


def refuse_use_of_number(module: nn.Module, batch: Any, batches: int) -> None:  # noqa: ANN401 (any batch)
    """Refuse a loss that depends on the number of its batch in the pass, which is 0 here.

    Args:
        module: Guarded.
        batch: Any.
        batches: Batches of a pass. A few of their numbers are tried, and the first
            ``_MOST_NUMBERS`` of them where the number is seen to be read: lists and tensors read it
            unseen.
    """

    def loss(number: int) -> float | None:
        torch.manual_seed(0)  # what it draws is the same for each number
        found = _step(module, copy.deepcopy(batch), number)
        return None if found is None else float(_scalar(found))

    first = _Watched(0)
    with only_looked_at(module):
        wanted = loss(first)
        tried = range(1, _MOST_NUMBERS) if first.is_read else (*range(1, 9), *_FAR, batches - 1)
        for number in [each for each in tried if 0 < each < batches]:
            found = loss(number)
            if found != wanted and not (_is_nan(found) and _is_nan(wanted)):
                raise ConfigurationError(
                    f"training_step gives {_in_words(found)} for a batch with number {number} in "
                    f"its pass, and {_in_words(wanted)} with number 0, but a step's loss may only "
                    "depend on its examples. Leave batch_idx out of the loss, or write an "
                    "engine.Problem: `mgd new`."
                )


def _is_nan(value: float | None) -> bool:
    return value is not None and math.isnan(value)


def _in_words(loss: float | None) -> str:
    return "nothing" if loss is None else f"{loss:.6g}"


_FAR = (16, 50, 100)
"""Further numbers that are tried where nothing says that the number is read."""

_MOST_NUMBERS = 256
"""Numbers of batches that are tried: more cost more than they tell."""


class _Watched(int):
    """A number that knows whether anybody has read it."""

    is_read = False


def _reading(name: str) -> Any:  # noqa: ANN401 (of a library)
    of_int = getattr(int, name)

    def read(self: _Watched, *given: Any) -> Any:  # noqa: ANN401 (of a library)
        self.is_read = True
        return of_int(self, *given)

    return read


for _name in (
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__mod__", "__rmod__"),
    *("__floordiv__", "__rfloordiv__", "__truediv__", "__rtruediv__", "__divmod__", "__pow__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__bool__"),
    *("__index__", "__int__", "__float__", "__and__", "__rand__", "__or__", "__xor__", "__neg__"),
    *("__lshift__", "__rshift__", "__repr__", "__str__", "__format__", "__rpow__", "__abs__"),
):
    setattr(_Watched, _name, _reading(_name))


def _scalar(given: Any) -> Tensor:  # noqa: ANN401 (of a library)
    loss = given.get("loss") if isinstance(given, dict) else given
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ConfigurationError(
            f"training_step returned a {type(loss).__name__}, but a loss is one number. Return a "
            "tensor, or a dict with one as 'loss'."
        )
    return loss.reshape(())
