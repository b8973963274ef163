"""Scores of a trained model: its mean loss, and the metrics of the problem."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ConfigurationError, EngineError, did_you_mean
from engine.problems.base import Metric
from engine.problems.splits import Examples
from engine.recipes.code.user_code import raised
from engine.recipes.descent import OuterSettings
from engine.routine.outputs import batches_of, classification_scores
from engine.types import Loss


def class_scores(model: nn.Module, examples: Examples, chunk: int) -> dict[str, Any]:
    """Return mean ``loss`` and ``accuracy`` of a classifier, as ``Problem.score`` gives them.

    Args:
        model: In evaluation mode.
        examples: With a class for each, or for each of its tokens; on the model's device.
        chunk: Examples evaluated at a time.
    """
    return classification_scores(model, examples.inputs, examples.labels, chunk=chunk)


def mean_scores(
    model: nn.Module,
    examples: Any,  # noqa: ANN401 (as MeanLoss)
    chunk: int,
    loss: Loss,
    metrics: Mapping[str, Metric],
) -> dict[str, Any]:
    """Return ``loss`` and each metric, means over the examples.

    Args:
        model: In evaluation mode.
        examples: As ``MeanLoss`` takes them, on the model's device.
        chunk: Examples evaluated at a time.
        loss: One number for each example.
        metrics: One number for each example; or, if it is one number, a function of the whole
            split, which is then evaluated at once.

    Raises:
        ConfigurationError: If a metric fails, or returns something else.
    """
    total = len(examples[0] if isinstance(examples, tuple) else examples)
    sums: dict[str, float] = dict.fromkeys(("loss", *metrics), 0.0)
    whole: set[str] | None = None
    for batch in batches_of(examples, chunk):
        losses = loss(model, batch).detach()
        sums["loss"] += float(losses.sum())
        found = {name: _found(name, metric, model, batch) for name, metric in metrics.items()}
        if whole is None:
            whole = {name for name, value in found.items() if value.ndim == 0}
        for name, value in found.items():
            if value.shape != (() if name in whole else losses.shape[:1]):
                raise _shape(name, value)
            sums[name] += float(value.to(torch.float64).sum())
    means: dict[str, Any] = {name: value / total for name, value in sums.items()}
    for name in sorted(whole or ()):
        (everything,) = batches_of(examples, total)
        means[name] = float(_found(name, metrics[name], model, everything))
    return means


def check_choice(outer: OuterSettings, scores: Mapping[str, Any]) -> None:
    """Refuse to choose an iterate by a missing score, or if it is unknown whether more is better.

    Args:
        outer: Says what chooses.
        scores: Of any model on the split that chooses, by name.

    Raises:
        ConfigurationError: Says what is measured.
    """
    known = [name for name, value in scores.items() if isinstance(value, int | float)]
    if outer.choose_by not in known:
        raise ConfigurationError(
            f"outer.choose_by is {outer.choose_by!r}, but what is measured on the split that "
            f"chooses is {', '.join(known)}.{did_you_mean(outer.choose_by, known)} Name one of "
            "these, or give the problem such a metric."
        )
    _ = outer.chooses_highest


def _found(name: str, metric: Metric, model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 (any batch)
    """Return what a metric is.

    Raises:
        ConfigurationError: If it fails; says in which line.
    """
    try:
        return torch.as_tensor(metric(model, batch)).detach()
    except EngineError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"The metric {name!r} raised {raised(error)}. A metric is called as "
            "metric(model, batch), in evaluation mode, and returns numbers. Correct it, or leave "
            "it out."
        ) from error


def _shape(name: str, found: Tensor) -> ConfigurationError:
    return ConfigurationError(
        f"The metric {name!r} returned shape {tuple(found.shape)}, but it has to return one number "
        "for each example of the batch, shape (batch,), or one number for the whole split. Take "
        "the mean over the other axes."
    )
