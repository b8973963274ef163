"""Refuses changes of what no state holds: constant buffers, frozen parameters, views of buffers.

A run finds out once, before it begins, what its forward pass changes. A tensor that changes for the
first time later, or that shares memory with something in the state, would be missed without an
error.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import WitnessError
from engine.numerics.fingerprint import fingerprint
from engine.routine.layout import Layout
from engine.routine.module.binding import Binding


class Unheld:
    """Buffers and frozen parameters that the first calls of a run have left alone.

    Args:
        model: The run's own copy, after its first call.
        binding: Holds its tensors.
        held: Names of what a state holds.

    Cost:
        A comparison of two numbers and two objects for each such tensor at each call. A pass over
        what the first call has written to and left as it was, as a parametrization for one call
        does with what it is about.
    """

    def __init__(self, model: nn.Module, binding: Binding, held: Collection[str]) -> None:
        frozen = ((name, p) for name, p in model.named_parameters() if not p.requires_grad)
        named = [(n, t) for n, t in (*model.named_buffers(), *frozen) if n not in held]
        self._binding, self._model = binding, model
        self._still = {name: (tensor, _version(tensor)) for name, tensor in named}
        self._written = {
            name: fingerprint(tensor)
            for name, (tensor, version) in self._still.items()
            if version and tensor.layout is torch.strided
        }

    def refuse_moved(self, counters: Collection[str]) -> None:
        """Refuse a call that has moved one of them.

        Args:
            counters: Names of those that may move, since nobody reads them.

        Raises:
            WitnessError: Names it.
        """
        for name, (tensor, version) in self._still.items():
            if name in counters:
                continue
            if self._binding.knows(name):
                stays = self._binding.is_put(name) or self._binding.is_bound(name, tensor)
            else:  # a table that the first call has made
                owner, _, key = name.rpartition(".")
                stays = self._model.get_submodule(owner)._buffers.get(key) is tensor
            if stays and (_version(tensor) == version or self._is_as_it_was(name, tensor)):
                continue
            if not self._binding.knows(name):
                raise WitnessError(
                    f"The forward pass makes the buffer {name!r} in one call and writes another "
                    "value into it in a later one, so no state holds it. Let it have its shape "
                    "when the module is handed in: register_buffer(name, torch.zeros(...)) in "
                    "__init__, or call the model once on a batch before. What a step moves there "
                    "is then saved, replayed and differentiated."
                )
            raise WitnessError(
                f"The forward pass writes into {name!r}, which it left alone in the first steps of "
                "training, so no state holds it. Let it write there at every step of training, "
                "e.g. by torch.where(condition, new, old): it is then saved, replayed and "
                "differentiated. What evaluation needs it can compute at every call."
            )

    def _is_as_it_was(self, name: str, tensor: Tensor) -> bool:
        """Say whether a tensor that every call writes to has the values that it began with."""
        if name not in self._written or fingerprint(tensor) != self._written[name]:
            return False
        self._still[name] = tensor, _version(tensor)
        return True


def refuse_written(layout: Layout, params: Tensor, views: Mapping[str, Tensor]) -> None:
    """Refuse a call that has written into a complex parameter, of which it was given a copy.

    What is written into others is in the flat vector, where the witness looks for it.

    Args:
        layout: Layout of the parameters.
        params: The flat vector, shape (params,).
        views: What the call was given, by name.

    Raises:
        WitnessError: Names the parameter.
    """
    if not layout.complexes:
        return
    before = layout.views(params.detach())
    moved = [n for n in sorted(layout.complexes) if not torch.equal(views[n], before[n])]
    if moved:
        raise WitnessError(
            f"The forward pass changes the parameter {moved[0]!r} in place, which no step of the "
            "optimizer knows. Compute what a layer uses from the parameter at every call, or write "
            "what should stay into the optimizer's update."
        )


def refuse_exchanged(
    binding: Binding, views: Mapping[str, Tensor], places: list[int] | None
) -> None:
    """Refuse a call that has put something else in the place of a parameter.

    Args:
        binding: Holds the module's tensors.
        views: What the call was given, by name.
        places: Where that lay in memory; None where nobody looks.

    Raises:
        WitnessError: Names the parameter.
    """
    now = None if places is None else addresses(views)
    if now == places and all(map(binding.is_bound, views, views.values())):
        return
    for at, (name, tensor) in enumerate(views.items()):
        if not binding.is_bound(name, tensor):
            how = "puts another tensor in the place"
        elif now is not None and places is not None and now[at] != places[at]:
            how = "sets the .data"
        else:
            continue
        raise WitnessError(
            f"The forward pass {how} of the parameter {name!r}, which no step of the optimizer "
            "knows, so the metagradient would be that of another run. Compute what a layer "
            "uses from the parameter at every call, e.g. w = self.weight.clamp(-1, 1), or "
            "write what should stay into the optimizer's update."
        )


def addresses(tensors: Mapping[str, Tensor]) -> list[int] | None:
    """Return where tensors lie in memory; None for those of a transform, which lie nowhere."""
    try:
        return [tensor.data_ptr() for tensor in tensors.values()]
    except RuntimeError:
        return None


def refuse_views(model: nn.Module, held: Iterable[str]) -> None:
    """Refuse tensors that lie in the memory of a buffer which moves.

    Each call binds a copy of the buffer, which the other tensor would not follow.

    Args:
        model: The run's own copy.
        held: Names of the buffers.

    Raises:
        WitnessError: Names both.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    moving = {name: tensors[name] for name in held}
    if not moving:
        return
    for name, tensor in (*tensors.items(), *_attributes(model)):
        for moved, buffer in moving.items():
            if name != moved and _overlap(tensor, buffer):
                raise WitnessError(
                    f"{name!r} lies in the memory of {moved!r}, which the forward pass moves and "
                    "the state holds as a tensor of its own, so the other one would stay as it is. "
                    f"Read it from {moved!r} at every call, or make it a copy: tensor.clone()."
                )


def _attributes(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in model.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers", "_modules"):
                continue
            for tensor in _tensors(value):
                yield f"{prefix}.{key}" if prefix else key, tensor


def _tensors(value: Any) -> Iterator[Tensor]:  # noqa: ANN401 (any attribute)
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple) and len(value) <= _MOST:
        parts = value.values() if isinstance(value, dict) else value
        yield from (part for part in parts if isinstance(part, Tensor))


_MOST = 1000
"""Parts of a list or a dictionary that are looked at."""


def _overlap(one: Tensor, other: Tensor) -> bool:
    first, second = _range(one), _range(other)
    return bool(first and second and first[0] < second[1] and second[0] < first[1])


def _range(tensor: Tensor) -> tuple[int, int] | None:
    """Return the addresses between which a tensor lies; None if it has none."""
    if tensor.layout is not torch.strided or tensor.device.type == "meta" or not tensor.numel():
        return None
    try:
        start = tensor.data_ptr()
    except RuntimeError:  # of a transform
        return None
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in strides)
    return start, start + (last + 1) * tensor.element_size()


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
