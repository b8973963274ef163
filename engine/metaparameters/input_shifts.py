"""Shifts of embedded inputs, such as tokens, as metaparameters."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.metaparameters.base import Metaparameter
from engine.metaparameters.inputs import Inputs


@dataclass(frozen=True, eq=False, repr=False)
class InputShifts(Inputs):
    """What is added to the embedded inputs of chosen examples, handed to the loss.

    Between two tokens there is nothing, so they cannot be moved by small steps; their embeddings
    can. The loss gets ``input_shifts``, shape (batch, tokens, width), zero for all other examples.

    Attributes:
        value: The shifts, shape (chosen, tokens, width); zeros give plain training.
    """

    batch = Metaparameter.batch  # the batch keeps its tokens

    def loss_arguments(self, z: Tensor, indices: Tensor) -> Mapping[str, Tensor]:
        """Return ``input_shifts`` of a batch, shape (batch, tokens, width)."""
        place = self._places[indices.cpu()].to(z.device)
        is_chosen = (place >= 0).reshape(-1, *[1] * (z.ndim - 1))
        return {"input_shifts": torch.where(is_chosen, z[place.clamp(min=0)], 0.0)}
