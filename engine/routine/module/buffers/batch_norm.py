"""Running statistics of batch normalization as a part of the state.

Torch updates them in place, outside autograd. Here a step reads them from the state and leaves
their next values as a differentiable function of the parameters. The layers run their own code,
subclasses included: what they are given in the place of their statistics answers the call of
``batch_norm`` itself. In training mode it notes mean and variance of what is normalized; in
evaluation mode, and in frozen layers, it writes out the formula, whose derivative by the statistics
torch's own kernel lacks.

Integers (``num_batches_tracked``) are not kept: they follow from the step number.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.errors import UndifferentiableError, WitnessError
from engine.routine.layout import Layout
from engine.routine.module.buffers.calls import Calls, LayerCall, follows_now
from engine.routine.module.buffers.moving import Moving, moving
from engine.routine.module.buffers.own_rules import with_own_rules
from engine.routine.module.buffers.statistic import Statistic
from engine.routine.module.buffers.unheld import refuse_views
from engine.routine.own_state import OWN

if TYPE_CHECKING:
    from engine.routine.module.binding import Binding
    from engine.routine.module.held_module import HeldModule

BUFFERS = "buffers"
"""Name of the running statistics in a state."""


_KINDS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, eq=False)
class RunningStatistics:
    """The running statistics of a model's batch normalizations.

    Attributes:
        layers: The layers that keep them, by name.
        carried: Other buffers that the module moves by rules of its own, which are kept with them.
        dtype: Number format of the parameters.
    """

    layers: dict[str, _BatchNorm]
    carried: Moving
    dtype: torch.dtype
    _noted: "list[Calls]" = field(default_factory=list, init=False, repr=False)

    @classmethod
    def layers_of(cls, model: nn.Module) -> dict[str, _BatchNorm]:
        """Find the batch normalizations that keep running statistics, by name."""
        kinds = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
        named: dict[str, Any] = dict(model.named_modules())
        return {
            name: module
            for name, module in named.items()
            if isinstance(module, kinds) and module.track_running_stats
        }

    @classmethod
    def of(cls, routine: "HeldModule") -> "RunningStatistics | None":
        """Find what a run keeps in the buffers of its module; None if that is nothing.

        Raises:
            WitnessError: If a state cannot hold it.
        """
        layers = cls.layers_of(routine.model)
        by_own_rules = with_own_rules(routine, layers)  # whose buffers are like any others
        layers = {name: layer for name, layer in layers.items() if name not in by_own_rules}
        own = frozenset(_joined(n, kind) for n in layers for kind in _KINDS)
        carried = moving(routine, own)
        if not layers and not carried.all:
            return None
        found = cls(layers, carried, routine.layout.dtype)
        refuse_views(routine.model, found.layout.shapes)
        return found

    @property
    def real(self) -> int:
        """How many numbers of the vector have a derivative; they come first."""
        return self.layout.size - sum(t.numel() for t in self.carried.clocks.values())

    @cached_property
    def layout(self) -> Layout:
        """Where each statistic lies in the flat vector."""
        return Layout.of(self._tensors)

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return {
            _joined(name, kind): getattr(layer, kind).detach().clone()
            for name, layer in self.layers.items()
            for kind in ("running_mean", "running_var")
        } | {name: value.to(self.dtype) for name, value in self.carried.all.items()}

    @cached_property
    def _batches_before(self) -> dict[str, int]:
        return {
            name: 0 if layer.num_batches_tracked is None else int(layer.num_batches_tracked)
            for name, layer in self.layers.items()
        }

    def initial(self) -> Tensor:
        """Return the model's own statistics, shape (statistics,)."""
        return self.layout.flatten(self._tensors)

    @contextmanager
    def observed(self) -> Iterator["Calls"]:
        """Collect what each layer normalizes inside the block, in the order of the calls."""
        calls = Calls()
        self._noted.append(calls)
        try:
            yield calls
        finally:
            self._noted.pop()

    @property
    def calls_now(self) -> "Calls":
        """What layers have done in the block of ``observed`` so far; outside, a new record."""
        return self._noted[-1] if self._noted else Calls()

    def bound(self, values: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """Return the buffers of the layers within a call, by name.

        Args:
            values: The statistics of a state, by name; the model's own where there are none.
        """
        held: dict[str, Tensor | None] = {}
        calls = self._noted[-1] if self._noted else None
        for name, layer in self.layers.items():
            for kind in ("running_mean", "running_var"):
                key = _joined(name, kind)
                value = values[key] if key in values else self._tensors[key]
                averages = layer.momentum is None
                held[key] = Statistic.of(value, name, calls, kind=kind, averages=averages)
            if layer.num_batches_tracked is not None:
                # Nobody has to count, but a layer that is made for several devices insists.
                counted = layer.num_batches_tracked if type(layer) is nn.SyncBatchNorm else None
                held[_joined(name, "num_batches_tracked")] = (
                    None if counted is None else counted.clone()
                )
        return held | self.carried_in(values)

    def carried_in(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the buffers that the module moves, of its own, so that it may write into them."""
        found: dict[str, Tensor] = {}
        for name, own in self.carried.all.items():
            value = values[name] if name in values else self._tensors[name]
            if name in self.carried.clocks:
                value = value.detach()
                value = value if own.is_floating_point() else value.round()
            # A check in float64 reads all of a state in float64.
            is_own = own.is_floating_point() and own.dtype == self.dtype
            found[name] = value.clone() if is_own else value.to(own.dtype, copy=True)
        return found

    def note_ends(self, binding: "Binding", carried: Mapping[str, Tensor | None]) -> None:
        """Note what a call has left bound in the place of the buffers that the module moves.

        Raises:
            WitnessError: If one is taken away, is no longer what it was, or is a clock that follows
                the parameters.
        """
        now = binding.bound()
        ends = {name: now[name] for name in carried}
        lost = [name for name, end in ends.items() if not isinstance(end, Tensor)]
        if lost:
            raise WitnessError(
                f"The forward pass takes the buffer {lost[0]!r} away. Let it keep a tensor there."
            )
        binding.refuse_parted(carried)
        self.note({name: end for name, end in ends.items() if end is not None})

    def note(self, ends: Mapping[str, Tensor]) -> None:
        """Note where a call has led the buffers that the module moves.

        Raises:
            WitnessError: If one is no longer what it was, or a clock follows the parameters.
        """
        for name, end in ends.items():
            own = self.carried.all[name]
            if end.shape != own.shape:
                raise WitnessError(
                    f"The forward pass puts a tensor of shape {tuple(end.shape)} in the place of "
                    f"the buffer {name!r}, whose shape is {tuple(own.shape)}, and a state has one "
                    "place for each number. Let it keep its shape, or compute it at every call."
                )
            if name in self.carried.clocks and own.is_floating_point() and end.requires_grad:
                raise WitnessError(follows_now(name))
        if self._noted:
            self._noted[-1].note(ends, self.carried.quantities)

    def last_ends(self) -> dict[str, Tensor]:
        """Return where the last call inside of ``observed`` has led the buffers, by name."""
        return dict(self._noted[-1].left) if self._noted else {}

    def moved(self, before: Tensor, calls: "Calls", number: int) -> Tensor:
        """Return the statistics after a batch, or a shard of one.

        running <- (1 - m) running + m batch, with m the layer's momentum, or 1 over the number of
        batches so far where it is None (a plain average). A layer that normalized nothing by its
        batch keeps them: it is frozen, or belongs to an expert that had nothing to do.

        Args:
            before: The statistics that it reads, shape (statistics,).
            calls: What the layers normalized, see ``observed``.
            number: How many batches, or shards, of the run went before.
        """
        running = self.layout.views(before)
        per_layer: dict[str, list[LayerCall]] = {name: [] for name in self.layers}
        for call in calls:
            per_layer[call.name].append(call)
        for name, layer in self.layers.items():
            found = per_layer[name]
            for i, call in enumerate(found):
                share = call.momentum
                if layer.momentum is None:
                    share = 1 / (self._batches_before[name] + number * len(found) + i + 1)
                pairs = (("running_mean", call.mean), ("running_var", call.variance))
                for kind, batch in pairs:
                    key = _joined(name, kind)
                    running[key] = (1 - share) * running[key] + share * batch
        calls.refuse_written()
        for name, end in calls.left.items():
            held = end.to(before.dtype)
            if name in self.carried.clocks:
                held = held.detach()
                if not torch.equal(held.to(end.dtype), end):
                    raise WitnessError(
                        f"The buffer {name!r} is {end.flatten()[0].item()} after batch {number}, "
                        f"which numbers of {before.dtype} do not hold. Let it begin at a smaller "
                        "number, or convert the model with model.double()."
                    )
            running[name] = held
        return self.layout.flatten(running)


def _joined(layer: str, kind: str) -> str:
    return f"{layer}.{kind}" if layer else kind


def without_buffers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of a state that the optimizer moves."""
    return {name: row for name, row in state.items() if name not in (BUFFERS, OWN)}


def refuse_replaced(binding: "Binding", held: Mapping[str, Tensor | None]) -> None:
    """Refuse a call that has put another tensor in the place of a running statistic.

    Raises:
        UndifferentiableError: Names it.
    """
    for name, statistic in held.items():
        if isinstance(statistic, Statistic) and not binding.is_bound(name, statistic):
            raise UndifferentiableError(
                f"The forward pass puts another tensor in the place of {name!r}, a running "
                "statistic, so the engine cannot tell how it moves. Let the layer call "
                "torch.nn.functional.batch_norm with its statistics, or use group or layer "
                "normalization."
            )
