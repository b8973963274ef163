"""Scores of a trained model: its mean loss, and the metrics of the problem."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ConfigurationError, EngineError, did_you_mean
from engine.numerics.fingerprint import first_difference
from engine.problems.base import Metric
from engine.problems.data.splits import Examples
from engine.recipes.code.user_code import raised
from engine.recipes.descent import OuterSettings
from engine.routine.outputs import batches_of, classification_scores
from engine.types import Loss


def class_scores(model: nn.Module, examples: Examples, chunk: int) -> dict[str, Any]:
    """Return mean ``loss`` and ``accuracy`` of a classifier, as ``Problem.score`` gives them.

    Args:
        model: Model in evaluation mode.
        examples: Examples with a class for each, or for each of its tokens; on the model's device.
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
        model: Model in evaluation mode.
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
        with unchanged(model, "The loss"):
            losses = loss(model, batch).detach()
        sums["loss"] += float(losses.sum())
        found = {
            name: _metric_value(name, metric, model, batch) for name, metric in metrics.items()
        }
        if whole is None:
            whole = {name for name, value in found.items() if value.ndim == 0}
        for name, value in found.items():
            if value.shape != (() if name in whole else losses.shape[:1]):
                raise _shape(name, value)
            sums[name] += float(value.to(torch.float64).sum())
    means: dict[str, Any] = {name: value / total for name, value in sums.items()}
    for name in sorted(whole or ()):
        (everything,) = batches_of(examples, total)
        means[name] = float(_metric_value(name, metrics[name], model, everything))
    return means


@contextmanager
def unchanged(model: nn.Module, what: str) -> Iterator[None]:
    """Refuse code that leaves another model behind than the one that it was given to judge.

    The parameters are those of the run's own state. What moves them here moves the training that
    goes on from there, and what the next metric and the next examples are judged by.

    Args:
        model: Model in evaluation mode.
        what: The code, at the head of a sentence.

    Raises:
        ConfigurationError: Names what has changed.

    Cost:
        A copy of the model for as long as the block lasts.
    """
    modes = [(name, module, module.training) for name, module in model.named_modules()]
    before = [(name, each.detach().clone()) for name, each in _tensors(model)]
    yield
    for name, module, training in modes:
        if module.training is not training:
            raise ConfigurationError(
                f"{what} leaves {name or 'the model'} in "
                f"{'training' if module.training else 'evaluation'} mode, in which the next "
                "examples would be judged. Put it back at its end, or work on a copy: "
                "copy.deepcopy(model)."
            )
    now = dict(_tensors(model))
    for name, value in before:
        if name not in now or _differs(now[name], value):
            raise ConfigurationError(
                f"{what} changes {name} of the model that it is given, so that whatever is judged "
                "after it, and the training that goes on from there, is that of another model. Let "
                "it work on a copy: copy.deepcopy(model)."
            )


def _differs(one: Tensor, other: Tensor) -> bool:
    """Tell by bits, so that a NaN that stayed is no difference."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return True
    return first_difference(one, other) is not None


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def check_choice(outer: OuterSettings, scores: Mapping[str, Any]) -> None:
    """Refuse to choose an iterate by a missing score, or if it is unknown whether more is better.

    Args:
        outer: Says what chooses.
        scores: Scores of any model on the split that chooses, by name.

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


def _metric_value(name: str, metric: Metric, model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 (any batch)
    """Return the value of a metric of a model on a batch.

    Raises:
        ConfigurationError: If it fails; says in which line.
    """
    try:
        with unchanged(model, f"The metric {name!r}"):
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
