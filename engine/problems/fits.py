"""Whether the settings of a recipe fit its problem, asked before any data is trained on."""

import inspect

from engine.errors import ConfigurationError
from engine.problems.base import Problem
from engine.recipes.descent import DescentRecipe
from engine.recipes.metaparameters import KINDS
from engine.routine.coupled_loss import CoupledLoss
from engine.types import Loss


def check_fits(recipe: DescentRecipe, problem: Problem) -> None:
    """Refuse settings that have no meaning for a problem.

    Raises:
        ConfigurationError: With the setting, its value, the reason and the remedy.
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
    if isinstance(loss, CoupledLoss):
        _check_coupled(recipe)
    elif recipe.training.piece is not None:
        raise ConfigurationError(
            f"training.piece is {recipe.training.piece}, but only a batch whose examples are "
            f"compared with each other is embedded in pieces, and the loss of {recipe.problem} is "
            "that of single examples. Leave it out; replay.micro_batch reverses them a few at a "
            "time."
        )


def check_single_losses(loss: Loss, kind: str) -> None:
    """Refuse a question about the loss of single examples where a loss is that of many.

    Raises:
        ConfigurationError: If the loss is coupled.
    """
    if isinstance(loss, CoupledLoss):
        raise ConfigurationError(
            f"kind is {kind}, which asks for the loss of single examples, but here a loss is that "
            "of an example among others of its batch. Use kind=descent."
        )


def smooths_labels(loss: Loss) -> bool:
    """Say whether a loss takes ``label_smoothing``."""
    try:
        return "label_smoothing" in inspect.signature(loss).parameters
    except (TypeError, ValueError):  # a function without a signature
        return False


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
