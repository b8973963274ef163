"""The losses of models of transformers, for each example by itself.

A model of transformers returns one mean for a batch. Each class of models has one of a few losses,
named by its ``loss_type``; here is what each of them is the mean of.

References:
    transformers 5.24, its modules of losses, of the ``Trainer`` and of the ``LabelSmoother``.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.models.losses import IGNORED
from engine.routine.module.operations import without_checkpointing
from engine.routine.number_format import SameNumbers


class LossKind(StrEnum):
    """What a model of transformers minimizes."""

    CAUSAL = "ForCausalLM"
    CONDITIONAL = "ForConditionalGeneration"
    MASKED = "ForMaskedLM"
    TOKENS = "ForTokenClassification"
    SEQUENCES = "ForSequenceClassification"
    IMAGES = "ForImageClassification"


TOKENWISE = (LossKind.CAUSAL, LossKind.CONDITIONAL, LossKind.MASKED, LossKind.TOKENS)
"""Losses with a label for each token, of which some are ignored."""


@dataclass(frozen=True)
class TrainerLoss:
    """Maps (model, batch) to the loss of each example, shape (batch,).

    Attributes:
        kind: Which loss.
        smoothing: Share of the target that is spread over all classes.
        of_batch: Whether tokens are averaged over the batch, as in the ``Trainer``'s training: an
            example with more tokens counts more, and the mean over the examples is the batch's
            loss. If not, tokens are averaged over their example.
        counts_first: Whether the first token of each example is among those of the batch, although
            nothing predicts it: a Trainer counts so where it does not know the model's loss.
        factor: On the loss of each example, where a Trainer adds the means of so many batches up.
    """

    kind: LossKind
    smoothing: float = 0.0
    of_batch: bool = False
    counts_first: bool = False
    factor: int = 1

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Return one loss for each example."""
        logits, labels = self._answers(model, batch)
        if self.kind not in TOKENWISE:
            return self.factor * self._of_sequences(model, logits, labels)
        known = labels if self.counts_first else None
        if self.kind is LossKind.CAUSAL:
            logits, labels = logits[:, :-1], labels[:, 1:]
        rows = self._cross_entropy(logits, labels).sum(dim=1)
        counted = (labels != IGNORED).sum(dim=1)
        if self.of_batch:
            total = counted.sum() if known is None else (known != IGNORED).sum()
            return rows * (len(labels) / total.clamp(min=1))
        return rows / counted.clamp(min=1)

    def for_batches(self, *, counts_first: bool = False) -> "TrainerLoss":
        """Return the loss as it is trained on."""
        return replace(self, of_batch=True, counts_first=counts_first)

    def times(self, factor: int) -> "TrainerLoss":
        """Return the loss of one label for each example, so many times."""
        return replace(self, factor=factor)

    def hits(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Return whether the class of each example is found, or the share of its tokens."""
        logits, labels = self._answers(model, batch)
        if self.kind is LossKind.CAUSAL:
            logits, labels = logits[:, :-1], labels[:, 1:]
        right = (logits.argmax(-1) == labels).to(logits.dtype).reshape(len(labels), -1)
        counted = (labels != IGNORED).reshape(len(labels), -1)
        return (right * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)

    def _answers(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        inputs = {name: column for name, column in batch.items() if name != "labels"}
        if self.kind is LossKind.CONDITIONAL and "decoder_input_ids" not in inputs:
            of_model: Any = model  # which makes them of the labels, if it is handed these
            shifted = of_model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
            inputs["decoder_input_ids"] = shifted
        with _same_format(model):
            return model(**inputs).logits, batch["labels"]

    def _of_sequences(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        if is_regression(model):
            return (logits.reshape(labels.shape) - labels).square().reshape(len(labels), -1).mean(1)
        if labels.is_floating_point():
            return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)
        return self._cross_entropy(logits, labels.reshape(-1))

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each label, with that shape; 0 where it is ignored."""
        flat, wanted = logits.flatten(0, -2), labels.flatten()
        losses = F.cross_entropy(flat, wanted, reduction="none", ignore_index=IGNORED)
        if self.smoothing:
            even = -F.log_softmax(flat, dim=1).mean(dim=1)
            even = torch.where(wanted == IGNORED, 0.0, even)
            losses = (1 - self.smoothing) * losses + self.smoothing * even
        return losses.view(labels.shape)


def is_regression(model: nn.Module) -> bool:
    """Say whether a classifier of transformers is one that predicts numbers."""
    config: Any = model.config
    if config.problem_type is not None:
        return config.problem_type == "regression"
    return config.num_labels == 1


def loss_of(model: nn.Module, smoothing: float) -> TrainerLoss:
    """Return the loss that a model of transformers has.

    Raises:
        ConfigurationError: If it has one that is not known here.
    """
    of_base: Callable[[], Any] | None = getattr(model, "get_base_model", None)  # of peft
    inner = model if of_base is None else of_base()
    found = getattr(inner, "loss_type", None) or _of_class(type(inner))
    of_pictures = found == LossKind.CONDITIONAL and not _has_decoder(inner)
    if found not in set(LossKind) or of_pictures:
        raise ConfigurationError(
            f"The model {type(inner).__name__} has the loss {found}, and the engine does not know "
            f"how to split it into the losses of the examples. It knows {', '.join(LossKind)}, of "
            f"which {LossKind.CONDITIONAL} for models with an encoder and a decoder. Hand in "
            "loss=, a function of (model, batch) that returns one loss for each example."
        )
    return TrainerLoss(LossKind(found), smoothing)


def _has_decoder(model: Any) -> bool:  # noqa: ANN401 (of a library)
    """Say whether a model has an encoder and a decoder, which reads the labels one place late."""
    made_of_labels = hasattr(model, "prepare_decoder_input_ids_from_labels")
    return made_of_labels and bool(getattr(model.config, "is_encoder_decoder", False))


def _of_class(kind: type) -> LossKind | None:
    """Return the loss that a class has by its name, or by that of what it is made of."""
    for each in kind.__mro__:
        known = [loss for loss in LossKind if loss in each.__name__]
        if known or each.__name__.endswith("LMHeadModel"):
            return known[0] if known else LossKind.CAUSAL
    return None


def _same_format(model: nn.Module) -> ExitStack:
    """Keep a float64 model in float64: many compute norms and softmaxes in float32.

    What is checkpointed would be computed again outside of this, in float32.
    """
    dtype = next(model.parameters()).dtype
    kept = ExitStack()
    if dtype is torch.float64:
        kept.enter_context(SameNumbers(dtype))
        kept.enter_context(without_checkpointing())
    return kept
