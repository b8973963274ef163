"""Code that computes in one number format, whatever the tensors and constants that it holds."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class SameNumbers(TorchFunctionMode):
    """Makes code compute in one number format, and draw the same random numbers in each.

    Examples and constants that the user's loss and output hold stay as they are and are converted
    on use. Torch draws other numbers in float64 than in float32 from the same seed; here both draw
    in float32, so that two twins drop the same units.

    Args:
        dtype: What float32 and float64 become; low precision is left alone.
    """

    _DRAWS = (torch.rand, torch.randn)
    _DRAWS_LIKE = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function`` on converted arguments."""
        del types
        args, named = convert(args, self.dtype), convert(kwargs or {}, self.dtype)
        if function is functional.dropout:
            return self._dropout(*args, **named)
        if function in self._DRAWS_LIKE:
            draw = self._DRAWS_LIKE[function]
            return draw(args[0].shape, device=args[0].device, dtype=torch.float32).to(self.dtype)
        if function in self._DRAWS:
            named["dtype"] = torch.float32
            return function(*args, **named).to(self.dtype)
        if function is torch.Tensor.float or function is torch.Tensor.double:
            return args[0].to(self.dtype)
        return function(*args, **named)

    def _dropout(
        self, values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        del inplace
        if not training or p == 0:
            return values
        drawn = torch.rand(values.shape, device=values.device, dtype=torch.float32)
        return values * (drawn >= p).to(values.dtype) / (1 - p)


def convert(value: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401 (nested batches of any kind)
    """Return ``value`` with its float32 and float64 tensors, and those two dtypes, as ``dtype``."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype in _FULL else value
    if isinstance(value, torch.dtype):
        return dtype if value in _FULL else value
    if type(value) in (tuple, list):
        return type(value)(convert(each, dtype) for each in value)
    if type(value) is dict:
        return {name: convert(each, dtype) for name, each in value.items()}
    return value


_FULL = (torch.float32, torch.float64)
