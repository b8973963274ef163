"""Checks that the settings of a recipe fit its problem, before anything is trained."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from engine.errors import ConfigurationError
from engine.problems.base import Problem
from engine.problems.data.own_examples import OwnExamples
from engine.problems.data.splits import DataSet
from engine.recipes.comparisons import BaselineName
from engine.recipes.descent import DescentRecipe
from engine.recipes.metaparameters import KINDS
from engine.routine.coupled_loss import CoupledLoss
from engine.types import Loss


def check_fits(recipe: DescentRecipe, problem: Problem) -> None:
    """Refuse settings that have no meaning for a problem.

    Raises:
        ConfigurationError: If it is refused; names the setting, its value, the reason and the
            remedy.
    """
    smoothed = recipe.metaparameters.smooths_labels
    loss = problem.training_loss or problem.loss
    if (recipe.training.label_smoothing or smoothed) and not smooths_labels(loss):
        where = "metaparameters.scalars has" if smoothed else "training.label_smoothing is"
        value = "label_smoothing" if smoothed else f"{recipe.training.label_smoothing:g}"
        raise ConfigurationError(
            f"{where} {value}, but the loss of problem {recipe.problem} has no labels to smooth: "
            "it takes no argument label_smoothing. Leave it out."
        )
    _check_state(problem)
    asking = {BaselineName.LOW_LOSS, BaselineName.GRADIENT_SIMILARITY} & {*recipe.baselines}
    if asking and problem.state is not None and "state" in _parameters(loss):
        raise ConfigurationError(
            f"baselines has {' and '.join(sorted(asking))}, which asks for the loss of single "
            f"candidates, but that of {recipe.problem} reads the run's own state, which belongs to "
            "no single one. Leave it out.",
            settings=("baselines",),
        )
    if isinstance(loss, CoupledLoss):
        _check_coupled(recipe)
    elif recipe.training.piece is not None:
        raise ConfigurationError(
            f"training.piece is {recipe.training.piece}, but only a batch whose examples are "
            f"compared with each other is embedded in pieces, and the loss of {recipe.problem} is "
            "that of single examples. Leave it out; replay.micro_batch reverses them a few at a "
            "time."
        )


def _check_state(problem: Problem) -> None:
    """Refuse functions that ask for a state of the problem's own where there is none."""
    if problem.state is not None:
        return
    asked = {"loss": problem.loss, "training_loss": problem.training_loss}
    asked |= {"score": problem.score, "output": problem.output}
    asked |= {f"metric {name!r}": metric for name, metric in problem.metrics.items()}
    for name, function in asked.items():
        wanted = {} if function is None else _parameters(function)
        if "state" in wanted and wanted["state"].default is inspect.Parameter.empty:
            raise ConfigurationError(
                f"The {name} of the problem is written as {name.partition(' ')[0]}"
                f"({', '.join(wanted)}), but the problem has no state. Give the engine.Problem "
                "state and advance, or write it without that argument."
            )


def check_baselines_fit(recipe: DescentRecipe, data: DataSet) -> None:
    """Refuse baselines that a problem cannot have.

    Raises:
        ConfigurationError: If it is refused; names the baseline, the reason and the remedy.
    """
    if BaselineName.LABEL_FLIP in recipe.baselines:
        check_classes(data, "baselines names label-flip")


def check_single_losses(loss: Loss, kind: str) -> None:
    """Refuse to ask for the loss of a single example where the loss depends on others.

    Raises:
        ConfigurationError: If the loss is coupled, or reads a state of the run's own.
    """
    if isinstance(loss, CoupledLoss):
        raise ConfigurationError(
            f"kind is {kind}, which asks for the loss of single examples, but here a loss is that "
            "of an example among others of its batch. Use kind=descent."
        )
    if "state" in _parameters(loss):
        raise ConfigurationError(
            f"kind is {kind}, which asks for the loss of single examples, but the problem's loss "
            "reads the run's own state. Use kind=descent, or give the problem a loss of (model, "
            "batch), and the one that reads the state as its training_loss."
        )


def continuous_inputs(data: DataSet, setting: str) -> Tensor:
    """Return the training inputs of a problem whose inputs may be moved, shape (examples, ...).

    Args:
        data: The examples.
        setting: What moves them, for the message, e.g. ``metaparameters.name is inputs``.

    Raises:
        ConfigurationError: If inputs are no numbers in a row, or nobody says between which values.
    """
    inputs = data.splits["train"].inputs
    if not inputs.is_floating_point():
        raise ConfigurationError(
            f"{setting}, which moves inputs by small steps, but those of the problem are "
            f"{inputs.dtype}, between which there is nothing. Use counts or weights of examples, "
            "or give the problem embedding=, and a loss that takes input_shifts."
        )
    if data.bounds is None:
        raise ConfigurationError(
            f"{setting}, which moves inputs, but the problem does not say between which values "
            f"they may lie (they are {float(inputs.min()):.3g} to {float(inputs.max()):.3g}). Give "
            "it bounds=(low, high)."
        )
    return inputs


def check_classes(data: DataSet, setting: str) -> None:
    """Refuse settings that change labels where labels are not classes.

    Raises:
        ConfigurationError: If there are not two classes.
    """
    train = data.splits["train"]
    if data.num_classes < 2 or (not isinstance(train, OwnExamples) and train.labels.ndim != 1):
        raise ConfigurationError(
            f"{setting}, which gives examples the label of another class, but the labels of the "
            "problem are no classes (whole numbers from 0, one for each example). Leave it out, or "
            "give the problem such labels."
        )


def smooths_labels(loss: Loss) -> bool:
    """Say whether a loss takes ``label_smoothing``."""
    return "label_smoothing" in _parameters(loss)


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # a function without a signature
        return {}


def _check_coupled(recipe: DescentRecipe) -> None:
    kind = recipe.metaparameters
    if not kind.about.for_coupled:
        raise ConfigurationError(
            f"metaparameters.name is {kind.name.value}, which needs losses of single examples, but "
            f"the loss of {recipe.problem} compares the examples of a batch. Use one of "
            f"{', '.join(name for name, about in KINDS.items() if about.for_coupled)}."
        )
    if recipe.replay.micro_batch is not None:
        raise ConfigurationError(
            f"replay.micro_batch is {recipe.replay.micro_batch}, but the examples of a batch are "
            "compared with each other, so pieces have other losses. Use training.piece."
        )
    piece = recipe.training.piece
    if piece is None:
        return
    for group, name, neutral in (
        ("replay", "vjp", "reverse-over-reverse"),
        ("replay", "unroll", 1),
        ("training", "compile", False),
        ("training", "path", "plain"),
    ):
        value = getattr(getattr(recipe, group), name)
        if value != neutral:
            raise ConfigurationError(
                f"{group}.{name} is {value}, which is not for a batch in pieces of training.piece "
                f"{piece}. Leave one of them out."
            )
