"""Operations of torch that a metagradient needs in another form, replaced while a model is called.

Each is replaced by the same function, written so that its second derivative exists and is right.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.utils.checkpoint as checkpointing
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

from engine.models.attention import attention, say_whole
from engine.routine.module.backward.own_derivative import OwnDerivatives
from engine.routine.module.calls_again import WATCHED
from engine.routine.module.gradient_hooks import backward_hooks, hooks_of_gradients
from engine.routine.module.stop_gradient import stop_gradient
from engine.routine.module.written_out import UNPOOLING, WRITTEN_OUT
from engine.torch_modes import FunctionMode


def corrections(model: nn.Module) -> list[Callable[[], AbstractContextManager[Any]]]:
    """Return the contexts in which a model has to be called and differentiated."""
    own = OwnDerivatives()  # it knows what it has asked, from one block to the next
    found: list[Callable[[], AbstractContextManager[Any]]] = [
        replaced_functions,
        hooks_of_gradients,
        lambda: own,
    ]
    hooks = backward_hooks(model)
    if hooks is not None:
        found.append(hooks)
    if any(map(_has_weight_norm, model.modules())):
        found.append(WrittenOutWeightNorm)
    return found


def _has_weight_norm(module: nn.Module) -> bool:
    hooks = module._forward_pre_hooks.values()
    return isinstance(module, _WeightNorm) or any(isinstance(hook, WeightNorm) for hook in hooks)


class WrittenOutWeightNorm(FunctionMode):
    """Weight normalization g v / |v| by its formula.

    The second derivative of torch's own operation ``torch._weight_norm`` fails gradgradcheck
    (torch 2.13): the part that goes through the norm is lost.
    """

    def on_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function``, or the formula in the place of weight normalization."""
        if function is torch._weight_norm:  # pyright: ignore[reportPrivateImportUsage] (what the layers call)
            return _weight_norm(*args, **kwargs)
        return function(*args, **kwargs)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    if dim == -1:
        return v * (g / v.norm())
    axes = [axis for axis in range(v.ndim) if axis != dim]
    return v * (g / (torch.linalg.vector_norm(v, dim=axes, keepdim=True) if axes else v.abs()))


class _BySavedTensors:
    """Takes the place of torch's reentrant checkpoint, which ``autograd.grad`` cannot use."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:  # noqa: ANN401 (as the function)
        """Checkpoint a function by saved tensors, which can be differentiated twice."""
        return checkpointing.checkpoint(
            function, *args, use_reentrant=False, preserve_rng_state=preserve
        )


def _recomputed(
    function: Callable[..., Any],
    preserve: bool,
    contexts: Callable[[], tuple[AbstractContextManager[Any], ...]],
    *args: Any,  # noqa: ANN401 (as torch's function)
    **kwargs: Any,  # noqa: ANN401 (likewise)
) -> Iterator[None]:
    """Checkpoint by saved tensors, and recompute what a selective checkpoint would have kept.

    It keeps that for one backward pass, and a metagradient takes two.
    """
    if _kept_whole:
        return _as_it_is()
    made = contexts()
    if isinstance(made[0], checkpointing._CachingTorchDispatchMode):
        made = checkpointing.noop_context_fn()
    return _torch_checkpoint(function, preserve, lambda: made, *args, **kwargs)


def _grouped_mm(
    a: Tensor,
    b: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Multiply groups of rows by matrices, in float64 too, for which torch has no kernel.

    Mixtures of experts need it: the checks of a run compute in float64.
    """
    if a.dtype != torch.float64:
        return _torch_grouped_mm(a, b, offs=offs, bias=bias, out_dtype=out_dtype)
    if offs is None:
        product = a @ b
    else:
        stops = offs.tolist()
        groups = list(zip([0, *stops[:-1]], stops, strict=True))
        if a.ndim == b.ndim == 2:
            product = torch.stack([a[:, start:stop] @ b[start:stop] for start, stop in groups])
        elif a.ndim == 2:
            rows = [a[start:stop] @ b[i] for i, (start, stop) in enumerate(groups)]
            rest = a.new_zeros(len(a) - stops[-1], b.shape[-1])
            product = torch.cat([*rows, rest])
        else:
            columns = [a[i] @ b[:, start:stop] for i, (start, stop) in enumerate(groups)]
            product = torch.cat(columns, dim=1)
    return product if bias is None else product + bias


def _embedding(
    weight: Tensor,
    input: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Look rows up, and hold that of padding constant in a step.

    Torch gives it no gradient, in no backward pass, whatever else moves it: a head of the same
    weights, or weight decay. What it does to the gradients of others is a part of a metagradient.
    """
    if padding_idx < 0 or scale_grad_by_freq:
        return _torch_embedding(weight, input, padding_idx, scale_grad_by_freq, sparse)
    rows = _torch_embedding(weight, input, -1, scale_grad_by_freq, sparse)
    return torch.where((input == padding_idx).unsqueeze(-1), stop_gradient(rows), rows)


_CHECKPOINT = "_checkpoint_without_reentrant_generator"
"""What ``torch.utils.checkpoint`` calls between the two halves of a checkpoint."""

_torch_checkpoint = getattr(checkpointing, _CHECKPOINT)
_torch_embedding = torch.embedding
_torch_grouped_mm = torch._grouped_mm  # pyright: ignore[reportPrivateImportUsage] (what models call)

_GROUPED: list[tuple[Any, str, Any]] = [
    (functional, "grouped_mm", _grouped_mm),
    (torch, "_grouped_mm", _grouped_mm),
]
"""Holder, name and what takes the place of the function, which models look up when they call it."""


def _without_alarm(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operation of torch's that does not refuse where bits have to repeat."""

    def call_without_alarm(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (as the operation)
        before = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode(0)
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_deterministic_debug_mode(before)

    return call_without_alarm


_torch_heads = functional.multi_head_attention_forward


def _heads(query: Tensor, key: Tensor, *args: Any, need_weights: bool = True, **kwargs: Any) -> Any:  # noqa: ANN401 (as torch's function)
    """Take the place of torch's own function, and note that weights that are asked for are kept."""
    if need_weights:
        reason = "nn.MultiheadAttention is asked for its weights (need_weights=False asks for none)"
        say_whole(reason, query.shape[0], key.shape[0])
    return _torch_heads(query, key, *args, need_weights=need_weights, **kwargs)


_UNPOOLED = [
    (UNPOOLING, name, _without_alarm(getattr(UNPOOLING, name)))
    for name in ("max_unpool2d", "max_unpool3d")
]
"""Torch's own, for the witness; a run itself takes ``engine.routine.module.written_out``."""

_ALL = [
    *_GROUPED,
    *WRITTEN_OUT,
    (checkpointing, "CheckpointFunction", _BySavedTensors),
    (checkpointing, _CHECKPOINT, _recomputed),
    (torch, "embedding", _embedding),
    (functional, "scaled_dot_product_attention", attention),
    (functional, "multi_head_attention_forward", _heads),
    WATCHED,
]


_Place = tuple[Any, str, Any]
"""A module, a name in it, and what takes the place of the function there."""


def _in_modules(replaced: Sequence[_Place]) -> list[tuple[dict[str, Any], str, Any]]:
    """Return where functions lie: what a module holds is reached in half the time of attributes."""
    return [(vars(module), name, function) for module, name, function in replaced]


_IN_MODULES = _in_modules(_ALL)


class replaced_functions(AbstractContextManager[None]):
    """Put other functions into torch's modules inside the block.

    Args:
        replaced: Which; by default all of what a metagradient needs in another form.
    """

    def __init__(self, replaced: Sequence[_Place] | None = None) -> None:
        self._replaced = _IN_MODULES if replaced is None else _in_modules(replaced)
        self._before: list[Any] = []

    def __enter__(self) -> None:
        self._before = [held[name] for held, name, _ in self._replaced]
        for held, name, function in self._replaced:
            held[name] = function

    def __exit__(self, *_: object) -> None:
        for (held, name, _), function in zip(self._replaced, self._before, strict=True):
            held[name] = function


def torchs_own() -> AbstractContextManager[None]:
    """Let a module be called as torch has it inside the block, wherever it would be refused.

    Groups of rows are multiplied in float64, and torch's unpooling may be called where bits have to
    repeat. Nothing else is changed.
    """
    return replaced_functions([*_GROUPED, *_UNPOOLED])


@contextmanager
def without_checkpointing() -> Iterator[None]:
    """Run what is checkpointed inside the block as it is, and keep its activations.

    For graphs of several steps: what is recomputed reads the parameters that are in the module
    when the backward pass runs, which are those of one step.
    """
    # A call inside of the block puts ``_recomputed`` in the place of the function once more.
    _kept_whole.append(True)
    try:
        with replaced_functions([(checkpointing, _CHECKPOINT, _as_it_is)]):
            yield
    finally:
        _kept_whole.pop()


_kept_whole: list[bool] = []
"""One for each block of ``without_checkpointing``; only one thread at a time is in any."""


def _as_it_is(*_: Any, **__: Any) -> Iterator[None]:  # noqa: ANN401 (as torch's function)
    yield
