"""Torch's own training loop, as people write it: what a run of the engine has to repeat.

Nothing of the engine's step is used: parameters move in place, by ``backward`` and ``step``.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from tests.helpers.trainings import routines


@dataclass
class Loop:
    """A loop over batches, with what a script does around ``optimizer.step()``.

    Attributes:
        optimizers: Maps the model to torch's optimizers.
        rates: Learning rate of each step, as factors on the rates of the groups.
        before: Called with (model, step) between ``backward`` and ``step``: clipping.
        after: Called with (model, optimizers, step) after ``step``: averages, schedulers.
        settings: Sets what changes with the step: maps a step to settings of every group.
        average: Makes an averaged model, which is evaluated.
        pieces: Pieces that a batch's gradient is accumulated over.
    """

    optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]]
    rates: Sequence[float] | None = None
    before: Callable[[nn.Module, int], object] = lambda model, step: None
    settings: Callable[[int], dict[str, Any]] = lambda step: {}
    average: Callable[[nn.Module], Any] | None = None
    pieces: int = 1
    states: list[Tensor] = field(default_factory=list)
    averages: list[Tensor] = field(default_factory=list)
    trained: nn.Module | None = None

    def run(self, batches: Sequence[Tensor], weights: Tensor, start: nn.Module) -> float:
        """Train on examples of ``routines``, and return the mean loss on held-out points."""
        model = copy.deepcopy(start).train()
        optimizers = self.optimizers(model)
        base = [[g["lr"] for g in each.param_groups] for each in optimizers]
        mean = self.average(model) if self.average else None
        columns = routines.examples()
        self.states, self.averages = [], []
        for step, batch in enumerate(batches):
            for each, rates in zip(optimizers, base, strict=True):
                each.zero_grad()
                for group, rate in zip(each.param_groups, rates, strict=True):
                    group["lr"] = rate * (1.0 if self.rates is None else self.rates[step])
                    group.update(self.settings(step))
            for part in batch.tensor_split(self.pieces):
                losses = routines.loss(model, (columns[0][part], columns[1][part]))
                ((weights[part] * losses).sum() / len(batch)).backward()
            self.before(model, step)
            with ExitStack() as stack:
                # torch's Muon iterates in place and in bfloat16; here in the format of the run.
                stack.enter_context(mock.patch.object(Tensor, "bfloat16", Tensor.clone))
                for each in optimizers:
                    each.step()
            self.states.append(parameters_to_vector(model.parameters()).detach().clone())
            if mean is not None:
                mean.update_parameters(model)
                flat = parameters_to_vector(mean.module.parameters())
                self.averages.append(flat.detach().clone())
        trained = (model if mean is None else mean.module).eval()
        self.trained = trained
        return float(routines.output(trained).detach())
