"""Cross-entropy over a large vocabulary without ever holding all logits.

A plain loss keeps one number for each token and each word of the vocabulary, and its second
derivative about ten of them: in language models that, not attention, fills the memory. Here logits
are made for a few tokens at a time, in the loss, its gradient and the derivative of its gradient,
and thrown away. Differentiable twice, in reverse and forward mode, and no further.

With z = h W' the logits of a token, y its target, p = softmax(z), g the cotangent of its loss:
dl/dz = r = p - e_y, and along a direction (u, U) of (h, W), dz = u W' + h U' and
dr = q = p (dz - <p, dz>).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from engine.errors import DataError

_Context = Any  # what torch hands to the methods of a Function, which it does not type

CHUNK = 256
"""Tokens whose logits are held at a time."""


def token_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int = CHUNK
) -> Tensor:
    """Return the cross-entropy of each token in nats, shape (...).

    Args:
        hidden: What the head reads, shape (..., features).
        weight: The head's weight, shape (vocabulary, features); it has no bias.
        targets: The right word of each token, shape (...).
        chunk: Tokens whose logits are held at a time.

    Raises:
        DataError: If the shapes do not fit together.

    Cost:
        Logits are made once more for each derivative. Memory of order chunk times vocabulary.
        Measured in ``tests/bench/bench_step.py``.
    """
    if hidden.shape[:-1] != targets.shape or hidden.shape[-1] != weight.shape[-1]:
        raise DataError(
            f"The head reads {tuple(hidden.shape)} and has weights {tuple(weight.shape)}, but the "
            f"targets have shape {tuple(targets.shape)}. Give one target for each hidden vector."
        )
    flat = hidden.reshape(-1, hidden.shape[-1])
    return _Losses.apply(flat, weight, targets.reshape(-1), chunk).view(targets.shape)  # pyright: ignore[reportOptionalMemberAccess]


def sequence_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    token_weights: Tensor | float = 1.0,
    ignore: int = -100,
    chunk: int = CHUNK,
) -> Tensor:
    """Return each sequence's mean cross-entropy over its tokens, shape (batch,).

    Args:
        hidden: Shape (batch, tokens, features).
        weight: Shape (vocabulary, features).
        targets: Shape (batch, tokens).
        token_weights: Factors on the tokens' losses; the denominator does not depend on them.
        ignore: Target of tokens that do not count, such as padding.
        chunk: Tokens whose logits are held at a time.
    """
    counts = targets != ignore
    losses = token_cross_entropy(hidden, weight, targets.where(counts, 0), chunk=chunk)
    return (losses * counts * token_weights).sum(dim=1) / counts.sum(dim=1).clamp(min=1)


class _Losses(torch.autograd.Function):
    """(h, W) to the loss of each token."""

    generate_vmap_rule = True

    @staticmethod
    def forward(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        losses = []
        for rows in _chunks(hidden, chunk):
            logits = hidden[rows] @ weight.T
            target = logits.gather(1, targets[rows, None]).squeeze(1)
            losses.append(torch.logsumexp(logits, dim=1) - target)
        return torch.cat(losses)

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        *tensors, ctx.chunk = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: _Context, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (cotangent,) = cotangents
        hidden, weight, targets = ctx.saved_tensors
        found = _Gradient.apply(cotangent, hidden, weight, targets, ctx.chunk)
        return (*found, None, None)  # pyright: ignore[reportGeneralTypeIssues]

    @staticmethod
    def jvp(ctx: _Context, *tangents: Tensor | None) -> Tensor:
        hidden, weight, targets = ctx.saved_tensors
        moved_hidden, moved_weight = _zeros_for_none(tangents[:2], (hidden, weight))
        moved = []
        for rows in _chunks(hidden, ctx.chunk):
            residual, _ = _residual(hidden[rows], weight, targets[rows])
            along = moved_hidden[rows] @ weight.T + hidden[rows] @ moved_weight.T
            moved.append((residual * along).sum(dim=1))
        return torch.cat(moved)


class _Gradient(torch.autograd.Function):
    """(g, h, W) to the gradient of sum_n g_n l_n in h and in W."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        cotangent: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        to_hidden, to_weight = [], torch.zeros_like(weight)
        for rows in _chunks(hidden, chunk):
            residual, _ = _residual(hidden[rows], weight, targets[rows])
            scaled = cotangent[rows, None] * residual
            to_hidden.append(scaled @ weight)
            to_weight = to_weight + scaled.T @ hidden[rows]
        return torch.cat(to_hidden), to_weight

    @staticmethod
    def setup_context(
        ctx: _Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]
    ) -> None:
        del output
        *tensors, ctx.chunk = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: _Context, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate <u, dL/dh> + <U, dL/dW>, which is the loss's derivative along (u, U)."""
        u, big_u = cotangents
        cotangent, hidden, weight, targets = ctx.saved_tensors
        to_cotangent, to_hidden, to_weight = [], [], torch.zeros_like(weight)
        for rows in _chunks(hidden, ctx.chunk):
            residual, probability = _residual(hidden[rows], weight, targets[rows])
            along = u[rows] @ weight.T + hidden[rows] @ big_u.T
            curved = cotangent[rows, None] * _softmax_along(probability, along)
            residual_scaled = cotangent[rows, None] * residual
            to_cotangent.append((residual * along).sum(dim=1))
            to_hidden.append(curved @ weight + residual_scaled @ big_u)
            to_weight = to_weight + curved.T @ hidden[rows] + residual_scaled.T @ u[rows]
        return torch.cat(to_cotangent), torch.cat(to_hidden), to_weight, None, None

    @staticmethod
    def jvp(ctx: _Context, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        cotangent, hidden, weight, targets = ctx.saved_tensors
        moved_cotangent, moved_hidden, moved_weight = _zeros_for_none(
            tangents[:3], (cotangent, hidden, weight)
        )
        to_hidden, to_weight = [], torch.zeros_like(weight)
        for rows in _chunks(hidden, ctx.chunk):
            residual, probability = _residual(hidden[rows], weight, targets[rows])
            along = moved_hidden[rows] @ weight.T + hidden[rows] @ moved_weight.T
            scaled = cotangent[rows, None] * residual
            moved = moved_cotangent[rows, None] * residual
            moved = moved + cotangent[rows, None] * _softmax_along(probability, along)
            to_hidden.append(moved @ weight + scaled @ moved_weight)
            to_weight = to_weight + moved.T @ hidden[rows] + scaled.T @ moved_hidden[rows]
        return torch.cat(to_hidden), to_weight


def _chunks(hidden: Tensor, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, len(hidden), size))


def _residual(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return r = p - e_y and p, both of shape (tokens, vocabulary)."""
    probability = torch.softmax(hidden @ weight.T, dim=1)
    ones = torch.ones_like(targets[:, None], dtype=probability.dtype)
    return probability.scatter_add(1, targets[:, None], -ones), probability


def _softmax_along(probability: Tensor, along: Tensor) -> Tensor:
    """Return q, the derivative of p along a change of the logits."""
    return probability * (along - (probability * along).sum(dim=1, keepdim=True))


def _zeros_for_none(
    tangents: tuple[Tensor | None, ...], primals: tuple[Tensor, ...]
) -> list[Tensor]:
    pairs = zip(tangents, primals, strict=True)
    return [torch.zeros_like(primal) if moved is None else moved for moved, primal in pairs]
