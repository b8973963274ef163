"""Running statistics of batch normalization as a part of the state.

Torch updates them in place, outside autograd. Here a step reads them from the state and leaves
their next values as a differentiable function of the parameters: in training mode the layers do
not touch them, each layer's input is observed on its way in, and torch's own formula is written
out. In evaluation mode the layers read them, so the output's derivative flows back through them.

Integers (``num_batches_tracked``) are not kept: they follow from the step number.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.errors import ConfigurationError
from engine.layout import Layout

BUFFERS = "buffers"
"""Name of the running statistics in a state."""

Call = tuple[str, Tensor, Tensor]
"""A layer's name, and mean and unbiased variance of what it was given, shape (channels,)."""


@dataclass(frozen=True, eq=False)
class RunningStatistics:
    """The running statistics of a model's batch normalizations.

    Attributes:
        layers: The layers that keep them, by name.
    """

    layers: dict[str, _BatchNorm]

    @classmethod
    def of(cls, model: nn.Module) -> "RunningStatistics | None":
        """Find the layers that keep running statistics; None if there are none.

        Raises:
            ConfigurationError: If a layer keeps them in a way that is not batch normalization's.
        """
        layers: dict[str, _BatchNorm] = {}
        for name, module in model.named_modules():
            if not getattr(module, "track_running_stats", False):
                continue
            if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                raise ConfigurationError(
                    f"{name!r} ({type(module).__name__}) keeps running statistics by rules of its "
                    "own, so they cannot be made a part of the state. Use BatchNorm, GroupNorm or "
                    "LayerNorm, or track_running_stats=False."
                )
            layers[name] = module
        return cls(layers) if layers else None

    @cached_property
    def layout(self) -> Layout:
        """Where each statistic lies in the flat vector."""
        return Layout.of(self._tensors)

    @property
    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}.{kind}": getattr(layer, kind).detach()
            for name, layer in self.layers.items()
            for kind in ("running_mean", "running_var")
        }

    def initial(self) -> Tensor:
        """Return the model's own statistics, shape (statistics,)."""
        return self.layout.flatten(self._tensors)

    @contextmanager
    def observed(self) -> Iterator[list[Call]]:
        """Collect what each layer is given inside the block, in the order of the calls."""
        calls: list[Call] = []
        with ExitStack() as stack:
            for name, layer in self.layers.items():

                def note(layer: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                    if layer.training:
                        axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
                        variance, mean = torch.var_mean(inputs[0], dim=axes)
                        calls.append((name, mean, variance))

                stack.callback(layer.register_forward_pre_hook(note).remove)
            yield calls

    @contextmanager
    def written_out(self) -> Iterator[None]:
        """Keep torch's own handling of the statistics out of the calls inside the block.

        In training mode that is the update in place; in evaluation mode a kernel that has no
        derivative by the statistics, in whose place the formula is written out.
        """
        for layer in self.layers.values():
            layer.track_running_stats = False
            if not layer.training:
                layer.forward = partial(_normalized, layer)  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.track_running_stats = True
                layer.__dict__.pop("forward", None)

    def moved(self, before: Tensor, calls: Sequence[Call], step: int) -> Tensor:
        """Return the statistics after a step.

        running <- (1 - m) running + m batch, with m the layer's momentum, or 1 over the number of
        batches so far where it is None (a plain average).

        Args:
            before: The statistics that the step reads, shape (statistics,).
            calls: What the layers were given, see ``observed``.
            step: t.

        Raises:
            ConfigurationError: If a layer was given nothing.
        """
        running = self.layout.views(before)
        per_layer: dict[str, list[Call]] = {name: [] for name in self.layers}
        for call in calls:
            per_layer[call[0]].append(call)
        for name, layer in self.layers.items():
            found = per_layer[name]
            if not found:
                raise ConfigurationError(
                    f"The batch normalization {name!r} was given nothing in step {step}, so its "
                    "running statistics never move. Call the layer itself in the forward pass, or "
                    "remove it from the model."
                )
            for i, (_, mean, variance) in enumerate(found):
                share = self._share(layer, step * len(found) + i)
                for kind, batch in (("running_mean", mean), ("running_var", variance)):
                    key = f"{name}.{kind}"
                    running[key] = (1 - share) * running[key] + share * batch
        return self.layout.flatten(running)

    @staticmethod
    def _share(layer: _BatchNorm, num_calls: int) -> float:
        if layer.momentum is not None:
            return layer.momentum
        before = 0 if layer.num_batches_tracked is None else int(layer.num_batches_tracked)
        return 1 / (before + num_calls + 1)


def without_buffers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of a state that the optimizer moves."""
    return {name: row for name, row in state.items() if name != BUFFERS}


def _normalized(layer: _BatchNorm, inputs: Tensor) -> Tensor:
    """Return (x - mean) / sqrt(variance + eps), scaled and shifted as the layer says."""
    assert layer.running_mean is not None  # it keeps running statistics
    assert layer.running_var is not None
    shape = [1, -1, *[1] * (inputs.ndim - 2)]
    scale = torch.rsqrt(layer.running_var + layer.eps)
    normalized = (inputs - layer.running_mean.view(shape)) * scale.view(shape)
    if not layer.affine:
        return normalized
    return normalized * layer.weight.view(shape) + layer.bias.view(shape)
