"""Refuses steps that compute in fewer than 32 bits anywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from engine.errors import ConfigurationError
from engine.routine.module.modules import LOW_PRECISION
from engine.routine.routine import Routine
from engine.torch_modes import OperationMode
from engine.types import Metaparams
from engine.witness.draws import undrawn
from engine.witness.in_place import nothing_moves
from engine.witness.lines import user_line

LOW = (torch.bfloat16, torch.float16)
"""Formats of fewer than 32 bits."""


def refuse_low_precision(routine: Routine, z: Metaparams) -> Tensor:
    """Refuse a loss that computes in fewer than 32 bits, e.g. under autocast.

    It is the first call of the loss, so what only a first call changes is refused here too.

    Returns:
        The loss of step 0, as far as its batch goes in one piece, a scalar.

    Raises:
        ConfigurationError: Names the format, the first operation in it, and the user's line; or
            the generator that the call draws from, where no step seeds it.
        WitnessError: If the call changes a parameter, or a tensor that no state holds.

    Cost:
        One forward pass.
    """
    if routine.device.type == "meta":
        raise ConfigurationError(
            "The model is on the device meta, where tensors have no values. Build it on a real "
            "device, or move it by model.to_empty(device=...) and load its weights."
        )
    for name, tensor in z.items():
        if tensor.dtype in LOW:
            raise ConfigurationError(
                f"z[{name!r}] is {tensor.dtype}. {LOW_PRECISION}: use .float()."
            )
    term, state = routine.first_piece(next(routine.terms(0))), routine.initial_state(z)
    params = state["params"].detach().clone().requires_grad_()  # a loss may take derivatives
    unmoved = nothing_moves(routine.model, routine, params)
    reading, kept = routine.reading(state), routine.binding.keeping()
    with torch.enable_grad(), unmoved, reading, kept, full_precision("loss"):
        loss = undrawn(
            "loss, or what makes its batch,",
            lambda: routine.term_loss(params, term, z, 0),
            *(routine.loss, routine.model, routine.augment, routine.examples),
        )
    return loss.detach()


@contextmanager
def full_precision(what: str) -> Iterator[None]:
    """Refuse at the end of the block what computed in fewer than 32 bits inside of it.

    Raises:
        ConfigurationError: Names the format, the first operation in it, and the user's line.
    """
    watch = _Watch()
    try:
        with watch:
            yield
    finally:  # an error inside of the block may be the consequence, and comes second
        if watch.found:
            raise ConfigurationError(
                f"The {what} computes in {watch.found}. {LOW_PRECISION}: leave out autocast(), "
                f"half() and bfloat16() in the model and the {what}, and keep its weights in "
                "float32.",
                settings=("training.dtype",),
            )


class _Watch(OperationMode):
    """Notes the first operation whose result has fewer than 32 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.found = ""

    def on_operation(
        self, operation: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        result = operation(*args, **kwargs)
        if not self.found and isinstance(result, Tensor) and result.dtype in LOW:
            name = operation.overloadpacket.__name__.strip("_")
            line = user_line()
            self.found = f"{result.dtype} from {name!r}{f' (at {line})' if line else ''}"
        return result
