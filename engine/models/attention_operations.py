"""The passes of attention as operations of torch's registry, which its compiler takes as they are.

A compiler that traced through them would unroll their blocks, and knows no kernel that it could
fuse them with. Registered when this module is imported, under the name of ``NAMESPACE``.
"""

import torch
from torch import Tensor

from engine.models import attention_blocks as passes
from engine.models.attention_blocks import AttentionOptions, Passed

NAMESPACE = "metagradient_descent"


@torch.library.custom_op(f"{NAMESPACE}::attention_forward", mutates_args=())
def forward_pass(  # noqa: PLR0913 (an operation takes no tuple)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    kept: Tensor | None,
    is_causal: bool,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Compute ``engine.models.attention_blocks.forward_pass``, as an operation of torch."""
    return passes.forward_pass(
        query, key, value, AttentionOptions(mask, kept, is_causal, scale, dropout)
    )


@forward_pass.register_fake
def _(query: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:-1])


@torch.library.custom_op(f"{NAMESPACE}::attention_pull", mutates_args=())
def pull(  # noqa: PLR0913 (an operation takes no tuple)
    cotangent: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    mask: Tensor | None,
    kept: Tensor | None,
    is_causal: bool,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``engine.models.attention_blocks.pull``, as an operation of torch."""
    options = AttentionOptions(mask, kept, is_causal, scale, dropout)
    passed = Passed(query, key, value, out, sums, options)
    return passes.pull(cotangent, passed)


@pull.register_fake
def _(
    _cotangent: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


@torch.library.custom_op(f"{NAMESPACE}::attention_second_pull", mutates_args=())
def second_pull(  # noqa: PLR0913 (an operation takes no tuple)
    cotangent: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    mask: Tensor | None,
    kept: Tensor | None,
    is_causal: bool,
    scale: float,
    dropout: float,
    ddq: Tensor,
    ddk: Tensor,
    ddv: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute ``engine.models.attention_blocks.second_pull``, as an operation of torch."""
    options = AttentionOptions(mask, kept, is_causal, scale, dropout)
    passed = Passed(query, key, value, out, sums, options)
    return passes.second_pull(cotangent, passed, ddq, ddk, ddv)


@second_pull.register_fake
def _(
    cotangent: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    read = (cotangent, query, key, value)
    return tuple(each.new_empty(each.shape) for each in read)  # pyright: ignore[reportReturnType] (four)
