"""Functions of torch without a second derivative, written out in operations that have one.

Their values are torch's, and so are their gradients, to rounding; the witness of every run compares
a step of the user's own module, which calls torch's. Without these a run that calls one of them
would be refused.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from engine.errors import UndifferentiableError
from engine.routine.module.stop_gradient import stop_gradient

_NEVER = -1e30
"""The logarithm of a path that cannot be: finite, so that derivatives are numbers."""

_BY_PRODUCTS = 25
"""Rows from which on torch takes distances by products of matrices, which it differentiates."""


def _cdist(
    x1: Tensor,
    x2: Tensor,
    p: int | float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    """Return the distances of all pairs of rows."""
    many = max(x1.shape[-2], x2.shape[-2]) > _BY_PRODUCTS
    if p == 2 and (compute_mode == _ALWAYS or (compute_mode == _IF_MANY and many)):
        return _torch_cdist(x1, x2, p, compute_mode)
    return _norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p)


_IF_MANY, _ALWAYS = "use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist"


def _pdist(input: Tensor, p: int | float = 2.0) -> Tensor:
    """Return the distances of all rows before one another."""
    first, second = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return _norm(input[first] - input[second], p)


def _norm(differences: Tensor, p: int | float) -> Tensor:
    """Return norms along the last axis, with derivatives of 0 where nothing differs, as torch's."""
    is_none = (differences == 0).all(-1, keepdim=True)
    norms = torch.linalg.vector_norm(torch.where(is_none, 1, differences), ord=p, dim=-1)
    return torch.where(is_none.squeeze(-1), 0, norms)


def _multi_margin_loss(  # noqa: PLR0913 (torch's signature)
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: int | float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return by how much other classes come too near to the right one."""
    if size_average is not None or reduce is not None:
        return _torch_multi_margin_loss(
            input, target, p, margin, weight, size_average, reduce, reduction
        )
    rows, classes = torch.atleast_2d(input), torch.atleast_1d(target)
    right = rows.gather(1, classes[:, None])
    near = (margin - right + rows).clamp(min=0) ** p
    if weight is not None:
        near = near * weight[classes][:, None]
    others = torch.arange(rows.shape[1], device=rows.device) != classes[:, None]
    losses = torch.where(others, near, 0).mean(1)
    return _reduced(losses if input.ndim == 2 else losses[0], reduction)


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    return {"none": lambda: losses, "mean": losses.mean, "sum": losses.sum}[reduction]()


def _embedding_bag(  # noqa: PLR0913 (torch's signature)
    weight: Tensor,
    input: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Tensor | None, ...]:
    """Return sum, mean or maximum of the rows of each bag; an empty one has zeros."""
    del sparse
    if scale_grad_by_freq:
        others = (mode, False, per_sample_weights, include_last_offset, padding_idx)
        return _torch_embedding_bag(weight, input, offsets, scale_grad_by_freq, *others)
    rows = functional.embedding(input, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    is_in = torch.ones_like(input, dtype=torch.bool)
    if padding_idx is not None:
        is_in = input != padding_idx % len(weight)
    ends = offsets[1:]
    if not include_last_offset:
        ends = torch.cat([ends, offsets.new_tensor([len(input)])])
    starts = offsets[: len(ends)]
    longest = int((ends - starts).max()) if len(ends) else 0
    places = starts[:, None] + torch.arange(max(longest, 1), device=input.device)
    inside = places < ends[:, None]
    places = places.clamp(max=max(len(input) - 1, 0))
    return _bags(rows[places], is_in[places] & inside, _MODES[mode]), None, None, None


_MODES = ("sum", "mean", "max")


def _bags(rows: Tensor, is_in: Tensor, mode: str) -> Tensor:
    """Join rows of shape (bags, items, numbers) over the items that are in."""
    chosen = is_in.unsqueeze(-1)
    if mode == "max":
        found = rows.masked_fill(~chosen, -torch.inf).max(1).values
        return torch.where(is_in.any(1, keepdim=True), found, 0)
    total = torch.where(chosen, rows, 0).sum(1)
    return total if mode == "sum" else total / chosen.sum(1).clamp(min=1)


def _gumbel_softmax(
    logits: Tensor, tau: int | float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """Draw from a softened choice; a hard one has the derivative of the soft one in a step alone.

    Torch cuts that out of the graph by ``detach()``, so that whoever calls it cannot write it
    otherwise.
    """
    soft = _torch_gumbel_softmax(logits, tau, eps=eps, dim=dim)
    if not hard:
        return soft
    chosen = torch.zeros_like(soft).scatter_(dim, soft.argmax(dim, keepdim=True), 1.0)
    return chosen - stop_gradient(soft) + soft


def _ctc_loss(  # noqa: PLR0913 (torch's signature)
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,  # noqa: ANN401 (a tensor or a sequence)
    target_lengths: Any,  # noqa: ANN401 (likewise)
    blank: int = 0,
    reduction: int = 1,
    zero_infinity: bool = False,
) -> Tensor:
    """Return minus the logarithm of the chance of all alignments, by the forward recursion.

    References:
        Graves et al. 2006, "Connectionist temporal classification".
    """
    one = log_probs.ndim == 2
    rows = log_probs.unsqueeze(1) if one else log_probs
    steps, number, _ = rows.shape
    as_lengths = partial(torch.as_tensor, device=rows.device, dtype=torch.int64)
    lengths, sizes = (as_lengths(each).reshape(-1) for each in (input_lengths, target_lengths))
    labels = _labels(targets, sizes, number)
    states = labels.new_full((number, 2 * labels.shape[1] + 1), blank)
    states[:, 1::2] = labels
    seen = rows.gather(2, states.expand(steps, -1, -1))
    before = functional.pad(states[:, :-2], (2, 0), value=blank)
    skips = (states != blank) & (states != before)
    skips[:, :2] = False
    places = torch.arange(states.shape[1], device=rows.device)
    alpha = torch.where(places < 2, seen[0], _NEVER)
    for step in range(1, steps):
        by_one = functional.pad(alpha[:, :-1], (1, 0), value=_NEVER)
        by_two = functional.pad(alpha[:, :-2], (2, 0), value=_NEVER)
        ways = torch.stack([alpha, by_one, torch.where(skips, by_two, _NEVER)])
        alpha = torch.where(step < lengths[:, None], ways.logsumexp(0) + seen[step], alpha)
    last = alpha.gather(1, 2 * sizes[:, None])
    label = alpha.gather(1, (2 * sizes[:, None] - 1).clamp(min=0))
    ends = torch.cat([last, torch.where(sizes[:, None] > 0, label, _NEVER)], 1)
    losses = -ends.logsumexp(1)
    # Torch's gradient takes for granted that chances sum to one, and differs where not.
    inside = torch.arange(steps, device=rows.device)[:, None] < lengths
    total = torch.where(inside, rows.exp().sum(2), 0).sum(0)
    losses = losses + (total - stop_gradient(total))
    impossible = losses.detach() > -_NEVER / 2
    losses = torch.where(impossible, 0.0 if zero_infinity else torch.inf, losses)
    if _REDUCTIONS[reduction] == "mean":
        losses = losses / sizes.clamp(min=1)
    return _reduced(losses[0] if one else losses, _REDUCTIONS[reduction])


_REDUCTIONS = ("none", "mean", "sum")


def _labels(targets: Tensor, sizes: Tensor, number: int) -> Tensor:
    """Return the labels of each sequence in a row, shape (sequences, longest)."""
    targets = targets.long()
    if targets.ndim == 2:
        return targets
    if number == 1:
        return targets.reshape(1, -1)
    parts = targets.split(sizes.tolist())
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)


def _max_unpool(input: Tensor, indices: Tensor, output_size: Sequence[int], *_: object) -> Tensor:
    """Put maxima back where they were found, between zeros.

    Torch takes its own operation for one whose bits do not repeat, which holds where two maxima go
    to one place; its gradient is then no derivative, since both are given all of it.
    """
    lead, size = input.shape[: -len(output_size)], math.prod(output_size)
    rows, places = (each.reshape(lead.numel(), -1) for each in (input, indices))
    taken = torch.zeros(len(rows), size, dtype=torch.int32, device=rows.device)
    if (taken.scatter_add(1, places, torch.ones_like(places, dtype=torch.int32)) > 1).any():
        raise UndifferentiableError(
            "Two maxima are put back into one place by max_unpool, as those of windows that "
            "overlap. Torch gives each of them all of the gradient, which is then no derivative. "
            "Pool with a stride of at least kernel_size."
        )
    found = rows.new_zeros(len(rows), size).scatter(1, places, rows)
    return found.view(*lead, *output_size)


def _segment_reduce(data: Tensor, reduce: str, **options: Any) -> Tensor:  # noqa: ANN401 (torch's)
    """Return sum, mean, maximum or minimum of the rows of each segment."""
    lengths = options.get("lengths")
    known = _SEGMENTS.get(reduce) if options.keys() <= {"lengths", "axis", "unsafe"} else None
    if known is None or lengths is None or lengths.ndim != 1 or options.get("axis"):
        return _torch_segment_reduce(data, reduce, **options)
    sizes = lengths.tolist()
    if 0 in sizes or sum(sizes) != len(data):
        return _torch_segment_reduce(data, reduce, **options)
    return torch.stack([known(part, 0) for part in data.split(sizes)])


_SEGMENTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "max": torch.amax,
    "min": torch.amin,
}

UNPOOLING: Any = torch._C._nn  # pyright: ignore[reportAttributeAccessIssue] (without stubs)
"""Where ``torch.nn.functional`` finds the operations of unpooling."""

_torch_gumbel_softmax = functional.gumbel_softmax
_torch_segment_reduce = torch.segment_reduce
_torch_cdist = torch.cdist
_torch_multi_margin_loss = functional.multi_margin_loss
_torch_embedding_bag = torch.embedding_bag

WRITTEN_OUT: list[tuple[Any, str, Callable[..., Any]]] = [
    (torch, "cdist", _cdist),
    (torch, "pdist", _pdist),
    (functional, "pdist", _pdist),
    (functional, "multi_margin_loss", _multi_margin_loss),
    (torch, "embedding_bag", _embedding_bag),
    (functional, "gumbel_softmax", _gumbel_softmax),
    (torch, "ctc_loss", _ctc_loss),
    (torch, "segment_reduce", _segment_reduce),
    (UNPOOLING, "max_unpool2d", _max_unpool),
    (UNPOOLING, "max_unpool3d", _max_unpool),
]
"""Holder, name and what takes the place of the function."""
