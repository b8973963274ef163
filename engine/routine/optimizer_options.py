"""Options of every optimizer: groups of parameters, clipping, and an average that is evaluated."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, TypedDict, Unpack

import torch
from pydantic import ValidationError
from torch import Tensor

from engine.errors import ConfigurationError
from engine.recipes.optimizer import ParameterGroup
from engine.recipes.reading.explain import said_of
from engine.routine.idle import hands_on
from engine.routine.layout import Layout
from engine.routine.optimizer import REST, Optimizer, unfitted, wrapped
from engine.types import Hyperparameters, State

Groups = Sequence[ParameterGroup | Mapping[str, Any]]
"""Groups of parameters, or what one is made of: ``{"names": "*.bias", "weight_decay": 0}``."""

CLIP_EPS = 1e-6
"""Added to the norm that clipping divides by, as in ``torch.nn.utils.clip_grad_norm_``."""

AVERAGE = "average"
"""Name of the averaged parameters in a state."""


class OptimizerOptions(TypedDict, total=False):
    """What every optimizer takes besides its own settings.

    Attributes:
        groups: Parameters with settings of their own; the first group that fits one counts.
        clip_norm: Largest norm of the whole gradient, which is scaled down to it as by
            ``torch.nn.utils.clip_grad_norm_``. The norm is a part of the update, and of its
            derivative.
        clip_value: Largest size of each of its numbers, as by ``clip_grad_value_``.
    """

    groups: Groups
    clip_norm: float | None
    clip_value: float | None


def with_options(optimizer: Optimizer, **options: Unpack[OptimizerOptions]) -> Optimizer:
    """Return an optimizer with the options that each one has.

    Args:
        optimizer: Reads its hyperparameters as numbers or as vectors, shape (params,).
        **options: See ``OptimizerOptions``.

    Raises:
        ConfigurationError: If there is no such option, or both ways of clipping are asked for.
    """
    for name in options.keys() - OptimizerOptions.__annotations__.keys():
        meant = _suggestion(name, optimizer)
        raise ConfigurationError(
            f"The optimizer {optimizer.name} has no option {name!r}, which would be left out "
            f"without a word. {meant}See help() of its function, e.g. help(engine.sgd)."
        )
    groups = groups_from(options.get("groups", ()))
    within = (1.0, *(optimizer.rate_factors or ()))
    factors = {own * inner for own in (1.0, *(group.rate for group in groups)) for inner in within}
    grouped = replace(_grouped(optimizer, groups), rate_factors=tuple(sorted(factors)))
    return _clipped(grouped, options.get("clip_norm"), options.get("clip_value"))


def _suggestion(name: str, optimizer: Optimizer) -> str:
    """Say what somebody may have looked for who gave an option that there is not."""
    reads = dict.fromkeys(optimizer.hyperparameters)
    if name in ("lr", "learning_rate"):
        return "The rate is the routine's, the problem's or the recipe's learning_rate. "
    if "beta1" in reads:
        if name in ("beta1", "beta2"):
            return f"Both are one: {optimizer.name}((0.9, 0.999)), each perhaps a list of numbers. "
        reads = {"betas": None} | {n: None for n in reads if n not in ("beta1", "beta2")}
    close = get_close_matches(name, [*reads, *OptimizerOptions.__annotations__], 1)
    return f"Did you mean {close[0]!r}? " if close else ""


def groups_from(given: Any) -> tuple[ParameterGroup, ...]:  # noqa: ANN401 (whatever was handed in)
    """Return groups of parameters.

    Raises:
        ConfigurationError: If one has a setting that there is not.
    """
    if isinstance(given, Mapping) or not isinstance(given, Sequence) or isinstance(given, str):
        raise ConfigurationError(
            f"groups is a {type(given).__name__}. Hand in a list, e.g. "
            "[{'names': '*.bias', 'weight_decay': 0.0}]."
        )
    try:
        return tuple(ParameterGroup.model_validate(group) for group in given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(
            f"A group of parameters has {'.'.join(map(str, first['loc']))}={first['input']!r}: "
            f"{said_of(first)} A group has names, max_axes, rate, weight_decay, momentum, "
            "beta1 and beta2."
        ) from None


def _grouped(optimizer: Optimizer, groups: tuple[ParameterGroup, ...]) -> Optimizer:
    if not groups:
        return optimizer
    for group in groups:
        for name in group.own():
            if not {name, REST + name} & optimizer.hyperparameters.keys():
                raise ConfigurationError(
                    f"A group of parameters sets {name}, but {optimizer.name} does not read it. "
                    f"It reads {', '.join(optimizer.hyperparameters)}."
                )

    def fit(layout: Layout, device: torch.device) -> Optimizer:
        inner = optimizer.on(layout, device)
        own = _own_hyperparameters(inner, groups, layout, device)

        def given(hyper: Hyperparameters) -> Hyperparameters:
            moved = {n: hyper[n] * factor + value for n, (factor, value) in own.items()}
            return {**hyper, **moved}

        @hands_on
        def update(
            state: State, gradient: Tensor, hyper: Hyperparameters, step: int | Tensor
        ) -> State:
            return inner.update(state, gradient, given(hyper), step)

        recover = inner.recover
        return replace(
            inner,
            update=update,
            recover=recover and (lambda s, after, hyper: recover(s, after, given(hyper))),
        )

    init, update = unfitted(optimizer.name)
    return replace(optimizer, init=init, update=update, recover=None, fit=fit)


def _own_hyperparameters(
    optimizer: Optimizer, groups: tuple[ParameterGroup, ...], layout: Layout, device: torch.device
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return factor and summand of each hyperparameter that a group sets, shape (params,) each.

    Where a group says nothing, the factor is 1 and the summand 0, so that what is differentiated
    stays what it is there.
    """
    chosen = _chosen(groups, layout)
    factors = {"learning_rate": [1.0 if g is None else g.rate for g in chosen]}
    summands = {"learning_rate": [0.0] * len(chosen)}
    for setting in sorted({name for group in groups for name in group.own()}):
        values = [None if g is None else g.own().get(setting) for g in chosen]
        for name in {setting, REST + setting} & optimizer.hyperparameters.keys():
            factors[name] = [1.0 if value is None else 0.0 for value in values]
            summands[name] = [value or 0.0 for value in values]

    def spread(numbers: Sequence[float]) -> Tensor:
        parts = zip(layout.sizes, numbers, strict=True)
        return torch.cat([torch.full((n,), x, dtype=layout.dtype, device=device) for n, x in parts])

    return {name: (spread(factors[name]), spread(summands[name])) for name in factors}


def _chosen(groups: tuple[ParameterGroup, ...], layout: Layout) -> list[ParameterGroup | None]:
    """Return the group of each parameter, in the order of the layout.

    Raises:
        ConfigurationError: If a group has no parameter.
    """
    found: list[ParameterGroup | None] = []
    for name, shape in layout.shapes.items():
        fits = [group for group in groups if group.has(name, shape)]
        found.append(fits[0] if fits else None)
    for group in groups:
        if not any(group is each for each in found):
            raise ConfigurationError(
                f"No parameter is in the group {group.model_dump(exclude_defaults=True)}: none has "
                "such a name, or all that have are in groups before it. The parameters are "
                f"{', '.join(list(layout.shapes)[:6])}.",
                settings=("optimizer.groups",),
            )
    return found


def _clipped(optimizer: Optimizer, norm: Any, value: Any) -> Optimizer:  # noqa: ANN401 (as above)
    if norm is not None and value is not None:
        raise ConfigurationError(
            f"clip_norm is {norm} and clip_value {value}, whose order nobody knows. Use one of "
            "them."
        )
    if norm is None and value is None:
        return optimizer
    name, limit = ("clip_norm", norm) if norm is not None else ("clip_value", value)
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
        raise ConfigurationError(f"{name} is {limit!r}. Use a number above 0, e.g. {name}=1.0.")

    def wrap(inner: Optimizer) -> Optimizer:
        @hands_on
        def update(
            state: State, gradient: Tensor, hyper: Hyperparameters, step: int | Tensor
        ) -> State:
            own = {n: v for n, v in hyper.items() if n != name}
            if name == "clip_value":
                clipped = _within(gradient, hyper[name])
            else:
                scale = hyper[name] / (torch.linalg.vector_norm(gradient) + CLIP_EPS)
                clipped = gradient * scale.clamp(max=1.0)
            return inner.update(state, clipped, own, step)

        hyper = {**inner.hyperparameters, name: limit}
        # What two states tell is the clipped gradient, from which the whole one does not follow.
        return replace(inner, hyperparameters=hyper, update=update, recover=None)

    return wrapped(optimizer, wrap)


def _within(gradient: Tensor, limit: float | Tensor) -> Tensor:
    if not isinstance(limit, Tensor):
        return gradient.clamp(-limit, limit)
    return torch.minimum(torch.maximum(gradient, -limit), limit)


def averaged(
    optimizer: Optimizer, decay: float | Sequence[float] | None = 0.999, *, start: int = 0
) -> Optimizer:
    """Return an optimizer that also keeps an average of the parameters, which is evaluated.

    After each step from ``start`` on, average <- decay * average + (1 - decay) * params. The first
    of these steps copies, as ``torch.optim.swa_utils.AveragedModel`` does. The average is a vector
    of the state: stored, replayed and differentiated as the others.

    Args:
        optimizer: Moves the parameters.
        decay: One number in [0, 1), or one for each step; None for the plain mean of all
            parameters since ``start`` (stochastic weight averaging).
        start: First step whose parameters count; before it the average is the parameters.

    Raises:
        ConfigurationError: If a decay is outside of its range.
    """
    if decay is not None:
        numbers = [decay] if isinstance(decay, int | float) else list(decay)
        wrong = [number for number in numbers if not 0 <= number < 1]
        if wrong or not numbers:
            raise ConfigurationError(
                f"The decay of an average is {wrong[0] if wrong else 'empty'}. Use numbers from 0 "
                "to below 1, e.g. 0.999.",
                settings=("optimizer.ema_decay",),
            )
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        raise ConfigurationError(f"start is {start!r}, but it is a step. Use 0 or more.")
    if not isinstance(optimizer, Optimizer):
        raise ConfigurationError(
            f"averaged() was given a {type(optimizer).__name__}. Give it an optimizer of the "
            "engine, e.g. engine.averaged(engine.sgd())."
        )
    if optimizer.evaluated != "params":
        raise ConfigurationError("The optimizer averages already. Use averaged() once.")
    return wrapped(optimizer, lambda inner: _averaged(inner, decay, start))


def _averaged(inner: Optimizer, decay: float | Sequence[float] | None, start: int) -> Optimizer:
    def init(params: Tensor) -> State:
        return {**inner.init(params), AVERAGE: params.clone()}

    @hands_on
    def update(state: State, gradient: Tensor, hyper: Hyperparameters, step: int | Tensor) -> State:
        own = {n: v for n, v in hyper.items() if n != "ema_decay"}
        before = {name: row for name, row in state.items() if name != AVERAGE}
        following = inner.update(before, gradient, own, step)
        params, average = following["params"], state[AVERAGE]
        kept = hyper["ema_decay"] if decay is not None else _mean_share(step, start)
        kept = _from_then_on(step, start, kept)
        return {**following, AVERAGE: kept * average + (1 - kept) * params}

    recover = inner.recover

    def recovered(state: State, following: State, hyper: Hyperparameters) -> Tensor:
        assert recover is not None
        before, after = (
            {n: r for n, r in each.items() if n != AVERAGE} for each in (state, following)
        )
        return recover(before, after, hyper)

    hyper = dict(inner.hyperparameters) | ({} if decay is None else {"ema_decay": decay})
    return replace(
        inner,
        hyperparameters=hyper,
        init=init,
        update=update,
        recover=recover and recovered,
        evaluated=AVERAGE,
    )


def _mean_share(step: int | Tensor, start: int) -> float | Tensor:
    """Return the share of the mean before a step in the mean after it."""
    counted = step - start
    if isinstance(counted, Tensor):
        counted = counted.clamp(min=0)
    return counted / (counted + 1) if isinstance(counted, Tensor) or counted > 0 else 0.0


def _from_then_on(step: int | Tensor, start: int, kept: float | Tensor) -> float | Tensor:
    """Return a share after ``start``, and 0 up to it; a compiled step is a tensor."""
    if isinstance(step, Tensor):
        return torch.where(step > start, kept, 0.0)
    # Times 0, so that the derivative by a decay exists in the step that copies too.
    return kept if step > start else kept * 0.0
