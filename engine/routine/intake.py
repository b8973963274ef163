"""Converts what people hand to a routine, or refuses it and says what to hand in instead.

Numbers of numpy and torch count as numbers, and arrays as tensors. What could mean two things is
refused, not guessed.
"""

import operator
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter, constant
from engine.numerics.determinism import refuse_meta
from engine.recipes.replay import StepPath
from engine.routine import optimizers as optim
from engine.routine.examples import examples_from
from engine.routine.module.modules import model_from
from engine.routine.optimizer import Optimizer
from engine.types import Metaparams

if TYPE_CHECKING:
    from engine.routine.routine import Routine


@torch.inference_mode(mode=False)
def take_in(routine: "Routine") -> None:
    """Replace what was handed to a routine by what the engine works with.

    Raises:
        ConfigurationError: Names the argument, what it is, and what to hand in.
        DataError: Likewise, for examples.
    """
    refuse_meta()

    def put(name: str, value: Any) -> None:  # noqa: ANN401 (a field's own type)
        object.__setattr__(routine, name, value)

    put("model", model_from(routine.model, routine.loss))
    device = next(p.device for p in routine.model.parameters() if p.requires_grad)
    _refuse_losses(routine.loss)
    put("examples", examples_from(routine.examples, device))
    put("optimizer", optimizer_from(routine.optimizer).on(routine.layout, routine.device))
    for name in ("num_steps", "batch_size", "seed", "shards"):
        put(name, whole_number(name, getattr(routine, name)))
    if routine.piece is not None:
        put("piece", whole_number("piece", routine.piece))
    put("learning_rate", rates_from(routine.learning_rate))
    kinds = _kinds_from(routine.metaparameters)
    put("metaparameters", {name: kind.fitted(routine.num_steps) for name, kind in kinds.items()})
    put("path", choice(StepPath, "path", routine.path))
    if routine.augment is not None and not callable(routine.augment):
        raise ConfigurationError(
            f"augment is a {type(routine.augment).__name__}. Hand in a function that maps (batch, "
            "generator) to a batch."
        )


def whole_number(name: str, value: Any) -> int:  # noqa: ANN401 (whatever was handed in)
    """Return a whole number, also one of numpy or torch.

    Raises:
        ConfigurationError: If it is none.
    """
    truth = isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) is torch.bool
    try:
        number = None if truth else operator.index(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise ConfigurationError(
            f"{name} is {value!r} ({type(value).__name__}), but it counts. Use a whole number, "
            f"e.g. {name}={_closest(name, value)}."
        )
    if abs(number) > _MOST and name != "seed":
        raise ConfigurationError(
            f"{name} is {str(number)[:20]}..., which no run reaches. Use a smaller number."
        )
    return number


_MOST = 10**12


def _closest(name: str, value: Any) -> int:  # noqa: ANN401 (whatever is handed in)
    if isinstance(value, float | np.floating) and np.isfinite(value):
        return max(round(float(value)), 0 if name == "seed" else 1)
    return {"seed": 0, "num_steps": 100}.get(name, 16)


def rates_from(rate: Any) -> float | tuple[float, ...]:  # noqa: ANN401 (whatever was handed in)
    """Return a learning rate as a number, or as one number for each step.

    Raises:
        ConfigurationError: If it is neither; says how to make a list of what was handed in.
    """
    if isinstance(rate, LRScheduler):
        raise ConfigurationError(
            f"learning_rate is a {type(rate).__name__}, which moves an optimizer of torch. Read "
            "its rates into a list: learning_rate=engine.rates(scheduler, num_steps)."
        )
    if callable(rate) and not isinstance(rate, Tensor):
        raise ConfigurationError(
            "learning_rate is a function. Make a list of it: learning_rate=[rate(t) for t in "
            "range(num_steps)]. A function of an engine.Problem is called with the number of steps "
            "if its argument is called num_steps."
        )
    if isinstance(rate, Tensor) and rate.requires_grad:
        raise ConfigurationError(
            "learning_rate is a tensor that requires a gradient, which would not be found. Use "
            "metaparameters={'rate': LearningRatePoints(torch.log(...), num_steps=T)} to "
            "differentiate by it, or learning_rate=rates.tolist()."
        )
    values = None if isinstance(rate, str | bytes | bool | None) else _array(rate)
    if values is None or values.ndim > 1:
        raise ConfigurationError(
            f"learning_rate is {rate!r} ({type(rate).__name__}). Give one number, or a list with "
            "one for each step."
        )
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        where = f" at step {wrong[0]}" if values.ndim else ""
        raise ConfigurationError(
            f"learning_rate is {values.reshape(-1)[wrong[0]]}{where}, after which every parameter "
            "is infinite or NaN. Give finite numbers."
        )
    if values.ndim == 0:
        return rate if isinstance(rate, int | float) else float(values)
    return tuple(values.tolist())


def _array(given: Any) -> Any:  # noqa: ANN401 (whatever was handed in)
    """Return numbers as an array of floats; None if there are none."""
    try:
        return np.asarray(given.cpu() if isinstance(given, Tensor) else given, dtype=float)
    except (TypeError, ValueError):
        return None


_WORDS_OF_TORCH = {
    "SGD": "sgd",
    "Adam": "adam",
    "AdamW": "adamw",
    "RMSprop": "rmsprop",
    "Muon": "muon",
}


def optimizer_from(given: Any) -> Optimizer:  # noqa: ANN401 (whatever was handed in)
    """Return an optimizer of the engine.

    Raises:
        ConfigurationError: Says how to write what was handed in.
    """
    if isinstance(given, Optimizer):
        return given
    if isinstance(given, torch.optim.Optimizer):
        raise ConfigurationError(
            f"optimizer is torch's {type(given).__name__}, which moves parameters in place and "
            f"cannot be differentiated. {_translated(given)}"
        )
    if isinstance(given, type) and issubclass(given, torch.optim.Optimizer):
        name = _WORDS_OF_TORCH.get(given.__name__)
        own = f"Use engine.{name}(), and learning_rate for its lr." if name else _OWN
        raise ConfigurationError(
            f"optimizer is torch's class {given.__name__}, which moves parameters in place and "
            f"cannot be differentiated. {own}"
        )
    known = {name: getattr(optim, name) for name in _WORDS_OF_TORCH.values()}
    function = getattr(given, "func", given)  # of a partial
    for name, each in known.items():
        if function is each or given == name:
            raise ConfigurationError(
                f"optimizer is {'the name' if given == name else 'the function'} {name}, which was "
                f"not called. Write engine.{name}()."
            )
    if callable(given):
        raise ConfigurationError(
            f"optimizer is a function or a class. Call it if it makes an engine.Optimizer. {_OWN}"
        )
    raise ConfigurationError(f"optimizer is {given!r} ({type(given).__name__}). {_OWN}")


_OWN = (
    "Use engine.sgd(), adam(), adamw(), rmsprop() or muon(), or write its update as a pure "
    "function: engine.Optimizer(name, hyperparameters, init, update)."
)


def _translated(given: torch.optim.Optimizer) -> str:
    """Write an optimizer of torch as one of the engine, groups of parameters left to the user."""
    name, groups = _WORDS_OF_TORCH.get(type(given).__name__), given.param_groups
    first = groups[0]
    if name is None or first.get("amsgrad") or first.get("maximize") or first.get("dampening"):
        return _OWN
    words = {
        "sgd": "{momentum}, nesterov={nesterov}",
        "rmsprop": "{alpha}, momentum={momentum}, centered={centered}, eps={eps}",
        "muon": "{momentum}, nesterov={nesterov}, ns_steps={ns_steps}, rest=engine.adamw()",
    }.get(name, "({betas[0]:g}, {betas[1]:g}), eps={eps}")
    words = f"engine.{name}({words.format(**first)}, weight_decay={first['weight_decay']}"
    several = ""
    if len(groups) > 1:
        several = (
            " for its first group of parameters, and the others by groups=[{'names': ..., "
            "'rate': ..., 'weight_decay': ...}]"
        )
    return f"Write optimizer={words}), learning_rate={float(first['lr'])}{several}."


_Choice = TypeVar("_Choice", bound=StrEnum)


def choice(kind: type[_Choice], name: str, given: Any) -> _Choice:  # noqa: ANN401 (whatever is handed in)
    """Return one of the choices of a setting.

    Raises:
        ConfigurationError: If it is none; names them.
    """
    try:
        return kind(given)
    except ValueError as error:
        names = " or ".join(repr(each.value) for each in kind)
        raise ConfigurationError(f"{name} is {given!r}. Use {names}.") from error


_LOSS = (
    "A loss takes (model, batch) and returns one value for each example, e.g. lambda model, batch: "
    "cross_entropy(model(batch[0]), batch[1], reduction='none')"
)


def _refuse_losses(loss: Any) -> None:  # noqa: ANN401 (whatever is handed in)
    torchs = (getattr(loss, "__module__", None) or "").startswith("torch.nn")
    if isinstance(loss, nn.modules.loss._Loss) or torchs:
        name = type(loss).__name__ if isinstance(loss, nn.Module) else loss.__name__
        raise ConfigurationError(
            f"loss is torch's {name}, which takes (prediction, target). {_LOSS}."
        )
    if isinstance(loss, type):
        raise ConfigurationError(f"loss is the class {loss.__name__}. Call it first. {_LOSS}.")
    if not callable(loss):
        raise ConfigurationError(f"loss is a {type(loss).__name__}. {_LOSS}.")
    if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
        raise ConfigurationError(
            f"loss is the module {type(loss).__name__}, whose own parameters would not be trained. "
            "Make it a part of the model, and let the loss call it there; or, where your own loop "
            "does not train them either, say so by requires_grad_(False) on it."
        )


def _kinds_from(given: Any) -> dict[str, Metaparameter]:  # noqa: ANN401 (whatever is handed in)
    example = "metaparameters={'weights': ExampleWeights(torch.ones(n))}"
    if given is None:
        return {}
    if isinstance(given, Metaparameter):
        raise ConfigurationError(
            f"metaparameters is one {type(given).__name__}. Give it a name, e.g. {example}."
        )
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"metaparameters is a {type(given).__name__}. Hand in kinds by name, e.g. {example}."
        )
    for name, kind in given.items():
        if not isinstance(name, str):
            raise ConfigurationError(f"The metaparameter {name!r} is not named by a word.")
        if isinstance(kind, type) and issubclass(kind, Metaparameter):
            raise ConfigurationError(
                f"Metaparameter {name!r} is the class {kind.__name__}. Give it its value, e.g. "
                f"{example}."
            )
        if not isinstance(kind, Metaparameter):
            raise ConfigurationError(
                f"Metaparameter {name!r} is a {type(kind).__name__}, which does not say where it "
                f"enters the run. Wrap it in a kind, e.g. {example}."
            )
    return dict(given)


def refuse_no_routine(given: Any) -> None:  # noqa: ANN401 (whatever was handed in)
    """Refuse what is no run.

    Raises:
        ConfigurationError: Says how to make one of what was handed in.
    """
    if hasattr(given, "initial_state") and hasattr(given, "metaparameters"):
        return
    words = "Write it as engine.Routine(model, loss, examples, engine.sgd(), learning_rate=..., "
    raise ConfigurationError(
        f"routine is a {type(given).__name__}, and a run is more than that. {words}"
        "num_steps=..., batch_size=..., metaparameters={...}), and hand that in first."
    )


def point_from(routine: "Routine", z: Any) -> Metaparams:  # noqa: ANN401 (whatever was handed in)
    """Return z where a metagradient or a training is wanted; the routine's own by default.

    Raises:
        ConfigurationError: If it is not one floating tensor for each metaparameter.
    """
    refuse_no_routine(routine)
    own = routine.point()
    if z is None:
        return own
    found = _by_name("z", z, own)
    if found.keys() != own.keys():
        raise ConfigurationError(
            f"z has {sorted(found)}, but the routine's metaparameters are {sorted(own)}. Give one "
            "tensor for each."
        )
    return found


def direction_from(routine: "Routine", direction: Any) -> Metaparams:  # noqa: ANN401 (whatever is handed in)
    """Return a direction in z.

    Raises:
        ConfigurationError: If it is not along metaparameters of the routine, or of other shapes.
    """
    own = routine.point()
    found = _by_name("The direction", direction, own)
    if not found:
        raise ConfigurationError(
            f"The direction names nothing, but the metaparameters are {sorted(own)}. A direction "
            "along none of them would give 0."
        )
    return found


def _by_name(what: str, given: Any, own: Metaparams) -> Metaparams:  # noqa: ANN401 (whatever is handed in)
    if not isinstance(given, Mapping):
        name = next(iter(own), "weights")
        raise ConfigurationError(
            f"{what} is a {type(given).__name__}. Hand in tensors by name, e.g. {{{name!r}: ...}}."
        )
    unknown = sorted(map(str, given.keys() - own.keys()))
    if unknown:
        raise ConfigurationError(
            f"{what} names {unknown}, but the metaparameters are {sorted(own)}. Use their names."
        )
    found: Metaparams = {}
    for name, value in given.items():
        expected = own[name]
        try:
            tensor = constant(torch.as_tensor(value)).to(expected.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigurationError(
                f"{what} has a {type(value).__name__} for {name!r}. Give a tensor of shape "
                f"{tuple(expected.shape)}."
            ) from error
        if tensor.shape != expected.shape or not tensor.is_floating_point():
            raise ConfigurationError(
                f"{what} has for {name!r} {tensor.dtype} of shape {tuple(tensor.shape)}, but the "
                f"routine reads floating point of shape {tuple(expected.shape)}. Convert it."
            )
        found[name] = tensor
    return found


def outputs_from(outputs: Any) -> Sequence[Any]:  # noqa: ANN401 (whatever was handed in)
    """Return several outputs.

    Raises:
        ConfigurationError: If there is none, or one is no function of the model.
    """
    if callable(outputs) or not isinstance(outputs, Sequence):
        raise ConfigurationError(
            f"outputs is a {type(outputs).__name__}. Hand in a list of functions of the model, or "
            "use metagradient for one."
        )
    if not outputs:
        raise ConfigurationError("There are no outputs to differentiate. Give at least one.")
    for output in outputs:
        refuse_output(output)
    return outputs


def refuse_output(output: Any) -> None:  # noqa: ANN401 (whatever was handed in)
    """Refuse an output that is no function of the model."""
    if not callable(output) or isinstance(output, type):
        shown = (
            f"the class {output.__name__}" if isinstance(output, type) else type(output).__name__
        )
        raise ConfigurationError(
            f"output is {shown}. Hand in a function that maps the trained model to a scalar "
            "tensor, e.g. lambda model: loss(model, held_out).mean()."
        )
