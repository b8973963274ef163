"""The passes of attention by torch's fused kernels, and the second derivative in blocks.

The fused kernels keep one number for each row of the attention matrix in place of the whole of it,
but torch has no derivative of their backward pass. It is written here as two sweeps over blocks.

With s = scale q k', p = softmax(s), dp = do v' and the first backward pass ds = p (dp - D),
dq = scale ds k, dk = scale ds' q, dv = p' do, where D = rowsum(o do), let ddq, ddk and ddv be the
cotangents of dq, dk and dv, and dds = scale (ddq k' + q ddk'). The adjoints of its inputs are

    A = rowsum(dds p)         X = do ddv' - dp A - dds D + dp dds         B = rowsum(X p)
    q_bar  = scale (ds ddk + p (X - B) k)       k_bar = scale (ds' ddq + (p (X - B))' q)
    v_bar  = (p (dds - A))' do                  do_bar = p ddv + (p (dds - A)) v

Only D, A and B, one number a row, couple the columns: the first sweep makes A and B, the second the
adjoints. Both go through some rows before the next ones, so that the blocks of p can be kept. The
formula is FlashBoB's (arXiv:2609.24089).
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_NUMBERS = 1 << 19
"""Numbers of a block of the attention matrix, all heads of some examples together: 2 MB in float32,
about what a core's cache holds."""

KEPT_NUMBERS = 1 << 20
"""Numbers of the blocks of some rows that are kept at once, four times over, for the second sweep,
in place of being made anew."""

_Optional = Tensor | None


def forward_pass(
    query: Tensor, key: Tensor, value: Tensor, mask: _Optional, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Return what the rows read, and the logarithm of the sum of each row's exponentials."""
    aten = torch.ops.aten
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
        return _blocked(query, key, value, mask, is_causal, scale)
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
    mask: _Optional
    is_causal: bool
    scale: float


def pull(cotangent: Tensor, passed: Passed) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first backward pass: dq, dk and dv."""
    query, key, value, out, sums, mask, is_causal, scale = passed
    aten = torch.ops.aten
    if query.device.type == "cpu":
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
    """Return the adjoints of cotangent, query, key and value, by the formula of the module."""
    query, key, value, out, sums, mask, is_causal, scale = passed
    blocks = _Blocks(query, key, mask, is_causal, scale)
    d = (out * cotangent).sum(-1, keepdim=True)
    rows_of = torch.cat([ddq, query], -1)  # dds is one product of twice the size
    columns_of = torch.cat([key, ddk], -1)

    def read(i: _Index, j: _Index) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        given = cotangent[i]
        return (
            blocks.weights(i, j, sums),
            (rows_of[i] @ columns_of[j].mT).mul_(scale),
            given @ value[j].mT,
            given @ ddv[j].mT,
        )

    a, b = torch.zeros_like(d), torch.zeros_like(d)
    do_bar, q_bar, k_bar, v_bar = (torch.zeros_like(x) for x in (cotangent, query, key, value))
    for group in blocks.groups():
        kept = [read(i, j) for i, j in group] if blocks.are_kept else None
        for n, (i, j) in enumerate(group):
            weights, dds, dp, moved = kept[n] if kept else read(i, j)
            both = weights * dds
            a[i] += both.sum(-1, keepdim=True)
            # The sums of X p whose factors differ within a row; a and d come afterwards.
            b[i] += both.mul_(dp).addcmul_(weights, moved).sum(-1, keepdim=True)
        # D is rowsum(dp p) too, so B = rowsum(p (moved + dp dds)) - 2 A D.
        rows = group[0][0]
        b[rows] -= 2 * a[rows] * d[rows]
        for n, (i, j) in enumerate(group):
            weights, dds, dp, moved = kept[n] if kept else read(i, j)
            x = moved.sub_(b[i]).addcmul_(dp, dds.sub_(a[i])).addcmul_(dds + a[i], d[i], value=-1)
            x.mul_(weights)
            ds = dp.sub_(d[i]).mul_(weights)
            dc = dds.mul_(weights)
            do_bar[i] += (weights @ ddv[j]).add_(dc @ value[j])
            q_bar[i] += (ds @ ddk[j]).add_(x @ key[j]).mul_(scale)
            k_bar[j] += (ds.mT @ ddq[i]).add_(x.mT @ query[i]).mul_(scale)
            v_bar[j] += dc.mT @ cotangent[i]
    return do_bar, q_bar, k_bar, v_bar


_Index = tuple[slice, slice, slice]
"""Examples, heads and rows, or columns."""


class _Blocks:
    """Blocks of the attention matrix that are not wholly masked by ``is_causal``, in order.

    Args:
        query: Shape (batch, heads, rows, size).
        key: Shape (batch, heads, columns, size).
        mask: Added to the scores; broadcast to (batch, heads, rows, columns).
        is_causal: Whether a row reads the columns up to its own only.
        scale: Of the scores.

    Attributes:
        are_kept: Whether those of some rows are few enough to be kept between two sweeps, which
            are one after the other for each group of rows: the columns of a row are coupled by
            numbers of that row alone.
    """

    def __init__(
        self, query: Tensor, key: Tensor, mask: _Optional, is_causal: bool, scale: float
    ) -> None:
        self._query, self._key, self._is_causal, self._scale = query, key, is_causal, scale
        heads, rows, columns = query.shape[1], query.shape[-2], key.shape[-2]
        fitting = KEPT_NUMBERS // (heads * columns)
        self.are_kept = fitting >= min(_LEAST, rows)
        if self.are_kept:
            self._height, self._width = min(_SIDE, fitting, rows), min(_WIDE, columns)
            self._together = max(1, fitting // self._height)
        else:
            self._height, self._width = min(_SIDE, rows), min(_SIDE, columns)
            self._together = max(1, BLOCK_NUMBERS // (heads * self._height * self._width))
        whole = (*query.shape[:-1], key.shape[-2])
        self._mask = None if mask is None else mask.expand(whole)

    def __iter__(self) -> Iterator[tuple[_Index, _Index]]:
        for group in self.groups():
            yield from group

    def groups(self) -> Iterator[list[tuple[_Index, _Index]]]:
        """Return the blocks of some rows of a few examples at a time."""
        batch, _, rows, _ = self._query.shape
        columns, everything = self._key.shape[-2], slice(None)
        for first in range(0, batch, self._together):
            examples = slice(first, first + self._together)
            for row in range(0, rows, self._height):
                i = (examples, everything, slice(row, min(row + self._height, rows)))
                end = min(i[2].stop, columns) if self._is_causal else columns
                yield [
                    (i, (*i[:2], slice(column, min(column + self._width, end))))
                    for column in range(0, end, self._width)
                ]

    def scores(self, i: _Index, j: _Index) -> Tensor:
        """Return a block of s; minus infinity where a row may not read."""
        scores = (self._query[i] @ self._key[j].mT).mul_(self._scale)
        if self._mask is not None:
            scores += self._mask[(*i, j[2])]
        row, column = i[2], j[2]
        if self._is_causal and column.stop - 1 > row.start:
            device = scores.device
            later = (
                torch.arange(column.start, column.stop, device=device)
                > torch.arange(row.start, row.stop, device=device)[:, None]
            )
            scores.masked_fill_(later, -math.inf)
        return scores

    def weights(self, i: _Index, j: _Index, sums: Tensor) -> Tensor:
        """Return a block of p, given the logarithms of the rows' sums."""
        return self.scores(i, j).sub_(sums[i][..., None]).exp_()


_SIDE = 256
"""Most rows of a block, and its columns where blocks are made anew."""

_WIDE = 2048
"""Most columns of a block that is kept: few wide blocks took less time than many narrow ones."""

_LEAST = 32
"""Fewest rows for which keeping pays; with more columns, blocks are made anew."""


def _blocked(
    query: Tensor, key: Tensor, value: Tensor, mask: _Optional, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Return what ``forward_pass`` does, where torch has no fused kernel."""
    blocks = _Blocks(query, key, mask, is_causal, scale)
    sums = query.new_full(query.shape[:-1], -math.inf)
    for i, j in blocks:
        sums[i] = torch.logaddexp(sums[i], blocks.scores(i, j).logsumexp(-1))
    sums.masked_fill_(sums == -math.inf, math.inf)  # a row that may read nothing reads zeros
    out = torch.zeros_like(query)
    for i, j in blocks:
        out[i] += blocks.weights(i, j, sums) @ value[j]
    return out, sums


def _blocked_pull(cotangent: Tensor, passed: Passed) -> tuple[Tensor, Tensor, Tensor]:
    """Return what ``pull`` does, where torch has no fused kernel."""
    query, key, value, out, sums, mask, is_causal, scale = passed
    blocks = _Blocks(query, key, mask, is_causal, scale)
    d = (out * cotangent).sum(-1, keepdim=True)
    dq, dk, dv = (torch.zeros_like(each) for each in (query, key, value))
    for i, j in blocks:
        weights = blocks.weights(i, j, sums)
        dv[j] += weights.mT @ cotangent[i]
        ds = (cotangent[i] @ value[j].mT).sub_(d[i]).mul_(weights).mul_(scale)
        dq[i] += ds @ key[j]
        dk[j] += ds.mT @ query[i]
    return dq, dk, dv
