"""The parts of the training that a problem may bring: optimizer, rates, order, and own state.

The recipe's settings hold for what a problem leaves out. What it brings is a part of the key of
every stage: functions by the digest of their source, numbers and indices by their bits.
"""

import hashlib
import inspect
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_map

from engine.errors import ConfigurationError
from engine.metaparameters.scalars import Scalars
from engine.numerics.fingerprint import fingerprint
from engine.problems.base import Problem
from engine.problems.calls import surroundings
from engine.problems.notebook import for_steps
from engine.recipes.descent import DescentRecipe
from engine.recipes.metaparameters import ScalarName
from engine.recipes.optimizer import OptimizerSettings
from engine.recipes.training import TrainingSettings
from engine.routine.batch_order import given_order
from engine.routine.intake import optimizer_from, rates_from
from engine.routine.optimizer import Optimizer
from engine.routine.optimizers import make_optimizer
from engine.routine.own_state import OWN
from engine.routine.rates import learning_rates, rates_alone
from engine.routine.routine import Routine

RATE_SETTINGS = (
    *("learning_rate", "rate_schedule", "warmup_steps", "final_rate", "milestones", "rate_drop"),
)
"""Settings of ``training`` that are not read if a problem has rates of its own."""


def training_parts(recipe: DescentRecipe, problem: Problem, num_examples: int) -> dict[str, Any]:
    """Return the arguments of ``Routine`` for optimizer, rates, order and a state of one's own.

    A sampler draws under the run's seed, whenever and wherever it is read.

    Raises:
        ConfigurationError: If a part is not what it has to be.
        DataError: If the order has other batches than the run.
    """
    training, order = recipe.training, problem.order
    dtype = getattr(torch, training.dtype.value)
    with surroundings(training.seed, dtype, "order"):
        own_optimizer = for_steps(problem.optimizer, training.num_steps)
        own_rate = for_steps(problem.learning_rate, training.num_steps)
        optimizer = (
            make_optimizer(recipe.optimizer)
            if own_optimizer is None
            else optimizer_from(own_optimizer)
        )
        if isinstance(own_rate, LRScheduler):
            own_rate = rates_alone(own_rate, training.num_steps, optimizer)
        if order is not None:
            order = given_order(order, training.num_steps, training.batch_size, num_examples)
    return {
        "optimizer": optimizer,
        "learning_rate": learning_rates(training) if own_rate is None else rates_from(own_rate),
        "order": order,
        "state": problem.state,
        "advance": problem.advance,
    }


def own_settings(problem: Problem) -> frozenset[str]:
    """Return the settings of a recipe that nothing reads, because the problem has its own."""
    taken = {"optimizer"} if problem.optimizer is not None else set[str]()
    if problem.learning_rate is not None:
        taken |= {f"training.{name}" for name in RATE_SETTINGS}
    return frozenset(taken)


def check_own_training(recipe: DescentRecipe, problem: Problem) -> None:
    """Refuse settings of a recipe that nothing would read, because the problem has its own.

    Raises:
        ConfigurationError: If it is refused; names the setting, its value and the remedy.
    """
    own, unread = [], []
    if problem.optimizer is not None:
        own.append("an optimizer")
        unread += ["optimizer"] if recipe.optimizer != OptimizerSettings() else []
    if problem.learning_rate is not None:
        own.append("learning rates")
        settings, defaults = recipe.training, TrainingSettings.model_fields
        unread += [
            f"training.{name}"
            for name in RATE_SETTINGS
            if getattr(settings, name) != defaults[name].default
        ]
    if unread:
        is_set, them = ("is", "it") if len(unread) == 1 else ("are", "them")
        raise ConfigurationError(
            f"{', '.join(unread)} {is_set} set in the recipe, but problem {recipe.problem} has "
            f"{' and '.join(own)} of its own, so nothing would read {them}. Leave {them} out of "
            "the recipe, or make what should be set an argument of the function.",
            settings=(*unread, "arguments"),
        )
    if problem.learning_rate is None:
        return
    if recipe.metaparameters.name.value == "learning-rate":
        raise ConfigurationError(
            "metaparameters.name is learning-rate, whose key points start flat and set the rate of "
            f"every step, but problem {recipe.problem} has learning rates of its own. Leave "
            "learning_rate out of the engine.Problem, and set training.learning_rate.",
            settings=("metaparameters.name", "training.learning_rate"),
        )


def own_scalars(recipe: DescentRecipe, optimizer: Optimizer) -> Scalars:
    """Return the scalars of a recipe, from the numbers that a problem's own optimizer has.

    Raises:
        ConfigurationError: If it has no such number, or one for each step.
    """
    found: dict[str, float] = {}
    for name in recipe.metaparameters.scalars:
        if name is ScalarName.LABEL_SMOOTHING:
            found[name.value] = recipe.training.label_smoothing
            continue
        value = optimizer.hyperparameters.get(name.value)
        if not isinstance(value, int | float):
            has = "one for each step" if value is not None else "none"
            known = [n for n, v in optimizer.hyperparameters.items() if isinstance(v, int | float)]
            raise ConfigurationError(
                f"metaparameters.scalars has {name.value}, of which the optimizer "
                f"{optimizer.name!r} of problem {recipe.problem} has {has}. Use one of "
                f"{', '.join(known) or 'those that an optimizer with numbers has'}.",
                settings=("metaparameters.scalars",),
            )
        found[name.value] = float(value)
    return Scalars.of(getattr(torch, recipe.training.dtype.value), **found)


def own_digests(problem: Problem, routine: Routine) -> dict[str, str]:
    """Return a digest of each part that a problem has of its own, by what it is called.

    Cost:
        Reads the batches of all T steps once, if there is an order.
    """
    found: dict[str, str] = {}
    if problem.optimizer is not None:
        made: Mapping[str, Any] = routine.optimizer.hyperparameters
        numbers = {
            n: v if isinstance(v, int | float) else [float(each) for each in v]
            for n, v in made.items()
        }
        shown = [routine.optimizer.name, routine.optimizer.evaluated, sorted(numbers.items())]
        found["optimizer"] = _digest(repr(shown).encode())
    if problem.learning_rate is not None:
        rate = routine.learning_rate
        shown = float(rate) if isinstance(rate, int | float) else [float(each) for each in rate]
        found["learning rates"] = _digest(repr(shown).encode())
    if problem.order is not None:
        hasher = hashlib.sha256()
        for step in range(routine.num_steps):
            hasher.update(routine.order.batch(step).numpy().tobytes())
        found["order of the examples"] = hasher.hexdigest()
    if routine.own is not None:
        names = repr(list(routine.own.layout.shapes.items())).encode()
        found["state"] = _digest(names) + fingerprint(routine.initial_state()[OWN].detach())
    if problem.metaparameters:
        for name, kind in routine.metaparameters.items():
            computed = {n for n, v in inspect.getmembers_static(type(kind), _is_cached)}
            held = {n: v for n, v in vars(kind).items() if n not in computed}
            found[f"metaparameter {name}"] = _digest(repr(tree_map(_whole, held)).encode())
    return found


def _is_cached(member: object) -> bool:
    return isinstance(member, cached_property)


def _whole(leaf: Any) -> Any:  # noqa: ANN401 (whatever a kind holds)
    """Return a leaf whose text differs where its bits do: an array's text leaves most out."""
    if isinstance(leaf, Tensor):
        return fingerprint(leaf.detach())
    if isinstance(leaf, np.ndarray):
        return str(leaf.dtype), leaf.shape, leaf.tolist()
    if isinstance(leaf, nn.Module):
        return repr(leaf), tree_map(_whole, leaf.state_dict())
    return leaf


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
