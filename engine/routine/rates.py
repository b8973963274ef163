"""The learning rate of each step: shapes that recipes name, and those of torch's schedulers."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from engine.errors import ConfigurationError
from engine.recipes.training import RateSchedule, TrainingSettings
from engine.routine.optimizer import Optimizer

Shape = Callable[[TrainingSettings, int, int], float]
"""Maps (settings, step, steps of the warm-up) to a factor on the peak rate, after the warm-up."""


def learning_rates(settings: TrainingSettings) -> float | tuple[float, ...]:
    """Return the rate of a flat run without a warm-up, or one rate for each step.

    In the warm-up step t has (t + 1) / warmup_steps of the peak; the shape of the rest is that of
    ``SHAPES``.
    """
    shape, warmup = SHAPES[settings.rate_schedule], settings.warmup_steps
    if settings.rate_schedule is RateSchedule.FLAT and not warmup:
        return settings.learning_rate
    return tuple(
        settings.learning_rate
        * ((step + 1) / warmup if step < warmup else shape(settings, step, warmup))
        for step in range(settings.num_steps)
    )


def _flat(_settings: TrainingSettings, _step: int, _warmup: int) -> float:
    return 1.0


def _one_cycle(settings: TrainingSettings, step: int, _warmup: int) -> float:
    """Rise linearly from half the peak at a quarter of the run, and fall to a ten-thousandth."""
    position = step / max(settings.num_steps - 1, 1)
    if position < 0.25:
        return 0.5 + 0.5 * position / 0.25
    return 1 - (1 - 1e-4) * (position - 0.25) / 0.75


def _cosine(settings: TrainingSettings, step: int, warmup: int) -> float:
    """Fall along half a cosine, as ``CosineAnnealingLR`` over the steps after the warm-up."""
    position = (step - warmup) / (settings.num_steps - warmup)
    return settings.final_rate + (1 - settings.final_rate) * (1 + math.cos(math.pi * position)) / 2


def _linear(settings: TrainingSettings, step: int, warmup: int) -> float:
    """Fall linearly, as ``LinearLR`` over the steps after the warm-up."""
    position = (step - warmup) / (settings.num_steps - warmup)
    return 1 + (settings.final_rate - 1) * position


def _multi_step(settings: TrainingSettings, step: int, _warmup: int) -> float:
    """Drop by a factor at each milestone, as ``MultiStepLR``."""
    return settings.rate_drop ** sum(step >= milestone for milestone in settings.milestones)


SHAPES: dict[RateSchedule, Shape] = {
    RateSchedule.FLAT: _flat,
    RateSchedule.ONE_CYCLE: _one_cycle,
    RateSchedule.COSINE: _cosine,
    RateSchedule.LINEAR: _linear,
    RateSchedule.MULTI_STEP: _multi_step,
}
"""The shape that each name of a recipe stands for."""


def rates(scheduler: LRScheduler, num_steps: int, *, of: str = "lr") -> list[float]:
    """Read what a scheduler of torch sets in each step, from where it stands now.

    The scheduler and its optimizer stay as they are: a copy without parameters is stepped.

    Args:
        scheduler: Any that depends on nothing but the number of steps, chained ones too.
        num_steps: T.
        of: What to read: ``lr``, ``momentum`` or ``beta1`` (of a one-cycle policy).

    Returns:
        One number for each step, for ``Routine(learning_rate=...)`` or an optimizer's momentum.
        With several groups of parameters those of the first one; the others have to be multiples
        of them, which ``groups=[{"names": ..., "rate": ...}]`` of the optimizer says.

    Raises:
        ConfigurationError: If the scheduler depends on a metric, or its groups follow shapes of
            their own.
    """
    found = [[_read(group, of) for group in groups] for groups in _stepped(scheduler, num_steps)]
    _refuse_other_shapes(found)
    return [row[0] for row in found]


def rates_alone(scheduler: LRScheduler, num_steps: int, optimizer: Optimizer | None) -> list[float]:
    """Read the learning rates of a scheduler that stands for all that moves from step to step.

    Args:
        scheduler: As ``rates`` takes it.
        num_steps: T.
        optimizer: Optimizer of the run, if it is known: what the scheduler moves besides the rate
            has to be one number for each step there.

    Raises:
        ConfigurationError: If the scheduler moves something that the optimizer holds still, or has
            groups of parameters with rates that the optimizer has not.
    """
    stepped = _stepped(scheduler, num_steps)
    _refuse_lost_groups(stepped, optimizer)
    seen = [
        [{n: v for n, v in group.items() if n in _CYCLED} for group in groups] for groups in stepped
    ]
    hyper = {} if optimizer is None else optimizer.hyperparameters
    for place, first in enumerate(seen[0] if seen else ()):
        for name, value in first.items():
            own = hyper.get(_CYCLED[name])
            if all(groups[place][name] == value for groups in seen) or isinstance(own, Sequence):
                continue
            raise ConfigurationError(
                f"{type(scheduler).__name__} moves the {name} besides the learning rate, and the "
                "run's optimizer would hold it still. Hand in an optimizer with one number for "
                f"each step: {_IN_STEP[name]} (where num_steps is not known yet, as in a problem, "
                "a function of num_steps that returns it). Or make the scheduler with "
                "cycle_momentum=False, which is another training than the script's."
            )
    return rates(scheduler, num_steps)


def _refuse_lost_groups(stepped: list[list[dict[str, Any]]], optimizer: Optimizer | None) -> None:
    """Refuse an optimizer of the run that has one rate where the scheduler's has several."""
    if optimizer is None or optimizer.rate_factors is None:
        return
    for first, *others in stepped:
        for place, group in enumerate(others, 1):
            factor = group["lr"] / first["lr"] if first["lr"] else 1.0
            if any(math.isclose(factor, each, rel_tol=1e-6) for each in optimizer.rate_factors):
                continue
            raise ConfigurationError(
                f"Group {place} of the scheduler's optimizer has {factor:g} times the rate of "
                f"group 0, but the run's optimizer, {optimizer.name}, has no group with that "
                "factor, so all parameters would be trained at the rate of group 0. Give it the "
                "groups: "
                f"groups=[{{'names': ..., 'rate': {factor:g}}}]."
            )


_CYCLED = {"momentum": "momentum", "betas": "beta1"}
"""What schedulers of torch move besides the rate, and the hyperparameter that it is here."""

_IN_STEP = {
    "momentum": 'engine.sgd(engine.rates(scheduler, num_steps, of="momentum"))',
    "betas": 'engine.adamw((engine.rates(scheduler, num_steps, of="beta1"), 0.999))',
}
"""How an optimizer moves with a scheduler."""


def _stepped(scheduler: LRScheduler, num_steps: int) -> list[list[dict[str, Any]]]:
    """Return the settings of each group of parameters in each step; the scheduler stays."""
    _refuse_metrics(scheduler)
    optimizer = scheduler.optimizer
    empty = emptied(optimizer)
    state, optimizer.state = optimizer.state, type(optimizer.state)(dict)
    try:
        own: Any = copy.deepcopy(scheduler, empty)
    finally:
        optimizer.state = state
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer has made no step
        for _ in range(num_steps):
            found.append([{**group, "params": ()} for group in own.optimizer.param_groups])
            own.step()
    return found


def emptied(optimizer: torch.optim.Optimizer) -> dict[int, Any]:
    """Return the memo for ``copy.deepcopy`` that copies an optimizer with empty parameters."""
    return {
        id(p): torch.zeros(0, requires_grad=True)
        for group in optimizer.param_groups
        for p in group["params"]
    }


def _read(group: dict[str, Any], of: str) -> float:
    if of == "beta1" and "betas" in group:
        return float(group["betas"][0])
    if of not in ("lr", "momentum") or of not in group:
        raise ConfigurationError(
            f"The scheduler's optimizer has no {of!r}. Read 'lr', or the 'momentum' or 'beta1' "
            "that it has."
        )
    return float(group[of])


def _refuse_metrics(scheduler: Any) -> None:  # noqa: ANN401 (whatever was handed in)
    if not isinstance(scheduler, LRScheduler):
        raise ConfigurationError(
            f"scheduler is a {type(scheduler).__name__}. Hand in one of torch.optim.lr_scheduler, "
            "or give Routine a list of rates."
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ConfigurationError(
            f"{type(scheduler).__name__} sets its rates by a metric of the run, which no list of "
            "rates can say beforehand. Train once with it and hand in the rates that it took, as a "
            "list, or use a schedule of the step alone."
        )


def _refuse_other_shapes(found: list[list[float]]) -> None:
    first = [row[0] for row in found]
    for i in range(1, len(found[0]) if found else 0):
        factor = next((row[i] / row[0] for row in found if row[0]), 0.0)
        if any(
            abs(row[i] - factor * rate) > 1e-9 * max(abs(row[i]), abs(rate))
            for row, rate in zip(found, first, strict=True)
        ):
            raise ConfigurationError(
                f"Group {i} of the scheduler's optimizer follows another shape than group 0, but a "
                "run has one rate for each step and factors on it. Use shapes that are multiples "
                "of one another, with groups=[{'names': ..., 'rate': factor}]."
            )
