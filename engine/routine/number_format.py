"""A run in another number format: the same steps, examples and random numbers, in float64.

The examples, the loss, the output and the metaparameters are converted with the model. What the
user's code holds as constants is converted where it is used.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.routine.coupled_loss import CoupledLoss, coupled
from engine.routine.examples import makes_tuples
from engine.routine.module.binding import copied
from engine.routine.module.buffers.moving import inherit
from engine.routine.module.operations import without_checkpointing
from engine.routine.outputs import MeanLoss
from engine.routine.routine import Routine
from engine.torch_modes import FunctionMode
from engine.types import Batch, Output


def in_format(routine: Routine, dtype: torch.dtype) -> Routine:
    """Return a run in another number format."""
    examples: Any = (
        convert(routine.examples, dtype)
        if isinstance(routine.examples, tuple)
        else _Examples(routine.examples, dtype)
    )
    made = replace(
        routine,
        model=module_in_format(copied(routine.model), dtype),
        loss=_in_format(routine.loss, dtype),
        examples=examples,
        state=routine.state
        and {
            name: _in_format(each, dtype) if callable(each) else convert(each, dtype)
            for name, each in routine.state.items()
        },
        advance=routine.advance and _in_format(routine.advance, dtype),
        augment=routine.augment and _formatted(routine.augment, dtype, handed_generator=True),
        metaparameters={
            name: replace(kind, value=convert(kind.value, dtype))
            for name, kind in routine.metaparameters.items()
        },
    )
    return inherit(made, routine)


def module_in_format(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert a module in place, what is complex to complex numbers; returns it."""
    if not any(tensor.is_complex() for tensor in (*module.parameters(), *module.buffers())):
        return module.to(dtype)

    def converted(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(dtype.to_complex())
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return module._apply(converted)  # to() would leave out the imaginary parts


def output_in_format(output: Output, dtype: torch.dtype, most: int | None = None) -> Output:
    """Return an output that computes in another number format.

    Args:
        output: phi.
        dtype: The format.
        most: Examples that a mean loss is cut to; all by default.
    """
    if isinstance(output, MeanLoss):
        few: Any = output.examples
        if isinstance(few, tuple):
            few = tuple(convert(column[:most], dtype) for column in few)
        else:
            few = _Examples(few, dtype, most)
        return MeanLoss(_in_format(output.loss, dtype), few, output.chunk)
    whole: Any = output

    @wraps(whole)  # it may have an argument for the run's own state
    def call(model: nn.Module, **given: Any) -> Tensor:  # noqa: ANN401 (as the output)
        with SameNumbers(dtype), without_checkpointing():
            return whole(model, **given)

    return call


class SameNumbers(FunctionMode):
    """Makes code compute in one number format, and draw the same random numbers in each.

    Examples and constants that the user's loss and output hold stay as they are and are converted
    on use. Torch draws other numbers in float64 than in float32 from the same seed; here both draw
    in float32, so that two twins drop the same units.

    Args:
        dtype: What float32 and float64 become; low precision is left alone.
        handed_generator: Whether generators are those that an augmentation is handed: what they
            draw is noise of the step. Other code has generators of its own, for data that it makes.
    """

    _DRAWS = (torch.rand, torch.randn)
    _DRAWS_LIKE = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}
    _DRAWS_BY_VALUES = (torch.normal, torch.bernoulli, torch.Tensor.bernoulli)
    _DRAWS_INTO = (torch.Tensor.normal_, torch.Tensor.uniform_)
    # Others (exponential_, bernoulli_, multinomial, poisson) draw the same in both formats.

    def __init__(self, dtype: torch.dtype, *, handed_generator: bool = False) -> None:
        super().__init__()
        self.dtype, self.handed_generator = dtype, handed_generator

    def on_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function`` on converted arguments."""
        own = not self.handed_generator and kwargs.get("generator") is not None
        if function in self._DRAWS and own:
            # Data that the user's code makes, e.g. held-out points: the same in every format.
            return convert(function(*args, **kwargs), self.dtype)
        args, named = convert(args, self.dtype), convert(kwargs, self.dtype)
        if function is functional.dropout:
            return self._dropout(*args, **named)
        if function in self._DRAWS_LIKE:
            draw, wanted = self._DRAWS_LIKE[function], named.get("dtype") or args[0].dtype
            return convert(
                draw(args[0].shape, device=args[0].device, dtype=_low(wanted)), self.dtype
            )
        if function in self._DRAWS:
            named["dtype"] = _low(named.get("dtype") or self.dtype)
            return convert(function(*args, **named), self.dtype)
        if function in self._DRAWS_BY_VALUES:
            low = convert(args, torch.float32), convert(named, torch.float32)
            return convert(function(*low[0], **low[1]), self.dtype)
        if function in self._DRAWS_INTO and args[0].dtype in (*_FULL, *_COMPLEX):
            low = _low(args[0].dtype)
            drawn = torch.empty(args[0].shape, device=args[0].device, dtype=low)
            return args[0].copy_(function(drawn, *args[1:], **named))
        if function is torch.Tensor.float or function is torch.Tensor.double:
            return args[0].to(self.dtype)
        if function in _TO_COMPLEX:
            return args[0].to(self.dtype.to_complex())
        return function(*args, **named)

    def _dropout(
        self, values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        del inplace
        if not training or p == 0:
            return values
        # Torch's own draw for float32, so that a float32 run in float64 drops the run's own units.
        ones = torch.ones(values.shape, device=values.device, dtype=torch.float32)
        kept = functional.dropout(ones, p) > 0
        return values * kept.to(values.dtype) / (1 - p) if p < 1 else values * 0


def convert(value: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401 (nested batches of any kind)
    """Return ``value`` with its float32 and float64 tensors, and those two dtypes, as ``dtype``.

    Complex ones get its numbers as their parts.
    """
    if isinstance(value, Tensor):
        if value.dtype in _FULL:
            return value if value.dtype == dtype else value.to(dtype)  # code knows its tensors
        return value.to(dtype.to_complex()) if value.dtype in _COMPLEX else value
    if isinstance(value, torch.dtype):
        if value in _FULL:
            return dtype
        return dtype.to_complex() if value in _COMPLEX else value
    if type(value) in (tuple, list):
        return type(value)(convert(each, dtype) for each in value)
    if type(value) is dict:
        return {name: convert(each, dtype) for name, each in value.items()}
    return value


_FULL = (torch.float32, torch.float64)
_COMPLEX = (torch.complex64, torch.complex128)
_TO_COMPLEX = tuple(getattr(Tensor, name) for name in ("cfloat", "cdouble"))


def _low(dtype: torch.dtype) -> torch.dtype:
    """Return the format in which random numbers are drawn that are to be of another one."""
    return torch.complex64 if dtype in _COMPLEX else torch.float32


@dataclass(frozen=True)
class _Examples:
    """Examples of any kind, whose batches are converted."""

    examples: Any
    dtype: torch.dtype
    most: int | None = None
    """Examples that count; all by default."""

    def __len__(self) -> int:
        return len(self.examples) if self.most is None else min(self.most, len(self.examples))

    @property
    def are_tuples(self) -> bool:
        """Say whether each batch is a plain tuple."""
        return makes_tuples(self.examples)

    def __getitem__(self, indices: Tensor) -> Batch:
        return convert(self.examples[indices], self.dtype)


@dataclass(frozen=True)
class _CoupledInFormat:
    """A coupled loss in a number format; as a function it would be taken for an ordinary one."""

    loss: CoupledLoss
    dtype: torch.dtype

    def __call__(self, model: nn.Module, batch: Batch, **given: Any) -> Tensor:  # noqa: ANN401 (as the loss)
        return _formatted(self.loss, self.dtype)(model, batch, **given)

    def embed(self, model: nn.Module, batch: Batch) -> Tensor:
        return _formatted(self.loss.embed, self.dtype)(model, batch)

    def couple(self, *args: Any) -> Tensor:  # noqa: ANN401 (as the loss)
        return _formatted(self.loss.couple, self.dtype)(*args)

    def join(self, *args: Any) -> Tensor:  # noqa: ANN401 (as the loss)
        return _formatted(self.loss.join, self.dtype)(*args)


def _in_format(function: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    """Return a loss, an output or an augmentation that computes in a number format."""
    both = coupled(function)
    return _formatted(function, dtype) if both is None else _CoupledInFormat(both, dtype)


def _formatted(
    function: Callable[..., Any], dtype: torch.dtype, *, handed_generator: bool = False
) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (as the wrapped function)
        # What is checkpointed would be computed again outside of this block, in other numbers.
        with SameNumbers(dtype, handed_generator=handed_generator), without_checkpointing():
            return function(*args, **kwargs)

    return call
