"""A module of Lightning and its data as a problem."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.errors import ConfigurationError, EngineError
from engine.problems.adapters.adapted import (
    UNORDERED,
    AdaptedProblem,
    compared,
    drawn_at_random,
    held_module,
    only_looked_at,
    places_looked_at,
    shards_of,
    told,
)
from engine.problems.adapters.lightning_modules import (
    guarded,
    in_double,
    refuse_other_loops,
    refuse_use_of_number,
    stood_in,
    training_loss,
)
from engine.problems.adapters.lightning_order import loaders_of, order_of, refuse_reloads
from engine.problems.adapters.torch_optimizers import optimizer_of_torch, rate_of, unclipped
from engine.recipes.code.user_code import raised
from engine.routine.diagnosis import MIXED_FORMATS, cure_of
from engine.routine.examples import Collated, collated
from engine.routine.number_format import convert
from engine.routine.optimizer import Optimizer
from engine.routine.rates import rates_alone
from engine.types import Loss


def from_lightning(  # noqa: PLR0913 (a call with the settings of a loop)
    module: Any,  # noqa: ANN401 (of a library that is not imported)
    data: Any,  # noqa: ANN401 (a datamodule, or two loaders)
    trainer: Any = None,  # noqa: ANN401 (of a library)
    *,
    num_steps: int | None = None,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    eps_root: float = 1e-8,
    keep_order: bool = True,
    ignored_hooks: tuple[str, ...] = (),
    **parts: Any,  # noqa: ANN401 (of Problem)
) -> AdaptedProblem:
    """Return the training of a LightningModule as a problem.

    ``training_step`` is the loss, ``configure_optimizers`` gives the optimizer, its groups of
    parameters and the rates; steps, clipping and accumulation are the Trainer's. With
    ``eps_root=0`` every step is Lightning's own, to rounding, if nothing is drawn at random. The
    module stays as it is.

    Args:
        module: A LightningModule with automatic optimization and one optimizer.
        data: A LightningDataModule, or a pair of loaders: training examples, and the held-out
            ones whose mean loss is the output.
        trainer: Lightning's Trainer, of which steps, clipping and accumulation are read.
        num_steps: T, in place of the Trainer's.
        loss: Maps (module, batch) to one loss for each example, shape (batch,). By default
            ``training_step`` is called for each example by itself.
        optimizer: In place of the one that ``configure_optimizers`` returns, with its own clipping;
            the rates are those of the module's scheduler.
        eps_root: Added inside of Adam's square root, where torch has 0; see ``engine.adam``.
        keep_order: Whether the loader's order of examples is read; ``Counts`` need the engine's.
        ignored_hooks: Hooks of the module that change nothing in its training, by name.
        **parts: Further parts of ``engine.Problem``: validation, test, names, show, metrics, ...

    Raises:
        ConfigurationError: If the module does what a problem cannot, with the remedy.
        DataError: If no batches can be made of its data.

    Cost:
        A copy of the module. Without ``loss``, a batch costs as many passes as it has examples.
    """
    left = refuse_other_loops(module, trainer, ignored_hooks)
    held, is_double = guarded(held_module(module)), in_double(trainer)
    if is_double:
        held = held.double()
    refuse_reloads(trainer)
    train, held_out, loader = _examples(data, one_by_one=loss is None, is_double=is_double)
    counts = _counts(trainer, loader, num_steps)
    of_loss = None
    if loss is None:
        _refuse_coupled(held)
        _call_once(held, train, len(loader), left)
    else:
        of_loss = _other_loss(held, train, loss)
    configured = _configured(held, counts)
    clip = _clipping(trainer)
    made = optimizer
    if made is None:
        made = optimizer_of_torch(configured[0], held, eps_root=eps_root, **clip)
    order, of_order = None, UNORDERED
    if keep_order:
        order, of_order = order_of(loader, counts.num_steps, counts.accumulated, counts.batches)
    settings: dict[str, Any] = {
        "num_steps": counts.num_steps,
        "batch_size": counts.batch_size,
        "seed": 0,
    }
    if (shards := shards_of(held, counts.accumulated)) > 1:
        settings["shards"] = shards
    given: dict[str, Any] = {
        "model": held,
        "loss": training_loss if loss is None else loss,
        "train": train,
        "objective": held_out,
        "optimizer": made,
        "learning_rate": _OfSteps(configured, counts.a_pass, made),
        "order": order,
        "chunk": counts.batch_size,
    }
    clips = unclipped(made, "gradient_clip_val", float(next(iter(clip.values()), 0)))
    root = f"the bare square root of {made.name}: eps_root={made.root} is added inside of it."
    said = (
        *left,
        *filter(
            None, (of_order, of_loss, clips, *drawn_at_random(held, train, loss or training_loss))
        ),
        *([root] if made.root else ()),
        "validation_step: held-out examples have the loss of training_step.",
    )
    parts["notes"] = (*told(settings, said, "Lightning"), *parts.get("notes", ()))
    return AdaptedProblem(**(given | parts), **settings, not_carried=said)


@dataclass(frozen=True)
class _Counts:
    num_steps: int
    batch_size: int
    accumulated: int
    a_pass: int
    batches: int


def _examples(
    data: Any,  # noqa: ANN401 (of a library)
    *,
    one_by_one: bool,
    is_double: bool,
) -> tuple[Collated, Collated, Any]:
    """Return training and held-out examples, and the training loader."""
    train, held_out = loaders_of(data)

    def of(loader: Any) -> Collated:  # noqa: ANN401 (of a library)
        collate = _InDouble(loader.collate_fn) if is_double else loader.collate_fn
        return collated(loader.dataset, _EachByItself(collate) if one_by_one else collate)

    return of(train), of(held_out), train


@dataclass(frozen=True)
class _InDouble:
    """Makes batches in float64, as Lightning converts those that a Trainer of 64 bits is given."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, samples: list[Any]) -> Any:  # noqa: ANN401 (any batch)
        return convert(self.collate(samples), torch.float64)


@dataclass(frozen=True)
class _EachByItself:
    """Makes a batch of one of each sample, so that nothing is padded to its neighbours."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, samples: list[Any]) -> list[Any]:
        return [self.collate([sample]) for sample in samples]


def _counts(trainer: Any, loader: Any, num_steps: int | None) -> _Counts:  # noqa: ANN401 (of a library)
    accumulated = 1 if trainer is None else trainer.accumulate_grad_batches
    batches = _batches(trainer, loader)
    a_pass = math.ceil(batches / accumulated)
    if num_steps is None and trainer is not None:
        epochs, most = trainer.max_epochs, trainer.max_steps
        of_epochs = [] if epochs in (None, -1) else [epochs * a_pass]
        num_steps = min([*of_epochs, *([most] if most > 0 else [])], default=None)
    if num_steps is None:
        raise ConfigurationError(
            "Nothing says how many steps are trained. Hand in num_steps=, or a Trainer with "
            "max_epochs or max_steps."
        )
    return _Counts(num_steps, loader.batch_size * accumulated, accumulated, a_pass, batches)


def _batches(trainer: Any, loader: Any) -> int:  # noqa: ANN401 (of a library)
    """Return the batches of a pass: a number or a share of the loader's, if the Trainer says so."""
    limit = None if trainer is None else trainer.limit_train_batches
    if limit is None:
        return len(loader)
    return min(len(loader), limit if isinstance(limit, int) else int(len(loader) * limit))


def _refuse_coupled(module: nn.Module) -> None:
    for name, each in module.named_modules():
        if isinstance(each, _BatchNorm) and each.training:
            raise ConfigurationError(
                f"{name} is a batch normalization, so training_step of one example is not its "
                "share of a batch. Hand in loss=, a function of (module, batch) that returns one "
                "loss for each example, or put this layer into evaluation mode."
            )


def _call_once(
    module: nn.Module,
    train: Collated,
    batches: int,
    left: Sequence[str],
) -> None:
    """Call ``training_step`` as a loss is called, and refuse what does not work so.

    Args:
        module: The module.
        train: Its training examples.
        batches: Of a pass.
        left: What is not carried over, which it may need.
    """
    try:
        _compare(module, train, batches)
    except EngineError:
        raise
    except Exception as error:
        words = [f"training_step raised {raised(error)}.", *left, _remedy(error)]
        raise ConfigurationError(" ".join(words)) from error


def _remedy(error: Exception) -> str:
    """Say what to do about an error of ``training_step``."""
    if any(each in str(error) for each in MIXED_FORMATS):
        return (
            "A Trainer of 32-true converts no batches either: hand in examples in the format of "
            "the module, as by x.float(), or Trainer(precision='64-true'), which converts both."
        )
    known = cure_of(str(error))
    return f"{known}." if known else "What it needs has to be there after __init__."


def _compare(module: nn.Module, train: Collated, batches: int) -> None:
    """Refuse a loss of a batch that is not the mean of its examples' losses."""
    rows = [train.samples[place] for place in places_looked_at(len(train))]
    each_by_itself: Any = train.collate
    collate = each_by_itself.collate
    refuse_use_of_number(module, collate(copy.deepcopy(rows)), batches)
    batch = collate(copy.deepcopy(rows))
    with only_looked_at(module):
        torch.manual_seed(0)
        whole = float(training_loss(module, [copy.deepcopy(batch)]).sum())
        torch.manual_seed(1)
        again = float(training_loss(module, [copy.deepcopy(batch)]).sum())
        if whole != again:
            raise ConfigurationError(
                f"training_step draws random numbers: a batch has the loss {whole:.6g}, or "
                f"{again:.6g}, so nothing says whether it is the mean of its examples'. Hand in "
                "loss=, a function of (module, batch) that returns one loss for each example, and "
                "may draw."
            )
    whole, mean, are_alike = compared(
        module,
        lambda: training_loss(module, [batch]).sum(),
        lambda: training_loss(module, train.collate(rows)).mean(),
    )
    if not are_alike:
        raise ConfigurationError(
            f"training_step of {len(rows)} examples gives {whole:.6g}, but its mean over each of "
            f"them by itself is {mean:.6g}, or has another gradient: it is no mean over the batch, "
            "or it compares examples. Hand in loss=, a function of (module, batch) that returns "
            "one loss for each example."
        )


def _other_loss(module: nn.Module, train: Collated, loss: Loss) -> str | None:
    """Say in a sentence where a loss that a user handed in is not ``training_step``'s, or None.

    Of one that draws random numbers nothing is known.
    """
    rows = [train.samples[place] for place in places_looked_at(len(train))]
    batch = train.collate(copy.deepcopy(rows))

    def theirs() -> Tensor:
        return training_loss(module, [copy.deepcopy(batch)]).sum()

    try:
        with only_looked_at(module):
            torch.manual_seed(0)
            first = float(theirs())
            torch.manual_seed(1)
            draws = float(theirs()) != first
        whole, mean, are_alike = compared(module, theirs, lambda: loss(module, batch).mean())
    except Exception as error:
        return (
            "training_step, with which loss= could not be compared "
            f"({type(error).__name__}: {error})."
        )
    if draws or are_alike:
        return None
    return (
        f"training_step: of {len(rows)} examples it gives {whole:.6g}, and the mean of loss= is "
        f"{mean:.6g} or has another gradient, with which is trained."
    )


def _configured(module: nn.Module, counts: _Counts) -> tuple[Any, Any]:
    """Return the optimizer and the settings of its scheduler, a dict or None."""
    known = SimpleNamespace(
        estimated_stepping_batches=counts.num_steps,
        max_steps=counts.num_steps,
        max_epochs=math.ceil(counts.num_steps / counts.a_pass),
        num_training_batches=counts.batches,
        accumulate_grad_batches=counts.accumulated,
    )
    try:
        with stood_in(module, known):
            given: Any = module.configure_optimizers()  # pyright: ignore[reportCallIssue] (of Lightning)
    except EngineError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"configure_optimizers raised {raised(error)}. Of the Trainer only "
            f"{', '.join(vars(known))} are known here. Use these, or numbers of your own."
        ) from error
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
        raise ConfigurationError(
            f"configure_optimizers gives {len(optimizers)} optimizers and {len(schedulers)} "
            "schedulers, but a run has one. Give all parameters to one optimizer, in groups."
        )
    if optimizers[0] is None:
        raise ConfigurationError("configure_optimizers gives no optimizer. Return one.")
    return optimizers[0], schedulers[0] if schedulers else None


@dataclass(frozen=True)
class _OfSteps:
    """Maps T to the learning rate of each step."""

    configured: tuple[Any, Any]
    a_pass: int
    optimizer: Optimizer

    def __call__(self, num_steps: int) -> Any:  # noqa: ANN401 (a number, or one for each step)
        optimizer, given = self.configured
        settings = given if isinstance(given, dict) else {"scheduler": given}
        scheduler = settings["scheduler"]
        if scheduler is None:
            return rate_of(next(group for group in optimizer.param_groups if group["params"]))
        frequency = settings.get("frequency", 1)
        if frequency != 1:
            raise ConfigurationError(
                f"The scheduler {type(scheduler).__name__} has frequency {frequency}, which is not "
                "read here. Use frequency=1 and a scheduler that stands still in between."
            )
        if settings.get("interval", "epoch") == "step":
            return rates_alone(scheduler, num_steps, self.optimizer)
        passes = math.ceil(num_steps / self.a_pass)
        of_passes = rates_alone(scheduler, passes, self.optimizer)
        return [of_passes[step // self.a_pass] for step in range(num_steps)]


def _clipping(trainer: Any) -> dict[str, float]:  # noqa: ANN401 (of a library)
    if trainer is None or not trainer.gradient_clip_val:
        return {}
    value = trainer.gradient_clip_val
    algorithm = str(getattr(trainer.gradient_clip_algorithm, "value", "norm") or "norm")
    return {"clip_value" if algorithm == "value" else "clip_norm": float(value)}
