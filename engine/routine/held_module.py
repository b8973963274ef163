"""A user's module as a run uses it: with the tensors of a state, in the modes of the run."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import UndifferentiableError
from engine.numerics.determinism import PROCESS, seeded
from engine.routine.batch_norm import BUFFERS, Call, RunningStatistics
from engine.routine.binding import Binding, Hook, Modes, gradient_hooks, hooked
from engine.routine.layout import Layout
from engine.routine.optimizer import Optimizer
from engine.types import State

Params = Tensor | dict[str, Tensor]
"""Parameters as one flat vector, shape (params,), or by name."""


class HeldModule:
    """The part of a routine that knows its module.

    Attributes:
        model: The run's own copy.
        optimizer: Says which vector of the state is evaluated.
        seed: Seeds the random draws of an evaluation.
    """

    model: nn.Module
    optimizer: Optimizer
    seed: int
    _bound: dict[str, Tensor]
    _given: "weakref.ref[nn.Module] | None"

    @property
    def given(self) -> nn.Module:
        """The module that the user handed in, or the run's copy if nobody else holds it."""
        own = None if self._given is None else self._given()
        return self.model if own is None else own

    @cached_property
    def binding(self) -> Binding:
        """Holds the tensors of a state in the module; see ``engine.routine.binding``."""
        return Binding(self.model, self.modes)

    @cached_property
    def modes(self) -> Modes:
        """Which of the modules train."""
        return Modes(self.model)

    @cached_property
    def hooks(self) -> dict[str, tuple[Hook, ...]]:
        """Hooks of the parameters that have any, by name."""
        found = {
            name: gradient_hooks(name, parameter)
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        return {name: hooks for name, hooks in found.items() if hooks}

    @cached_property
    def trainable(self) -> dict[str, Tensor]:
        """Parameters that the optimizer moves, by name."""
        return {
            name: tensor.detach()
            for name, tensor in self.model.named_parameters()
            if tensor.requires_grad
        }

    @cached_property
    def layout(self) -> Layout:
        """Where each parameter lies in the flat vector."""
        return Layout.of(self.trainable)

    @cached_property
    def statistics(self) -> RunningStatistics | None:
        """The running statistics of the model's batch normalizations, if it has any."""
        return RunningStatistics.of(self.model)

    @cached_property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(iter(self.trainable.values())).device

    def hooked(self, gradient: Tensor) -> Tensor:
        """Return a gradient as the hooks of the parameters leave it, shape (params,)."""
        if not self.hooks:
            return gradient
        parts = {
            name: hooked(self.hooks.get(name, ()), part)
            for name, part in self.layout.views(gradient).items()
        }
        return self.layout.flatten(parts)

    @contextmanager
    def reading(self, state: Mapping[str, Tensor]) -> Iterator[list[Call]]:
        """Let calls of the model inside the block read the running statistics of ``state``.

        Yields:
            What the batch normalizations are given inside the block, for ``moved_buffers``.
        """
        if self.statistics is None:
            yield []
            return
        with PROCESS:
            before = self._bound.copy()
            self._bound.update(self.statistics.layout.views(state[BUFFERS]))
            try:
                with self.statistics.observed() as calls:
                    yield calls
            finally:
                self._bound.clear()
                self._bound.update(before)

    def moved_buffers(self, state: Mapping[str, Tensor], calls: Sequence[Call], step: int) -> State:
        """Return the running statistics after ``step`` as a part of the state; empty if none."""
        if self.statistics is None:
            return {}
        return {BUFFERS: self.statistics.moved(state[BUFFERS], calls, step)}

    def evaluate(self, function: Callable[[nn.Module], Any], state: Mapping[str, Tensor]) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function(model)`` in evaluation mode, at a state of the run.

        Random draws of the function are seeded, so that it returns the same at every call.
        """
        with self.reading(state), seeded(self.seed, "evaluation", device=self.device):
            return self.call(function, state[self.optimizer.evaluated], training=False)

    def call(self, function: Callable[..., Any], params: Params, *args: Any, training: bool) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function(model, *args)`` with ``params``, flat or by name, in the model.

        Whoever differentiates what it returns does so inside of ``self.binding.kept()``, around
        both: code of the model that runs in the backward pass reads the parameters then.

        Raises:
            ValueError: If the model has running statistics, is to be evaluated, and nobody said
                of which state; see ``evaluate``.
            UndifferentiableError: If a layer replaces its running statistics in training.
        """
        views = self.layout.views(params) if isinstance(params, Tensor) else params
        if self.statistics is not None and not training and not self._bound:
            raise ValueError("Evaluate a model with running statistics by Routine.evaluate.")
        with self.binding.kept():
            held = {} if self.statistics is None else self.statistics.bound(self._bound)
            self.binding.put({**views, **held})
            self.modes.train()
            if not training:
                self.model.train(False)  # its own code, with the tensors of the state in place
            result = function(self.model, *args)
            if training and held:
                self._refuse_replaced(held)
            return result

    def _refuse_replaced(self, held: Mapping[str, Tensor | None]) -> None:
        for name, statistic in held.items():
            if statistic is not None and not self.binding.is_bound(name, statistic):
                raise UndifferentiableError(
                    f"The forward pass puts another tensor in the place of {name!r}, a running "
                    "statistic, so the engine cannot tell how it moves. Let the layer call "
                    "torch.nn.functional.batch_norm with its statistics, or use group or layer "
                    "normalization."
                )
