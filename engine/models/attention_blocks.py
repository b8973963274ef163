"""The passes of attention by torch's fused kernels, and the second derivative in blocks.

The fused kernels keep one number for each row of the attention matrix in place of the whole of it,
but torch has no derivative of their backward pass. It is written here as one sweep over blocks.

With s = scale q k', p = softmax(s), dp = do v' and the first backward pass ds = p (dp - D),
dq = scale ds k, dk = scale ds' q, dv = p' do, where D = rowsum(o do), let ddq, ddk and ddv be the
cotangents of dq, dk and dv, and dds = scale (ddq k' + q ddk'). The adjoints of its inputs are

    A = rowsum(dds p)         X = do ddv' - dp A - dds D + dp dds         B = rowsum(X p)
    q_bar  = scale (ds ddk + p (X - B) k)       k_bar = scale (ds' ddq + (p (X - B))' q)
    v_bar  = (p (dds - A))' do                  do_bar = p ddv + (p (dds - A)) v

Only D, A and B, one number a row, couple the columns, so a few whole rows are taken at a time: all
that is made of them fits into a core's cache, and memory grows with the columns and not with their
product with the rows. The formula is FlashBoB's (arXiv:2609.24089).

Dropout multiplies p by a matrix m that is 0 or 1 / (1 - rate), before it meets the values: then
dp = m do v' and o = m p v, D stays as it is, X begins with m do ddv', and p and p (dds - A) are
multiplied by m where they meet do, v or ddv. Which numbers are kept is drawn once and held as one
byte each, where torch's math kernel holds some forty.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_NUMBERS = {"cpu": 1 << 18, "cuda": 1 << 22}
"""Numbers of a block of the attention matrix, of which some six are held at once: on a CPU what its
caches hold, on a GPU enough for all of its processors."""

_Optional = Tensor | None


class AttentionOptions(NamedTuple):
    """How an attention reads.

    Attributes:
        mask: Added to the scores, of a shape that expands to (batch, heads, rows, columns).
        kept: Which numbers of the matrix dropout keeps, bool of shape (batch, heads, rows,
            columns); None without dropout.
        is_causal: Whether a row reads the columns up to its own only.
        scale: Scale of the scores.
        dropout: Share of the matrix that is dropped.
    """

    mask: _Optional
    kept: _Optional
    is_causal: bool
    scale: float
    dropout: float = 0.0


def forward_pass(
    query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions
) -> tuple[Tensor, Tensor]:
    """Return the result of attention, and the log-sum-exp of each row's scores.

    Shapes (batch, heads, rows, features) and (batch, heads, rows).
    """
    aten = torch.ops.aten
    mask, kept, is_causal, scale, _ = options
    if kept is not None:  # torch has no fused kernel with dropout for a CPU
        return _blocked(query, key, value, options)
    if query.device.type == "cpu":
        out, sums = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, is_causal, attn_mask=mask, scale=scale
        )
    elif query.dtype == torch.float32 and mask is None:
        out, sums, *_ = aten._scaled_dot_product_efficient_attention(
            query, key, value, mask, True, 0.0, is_causal, scale=scale
        )
        sums = sums[..., : query.shape[-2]]
    else:
        return _blocked(query, key, value, options)
    if mask is not None:  # a row that may read nothing reads zeros, as with the math kernel
        empty = (mask == -math.inf).all(-1).expand(sums.shape)
        out = out.masked_fill(empty[..., None], 0)
        sums = sums.masked_fill(empty, math.inf)
    return out.contiguous(), sums.contiguous()


class Passed(NamedTuple):
    """A forward pass: what it read, and what it returned."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    sums: Tensor
    options: AttentionOptions


def pull(cotangent: Tensor, passed: Passed) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first backward pass: dq, dk and dv, shaped like query, key and value."""
    query, key, value, out, sums, (mask, kept, is_causal, scale, _) = passed
    aten = torch.ops.aten
    if query.device.type == "cpu" and kept is None:
        found = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            cotangent.contiguous(), query, key, value, out, sums, 0.0, is_causal,
            attn_mask=mask, scale=scale,
        )  # fmt: skip
    else:
        found = _blocked_pull(cotangent, passed)
    return tuple(each.contiguous() for each in found)  # pyright: ignore[reportReturnType] (three)


def second_pull(
    cotangent: Tensor, passed: Passed, ddq: Tensor, ddk: Tensor, ddv: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the adjoints of cotangent, query, key and value, by the formula of the module.

    Each has the shape of what it is the adjoint of; ddq, ddk and ddv those of dq, dk and dv.
    """
    matrix = _Matrix(passed)
    query, key, value, scale = matrix.query, matrix.key, matrix.value, passed.options.scale
    given, ddq, ddk, ddv = (_flat(each) for each in (cotangent, ddq, ddk, ddv))
    coupled = matrix.row_sums(cotangent)  # D
    rows_of = torch.cat([ddq, query], -1)  # dds is one product of twice the size
    columns_of = torch.cat([key, ddk], -1)
    do_bar, q_bar, k_bar, v_bar = (torch.zeros_like(x) for x in (given, query, key, value))
    for heads, rows, columns in matrix.blocks():
        i, j = (heads, rows), (heads, columns)
        d = coupled[i]
        weights = matrix.weights(heads, rows, columns)
        dds = torch.bmm(rows_of[i], columns_of[j].mT).mul_(scale)
        drop = matrix.dropped(heads, rows, columns)
        dp = drop(torch.bmm(given[i], value[j].mT))
        x = drop(torch.bmm(given[i], ddv[j].mT)).addcmul_(dp, dds)
        dc = dds * weights
        a = dc.sum(-1, keepdim=True)
        # D is rowsum(dp p) too, so B = rowsum(p (do ddv' + dp dds)) - 2 A D.
        b = (x * weights).sum(-1, keepdim=True).sub_(2 * a * d)
        x.addcmul_(dp, a, value=-1).addcmul_(dds, d, value=-1).sub_(b).mul_(weights)
        dc = drop(dc.addcmul_(weights, a, value=-1))
        ds = dp.sub_(d).mul_(weights)
        weights = drop(weights)
        do_bar[i] = torch.bmm(weights, ddv[j]).baddbmm_(dc, value[j])
        q_bar[i] = torch.bmm(ds, ddk[j]).baddbmm_(x, key[j]).mul_(scale)
        k_bar[j] += torch.bmm(ds.mT, ddq[i]).baddbmm_(x.mT, query[i]).mul_(scale)
        v_bar[j] += torch.bmm(dc.mT, given[i])
    adjoints = zip((do_bar, q_bar, k_bar, v_bar), (cotangent, *passed[:3]), strict=True)
    return tuple(bar.view(of.shape) for bar, of in adjoints)  # pyright: ignore[reportReturnType] (four)


def _flat(tensor: Tensor) -> Tensor:
    """Return a tensor with one axis for examples and heads."""
    return tensor.reshape(-1, *tensor.shape[-2:])


_HEIGHTS = {"causal": 64, "whole": 128}
"""Most rows of a block, by measurement on a CPU: a causal one of few rows has less that is masked.
A long row takes fewer, so that one head fits into a block."""

_LEAST = 8
"""Fewest rows of a block, however long they are: what is held grows with the columns from there."""


class _Matrix:
    """The attention matrix, of which a few rows are made at a time.

    Args:
        passed: Query of shape (batch, heads, rows, size), key and value (batch, heads, columns,
            size), the mask, which is added to the scores, and the rows' sums.

    Attributes:
        query: Shape (batch * heads, rows, size), and ``key`` and ``value`` likewise.
    """

    def __init__(self, passed: Passed) -> None:
        self.query, self.key, self.value = (_flat(each) for each in passed[:3])
        self._passed, self._options = passed, passed.options
        kept = passed.options.kept
        self._kept = None if kept is None else _flat(kept)
        self._shape = (*passed.query.shape[:-1], passed.key.shape[-2])

    def row_sums(self, cotangent: Tensor) -> Tensor:
        """Return D, shape (batch * heads, rows, 1)."""
        return (_flat(self._passed.out) * _flat(cotangent)).sum(-1, keepdim=True)

    def blocks(self) -> Iterator[tuple[slice, slice, slice]]:
        """Return heads of examples, rows, and the columns that one of these rows may read."""
        (together, rows, _), columns = self.query.shape, self.key.shape[-2]
        numbers = BLOCK_NUMBERS.get(self.query.device.type, BLOCK_NUMBERS["cpu"])
        height = _HEIGHTS["causal" if self._options.is_causal else "whole"]
        height = max(1, min(height, rows, max(_LEAST, numbers // columns)))
        for first in range(0, rows, height):
            last = min(first + height, rows)
            end = min(last, columns) if self._options.is_causal else columns
            heads = max(1, numbers // ((last - first) * end))
            for head in range(0, together, heads):
                yield slice(head, head + heads), slice(first, last), slice(0, end)

    def scores(self, heads: slice, rows: slice, columns: slice) -> Tensor:
        """Return s of a block; minus infinity where a row may not read."""
        query, key = self.query[heads, rows], self.key[heads, columns]
        scores = torch.bmm(query, key.mT).mul_(self._options.scale)
        if self._options.mask is not None:
            scores += self._mask(heads, rows, columns)
        square = scores[..., rows.start :]
        if self._options.is_causal and square.numel():
            later = torch.ones(square.shape[-2:], dtype=torch.bool, device=square.device)
            square.masked_fill_(later.triu_(1), -math.inf)
        return scores

    def _mask(self, heads: slice, rows: slice, columns: slice) -> Tensor:
        mask = self._options.mask
        assert mask is not None
        at = torch.arange(len(self.query), device=mask.device)[heads]
        per_example = self._shape[1]
        whole = mask.expand(self._shape)[..., rows, columns]  # a view, of which a part is copied
        return whole[at // per_example, at % per_example]

    def weights(self, heads: slice, rows: slice, columns: slice) -> Tensor:
        """Return p of a block."""
        sums = self._passed.sums.reshape(*self.query.shape[:2], 1)[heads, rows]
        return self.scores(heads, rows, columns).sub_(sums).exp_()

    def dropped(self, heads: slice, rows: slice, columns: slice) -> Callable[[Tensor], Tensor]:
        """Return a function that multiplies a block by m, in place."""
        if self._kept is None:
            return lambda block: block
        shares = self._kept[heads, rows, columns].to(self.query.dtype)
        shares /= 1 - self._options.dropout
        return lambda block: block.mul_(shares)


def _blocked(
    query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions
) -> tuple[Tensor, Tensor]:
    """Compute ``forward_pass`` in blocks, where torch has no fused kernel."""
    sums = query.new_zeros(query.shape[:-1])
    matrix = _Matrix(Passed(query, key, value, query, sums, options))
    out, flat_sums = torch.zeros_like(matrix.query), sums.view(matrix.query.shape[:2])
    for heads, rows, columns in matrix.blocks():
        scores = matrix.scores(heads, rows, columns)
        found = scores.logsumexp(-1)
        found.masked_fill_(found == -math.inf, math.inf)  # a row that may read nothing reads zeros
        flat_sums[heads, rows] = found
        weights = scores.sub_(found[..., None]).exp_()
        weights = matrix.dropped(heads, rows, columns)(weights)
        out[heads, rows] = torch.bmm(weights, matrix.value[heads, columns])
    return out.view(query.shape), sums


def _blocked_pull(cotangent: Tensor, passed: Passed) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``pull`` in blocks, where torch has no fused kernel."""
    matrix = _Matrix(passed)
    given, d = _flat(cotangent), matrix.row_sums(cotangent)
    dq, dk, dv = (torch.zeros_like(each) for each in (matrix.query, matrix.key, matrix.value))
    for heads, rows, columns in matrix.blocks():
        i, j = (heads, rows), (heads, columns)
        weights, drop = (
            matrix.weights(heads, rows, columns),
            matrix.dropped(heads, rows, columns),
        )
        dp = drop(torch.bmm(given[i], matrix.value[j].mT))
        ds = dp.sub_(d[i]).mul_(weights).mul_(passed.options.scale)
        dv[j] += torch.bmm(drop(weights).mT, given[i])
        dq[i] = torch.bmm(ds, matrix.key[j])
        dk[j] += torch.bmm(ds.mT, matrix.query[i])
    pairs = zip((dq, dk, dv), passed[:3], strict=True)
    return tuple(each.view(of.shape) for each, of in pairs)  # pyright: ignore[reportReturnType] (three)
