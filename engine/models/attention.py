"""Attention by torch's fused kernels, with an exact second derivative in linear memory.

A run puts it in the place of ``torch.nn.functional.scaled_dot_product_attention`` while it calls a
model (``engine.routine.module.operations``), so torch's own layers and the models of
``transformers`` have it without being changed, in compiled steps too.
``engine.models.attention_blocks`` has the formula.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.models.attention_operations import forward_pass, pull, second_pull

LEAST_PAIRS = 1 << 16
"""Pairs of tokens (256 x 256) from which on the fused kernels pay; fewer take torch's own."""

_HEADS = 3
"""Axes of a tensor that has heads, at least: heads, tokens, numbers."""

_Context = Any  # what torch hands to the methods of a Function, which it does not type


def attention(  # noqa: PLR0913 (the signature of torch's function, in whose place it is called)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Take the place of ``torch.nn.functional.scaled_dot_product_attention``.

    Whatever ``why_not`` names goes to torch's own function, which keeps the whole matrix.

    Args:
        query: Shape (..., heads, rows, size), or (rows, size).
        key: Shape (..., heads, columns, size); axes of one stand for all of the query's.
        value: Likewise, of whatever size.
        attn_mask: True where a row may read a column, or numbers that are added to the scores.
        dropout_p: Share of the matrix that is dropped, by the draws of torch's math kernel.
        is_causal: Whether a row reads the columns up to its own only.
        scale: Scale of the scores; 1 / sqrt(size) by default.
        enable_gqa: Whether several heads of the query share one of key and value.

    Cost:
        Forward and first backward pass as the fused kernels; the second derivative makes the matrix
        twice, a block at a time. With dropout all passes are in blocks, and one byte is held for
        each number of the matrix. Measured in ``tests/bench/bench_attention.py``.
    """
    asked = (query, key, value, attn_mask, dropout_p, is_causal)
    reason = why_not(*asked, scale=scale, enable_gqa=enable_gqa)
    if reason:
        say_whole(reason, query.shape[-2], key.shape[-2])
        options = {"scale": scale, "enable_gqa": enable_gqa}
        with sdpa_kernel(SDPBackend.MATH):  # the only one with a second derivative
            return _torch_attention(query, key, value, attn_mask, dropout_p, is_causal, **options)
    if enable_gqa and key.shape[-3] != query.shape[-3]:
        shared = query.shape[-3] // key.shape[-3]
        key, value = (each.repeat_interleave(shared, -3) for each in (key, value))
    size = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    lead, width = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2]), value.shape[-1]
    mask = None if attn_mask is None else _four_axes(_added(attn_mask, query), lead)
    query, key, value = (
        _four_axes(each.expand(*lead, *each.shape[-2:]), lead).contiguous()
        for each in _of_one_width(query, key, value)
    )
    kept = _draw_kept(query, key, dropout_p) if dropout_p > 0 else None
    out = fused(query, key, value, mask, kept, is_causal, size, dropout_p)
    return out[..., :width].reshape(*lead, *out.shape[-2:-1], width)


def _of_one_width(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return tensors with as many numbers for a token; what is added changes no score and value."""
    more = value.shape[-1] - query.shape[-1]
    if more > 0:
        return functional.pad(query, (0, more)), functional.pad(key, (0, more)), value
    return query, key, functional.pad(value, (0, -more)) if more else value


def _four_axes(tensor: Tensor, lead: torch.Size) -> Tensor:
    """Return a tensor with axes for examples, heads, rows and columns.

    Args:
        tensor: Shape (..., rows, columns), with as many axes as ``lead`` says or fewer.
        lead: What stands before the last two axes of a whole tensor.
    """
    tensor = tensor[(None,) * (len(lead) + 2 - tensor.ndim)]
    if len(lead) < 2:  # no heads
        return tensor.reshape(-1, 1, *tensor.shape[-2:])
    *examples, heads = tensor.shape[:-2]
    if max(examples) > 1:
        tensor = tensor.expand(*lead[:-1], *tensor.shape[-3:])
    return tensor.reshape(-1, heads, *tensor.shape[-2:])


def fused(  # noqa: PLR0913 (what ``AttentionOptions`` holds, which a compiler takes one by one)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    kept: Tensor | None,
    is_causal: bool,
    scale: float,
    dropout: float,
) -> Tensor:
    """Return the result of attention on tensors with four axes."""
    out, _ = _Attention.apply(query, key, value, mask, kept, is_causal, scale, dropout)  # pyright: ignore[reportGeneralTypeIssues]
    return out


def _draw_kept(query: Tensor, key: Tensor, dropout: float) -> Tensor:
    """Draw which numbers of the matrix are kept, as torch's math kernel draws them."""
    shape = (*query.shape[:-1], key.shape[-2])
    if query.device.type == "cuda":  # which has another kernel for dropout than for other draws
        ones = torch.ones(shape, dtype=query.dtype, device=query.device)
        return torch.native_dropout(ones, dropout, True)[1]
    return torch.empty(shape, dtype=torch.bool, device=query.device).bernoulli_(1 - dropout)


def let_compilers_take_it() -> None:
    """Have torch's compiler take a call of ``fused`` as it is, in this process from now on.

    Tracing into it fails (torch 2.13): it compiles no function of autograd whose derivative is
    another one under ``torch.func.grad``. Not done when this module is imported, because it loads
    the compiler.
    """
    global _is_opaque
    torch.compiler.allow_in_graph(fused)
    _is_opaque = True


_is_opaque = False


def why_not(  # noqa: PLR0913 (one return for each reason)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> str:
    """Say why an attention keeps the whole matrix; empty if it does not."""
    formats = {query.dtype, key.dtype, value.dtype}
    if not query.ndim == key.ndim == value.ndim:
        return "its tensors have different numbers of axes"
    reasons = {
        "it drops all of the matrix, or its rate of dropout is none": not 0 <= dropout < 1,
        "its mask is trained": mask is not None and mask.requires_grad,
        # Torch's kernel for a CPU multiplies its minus infinities by the scale (2.13).
        "its scale is not positive": scale is not None and not scale > 0,
        "it has a mask beside is_causal": mask is not None and is_causal,
        "it is computed in another format than float32 or float64": not (
            len(formats) == 1 and query.dtype in (torch.float32, torch.float64)
        ),
        "its values or its mask are of more examples or heads than its scores": not _fits(
            query, key, value, mask, enable_gqa=enable_gqa
        ),
        "its tokens are few": query.shape[-2] * key.shape[-2] < LEAST_PAIRS,
        "its device or layout has no fused kernels": query.device.type not in ("cpu", "cuda")
        or query.is_nested
        or query.is_sparse,
        "its step is in forward mode or batched, or another compiler's": _is_transformed(),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _fits(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, enable_gqa: bool
) -> bool:
    """Say whether scores have all the examples and heads that are read; torch refuses the rest."""
    of_key, of_value = key.shape[:-2], value.shape[:-2]
    if enable_gqa:
        if query.ndim < _HEADS or of_key[-1] != of_value[-1] or query.shape[-3] % of_key[-1]:
            return False
        of_key, of_value = ((*each[:-1], query.shape[-3]) for each in (of_key, of_value))
    whole = len(query.shape[:-2])
    others = [of_value] if mask is None else [of_value, mask.shape[:-2]]
    if any(len(other) > whole for other in others):
        return False
    try:
        lead = torch.broadcast_shapes(query.shape[:-2], of_key)
        return all(torch.broadcast_shapes(lead, other) == lead for other in others)
    except RuntimeError:
        return False


def say_whole(reason: str, rows: int, columns: int) -> None:
    """Note that an attention keeps its whole matrix; see ``whole_matrices``.

    Args:
        reason: Why, a clause.
        rows: Tokens that read.
        columns: Tokens that are read.
    """
    if rows * columns < LEAST_PAIRS or torch.compiler.is_compiling():
        return
    noted = _NOTED.get()
    if noted is not None:
        noted.setdefault(reason, (rows, columns))


@contextmanager
def whole_matrices() -> Iterator[dict[str, tuple[int, int]]]:
    """Yield why attentions inside of the block keep their whole matrix, and of how many tokens."""
    noted: dict[str, tuple[int, int]] = {}
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


_NOTED: ContextVar[dict[str, tuple[int, int]] | None] = ContextVar("attentions", default=None)


def note_of_matrices(noted: Mapping[str, tuple[int, int]]) -> str:
    """Say for people what ``whole_matrices`` has noted; empty if that is nothing."""
    return " ".join(
        f"An attention of {rows} x {columns} tokens keeps its whole matrix, because {reason}, so "
        "the memory of a step grows with the square of the tokens."
        for reason, (rows, columns) in noted.items()
    )


def _is_transformed() -> bool:
    if torch.compiler.is_compiling():
        return not _is_opaque  # a compiled step is differentiated in reverse
    levels = functorch.get_interpreter_stack() or []
    return forward_ad._current_level >= 0 or any(
        level.key() != functorch.TransformType.Grad for level in levels
    )


def _added(mask: Tensor, query: Tensor) -> Tensor:
    """Return a mask as numbers that are added to the scores, in two axes at least and no larger."""
    if mask.dtype == torch.bool:
        added = torch.zeros(mask.shape, dtype=query.dtype, device=query.device)
        mask = added.masked_fill(~mask, -math.inf)
    mask = mask.to(query.dtype)
    return mask[(None,) * (2 - mask.ndim)]


_torch_attention = functional.scaled_dot_product_attention


class _Attention(torch.autograd.Function):
    """What rows read, with its derivative."""

    @staticmethod
    def forward(*given: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 (as the operation takes)
        return forward_pass(*given)

    @staticmethod
    def setup_context(
        ctx: _Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]
    ) -> None:
        query, key, value, mask, kept, *ctx.numbers = inputs
        out, sums = output
        ctx.mark_non_differentiable(sums)
        ctx.save_for_backward(query, key, value, mask, kept, out, sums)

    @staticmethod
    def backward(ctx: _Context, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        cotangent, _ = cotangents
        query, key, value, mask, kept, out, sums = ctx.saved_tensors
        # What ``out`` passes on is a part of the formula of the second derivative.
        given = (cotangent, query, key, value, out.detach(), sums, mask, kept, *ctx.numbers)
        return (*_Pull.apply(*given), None, None, None, None, None)


class _Pull(torch.autograd.Function):
    """The first backward pass, with its derivative, which has none."""

    @staticmethod
    def forward(*given: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401 (likewise)
        return pull(*given)

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Any, ...], output: object) -> None:
        del output
        tensors, ctx.numbers = inputs[:-3], inputs[-3:]
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (as the decorator makes it)
        ctx: _Context, *cotangents: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        cotangent, query, key, value, out, sums, mask, kept = ctx.saved_tensors
        ddq, ddk, ddv = (
            torch.zeros_like(each) if given is None else given.contiguous()
            for given, each in zip(cotangents, (query, key, value), strict=True)
        )
        passed = (query, key, value, out, sums, mask, kept, *ctx.numbers)
        found = second_pull(cotangent.contiguous(), *passed, ddq, ddk, ddv)
        return (*found, None, None, None, None, None, None, None)
