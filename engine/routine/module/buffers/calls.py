"""Record of what the layers of a module did with their buffers in a step."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.errors import WitnessError


@dataclass(frozen=True)
class LayerCall:
    """What a layer normalized by its batch.

    Attributes:
        name: Name of the layer.
        mean: Shape (channels,).
        variance: Unbiased, shape (channels,).
        momentum: Share of the batch in the statistics after it.
    """

    name: str
    mean: Tensor
    variance: Tensor
    momentum: float


def follows_now(name: str) -> str:
    """Return the message about a buffer that counted at first and follows the parameters now."""
    return (
        f"The buffer {name!r} went the same way for all parameters and examples in the first "
        "steps, and follows them now, so its derivative would be lost. Declare it as a state of "
        "the run, state= with advance=."
    )


def refuse_rounding(function: object, args: Sequence[Any]) -> None:
    """Refuse a function of torch's that rounds to a scale which the module moves.

    Args:
        function: Any of torch's.
        args: Arguments of the call.

    Raises:
        WitnessError: If it rounds.
    """
    name = getattr(function, "__name__", "")
    if "fake_quant" not in name or (name.startswith("fused") and not bool(args[2])):
        return
    raise WitnessError(
        "The module rounds to a scale that moves (fake quantization), and torch lets gradients "
        "through as if it did not. A run through rounding stands still but for jumps, so its "
        "derivative says nothing. Take the module before prepare_qat; or call it once on a batch, "
        "so that its buffers have their shapes, and switch the rounding off before it is handed "
        "in: model.apply(torch.ao.quantization.disable_fake_quant), and disable_observer likewise."
    )


class Calls(list[LayerCall]):
    """What the layers of a model did with their buffers inside of a block.

    Attributes:
        left: Where the calls led the buffers that the module moves by itself, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}

    def note(self, ends: Mapping[str, Tensor], quantities: Collection[str]) -> None:
        """Note where a call has led the buffers that the module moves by itself.

        Args:
            ends: Ends by name.
            quantities: Those that have a derivative; a backward pass may count.
        """
        self.left.update(ends)
        self._versions.update({n: e._version for n, e in ends.items() if n in quantities})

    @contextmanager
    def forgotten(self) -> Iterator[None]:
        """Let calls inside the block leave nothing here, such as those made with other numbers."""
        number, left, versions = len(self), self.left, self._versions
        self.left, self._versions = dict(left), dict(versions)
        try:
            yield
        finally:
            del self[number:]
            self.left, self._versions = left, versions

    def refuse_written(self, values: Mapping[str, Tensor] | None = None) -> None:
        """Refuse a backward pass that has written into what a call left.

        Args:
            values: Copies of what the call left, for those who write where no version counts.

        Raises:
            WitnessError: Names a buffer.
        """
        for name, version in self._versions.items():
            end = self.left[name]
            stays = values is None or _same(end, values[name])
            if end._version == version and stays:
                continue
            raise WitnessError(
                f"The backward pass writes into the buffer {name!r} (a hook on a gradient, or a "
                "call that is made again for a checkpoint), and what it writes there has no "
                "derivative. Let the forward pass alone move it, outside of what is made again."
            )


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
