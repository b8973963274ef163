"""Subclasses of the ``Trainer`` that trl ships: what of theirs is the Trainer's own training.

Whatever a step calls, and a subclass has anew, is another training, unless its source is one of
those below, which do nothing but call the Trainer's own. That holds for every version of trl: one
with other words is refused by name. What a step minimizes is compared by its numbers, see
``trainer_sums``.

References:
    trl 1.16, its modules of the SFT and DPO trainers and of their utilities. Compared with what it
    trains, step by step: 0.25.1, 1.0.0, 1.9.2, 1.14.2 and 1.16.0.
"""

import ast
import copy
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from engine.errors import ConfigurationError

_TRL = "trl"

_WRAPPERS = (
    # Activations may wait in main memory for the backward pass; their numbers stay.
    """
    def training_step(self, *args, **kwargs):
        with self.maybe_activation_offload_context:
            return super().training_step(*args, **kwargs)
    """,
)
"""Methods that change nothing of what the Trainer's own do."""

_LIKELIHOOD = ("trl.trainer.sft_trainer", "SFTTrainer")
"""The class whose ``compute_loss`` is the loss of a language model, with what it logs."""

_LIKELIHOODS = ("nll", "chunked_nll")
"""Values of its ``loss_type`` that are so; the second one is computed in pieces."""

_LOGGED = ("_metrics", "_total_train_tokens")
"""What the ``compute_loss`` of trl keeps of each call."""


def is_of_trl(kind: type) -> bool:
    """Say whether a class is one that trl ships."""
    return kind.__module__.partition(".")[0] == _TRL


def versions() -> tuple[str, ...]:
    """Return the name and version of trl, for what depends on it."""
    try:
        return (f"{_TRL} {version(_TRL)}",)
    except PackageNotFoundError:  # a copy of it on the path
        return (_TRL,)


def only_wraps(trainer: Any, base: type, name: str) -> bool:  # noqa: ANN401 (of a library)
    """Say whether a method that is not the Trainer's own does nothing but call it.

    Args:
        trainer: Its class is looked at, and those between it and the Trainer.
        base: The Trainer.
        name: Name of the method.
    """
    if name in vars(trainer):
        return False
    kinds = type(trainer).__mro__
    between = [each for each in kinds[: kinds.index(base)] if name in vars(each)]
    return bool(between) and all(
        is_of_trl(each) and _words(vars(each)[name]) in _wrapper_sources() for each in between
    )


def _wrapper_sources() -> list[str | None]:
    return [ast.dump(ast.parse(textwrap.dedent(each))) for each in _WRAPPERS]


def _words(function: Any) -> str | None:  # noqa: ANN401 (what a class holds)
    """Return a function's source without its comments, or None if there is none."""
    try:
        return ast.dump(ast.parse(textwrap.dedent(inspect.getsource(function))))
    except (OSError, TypeError, SyntaxError):
        return None


def has_loss_of_model(trainer: Any) -> bool:  # noqa: ANN401 (of a library)
    """Say whether a Trainer's ``compute_loss`` is that of a language model, with what it logs.

    Raises:
        ConfigurationError: If its loss is not the one that trl ships, with the remedy.
    """
    kinds = type(trainer).__mro__
    owner = next(each for each in kinds if "compute_loss" in vars(each))
    if (owner.__module__, owner.__name__) != _LIKELIHOOD or "compute_loss" in vars(trainer):
        return False
    found = getattr(trainer.args, "loss_type", _LIKELIHOODS[0])
    if found not in _LIKELIHOODS:
        raise ConfigurationError(
            f"loss_type of the {type(trainer).__name__} is {found!r}: it detaches a factor of the "
            "loss, so that no derivative of a step goes through it. Use loss_type='nll', or hand "
            "in loss=, a function of (model, batch) that returns one loss for each example and "
            "detaches nothing: minus the probability of each token has the gradient of 'dft'."
        )
    return trainer.compute_loss_func is None


def rows_said(trainer: Any) -> tuple[str, ...]:  # noqa: ANN401 (of a library)
    """Return in a sentence which examples a trainer of trl has made of those that it was given."""
    if not any(map(is_of_trl, type(trainer).__mro__)):
        return ()
    return (
        f"The examples are the {len(trainer.train_dataset)} rows of trainer.train_dataset, which "
        "trl has made: shuffled or joined in packs if it was asked to, and without those in which "
        "max_length leaves nothing to learn.",
    )


@contextmanager
def logs_kept(trainer: Any) -> Iterator[None]:  # noqa: ANN401 (of a library)
    """Have the ``compute_loss`` of trl leave no log of its calls in the block behind."""
    logs = {name: copy.deepcopy(vars(trainer)[name]) for name in _LOGGED if name in vars(trainer)}
    try:
        yield
    finally:
        vars(trainer).update(logs)
