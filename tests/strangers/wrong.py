"""Strangers' runs that gave a wrong number in silence, or would: each has to be refused by name.

``REFUSED`` maps a name to a run and to words that the message has to hold.
"""

import random
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, distributions, nn
from torch.nn import functional as F

from tests.strangers import (
    frozen_parts,
    held_constant,
    inner_training,
    kept_of_forward,
    mapped_gradients,
    modes,
    own_backward,
    sound_more,
    wrong_by_little,
    wrong_later,
    wrong_outputs,
)
from tests.strangers.plain import NUM_EXAMPLES, Variant, data, loss, mlp
from tests.strangers.sound import Words, hooked, token_data
from tests.strangers.wrong_parts import (
    Counting,
    HalfSquare,
    Holder,
    ModeDependent,
    SparseWeights,
    Through,
    bootstrapped,
    detached,
    focal,
    follower,
    noisy,
    penalties,
    per_batch_scale,
    quantized,
    queue,
    siamese,
    trained_outside,
)

Refused = tuple[Variant, str]


_HELD = tuple(column[NUM_EXAMPLES:] for column in data())


ELSEWHERE = r"reads|besides the module|does not depend|has no part"


STATE = (
    r"Two calls|run twice|changes|two different|outside|a counter or a cache|earlier call has left"
)


SECOND = r"second derivative|differentiated twice"


STATISTICS = r"running statistic|rules of its own"


def _positive(logits: Tensor) -> Tensor:
    return F.softplus(logits) + 0.5


SAMPLED_BY_REJECTION: dict[str, Callable[[Tensor], Tensor]] = {
    "Gamma": lambda o: distributions.Gamma(_positive(o), 1.0).rsample(),
    "Beta": lambda o: distributions.Beta(_positive(o), _positive(-o)).rsample(),
    "Dirichlet": lambda o: distributions.Dirichlet(_positive(o)).rsample(),
    "StudentT": lambda o: distributions.StudentT(_positive(o) + 2, o).rsample(),
}


def _sampled(sampled: Callable[[Tensor], Tensor]) -> Variant:
    def own(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return loss(net, batch) + 0.3 * sampled(net(batch[0])).square().mean(1)

    return Variant(mlp, loss=lambda _: own, output=lambda _: lambda net: loss(net, _HELD).mean())


def _own_noise() -> nn.Module:
    drawn = torch.Generator().manual_seed(0)

    def noisy(gradient: Tensor) -> Tensor:
        return gradient + 0.01 * torch.randn(gradient.shape, generator=drawn, dtype=gradient.dtype)

    return hooked(noisy)


def _refused() -> dict[str, Refused]:
    found: dict[str, Refused] = {}
    for name, penalty in penalties().items():
        found[f"outer penalty: {name}"] = (
            Variant(mlp, loss=lambda m, p=penalty: lambda net, b: loss(net, b) + 0.05 * p(m)),
            ELSEWHERE,
        )
        found[f"outer penalty in the output: {name}"] = (
            Variant(mlp, output=lambda m, p=penalty: lambda net: loss(net, _HELD).mean() + p(m)),
            ELSEWHERE,
        )
    for name, factor in detached().items():
        found[f"constant from the outer module: {name}"] = (
            Variant(mlp, loss=lambda m, f=factor: lambda net, b: loss(net, b) * f(m)),
            ELSEWHERE,
        )
        found[f"constant from the outer module in the output: {name}"] = (
            Variant(mlp, output=lambda m, f=factor: lambda net: loss(net, _HELD).mean() * f(m)),
            ELSEWHERE,
        )
    for name, (held, read) in trained_outside().items():
        found[f"trained outside: {name}"] = (
            Variant(
                mlp,
                loss=lambda _, h=held, r=read: (
                    lambda net, b: F.cross_entropy(net(b[0]) @ r(h), b[1], reduction="none")
                ),
            ),
            ELSEWHERE,
        )
    containers: dict[str, tuple[Callable, Callable]] = {
        "a list": (lambda p: [p], lambda kept: kept[0]),
        "a tuple": (lambda p: (p, 1), lambda kept: kept[0]),
        "a dictionary": (lambda p: {"w": p}, lambda kept: kept["w"]),
        "an object": (lambda p: SimpleNamespace(p=p), lambda kept: kept.p),
        "a closure": (lambda p: lambda: p, lambda kept: kept()),
        "a view in a list": (lambda p: [p.T], lambda kept: kept[0]),
    }
    for name, (keep, read) in containers.items():
        found[f"a parameter in {name}"] = (
            Variant(lambda k=keep, r=read: Holder(k, r).double()),
            ELSEWHERE,
        )
        if name == "a view in a list":
            continue  # detached, it is the constant that it was when the module was made
        found[f"a detached parameter in {name}"] = (
            Variant(lambda k=keep, r=read: Holder(k, lambda kept, r=r: r(kept).detach()).double()),
            ELSEWHERE,
        )
    found["teacher outside"] = (Variant(mlp, loss=follower), STATE)
    found["queue outside"] = (Variant(mlp, loss=lambda _: queue()), STATE)
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "a backward pass with a constant": HalfSquare.apply,
        "straight-through by detach": quantized,
        "detached factor": lambda hidden: hidden * hidden.detach(),
        "detached norm": lambda hidden: hidden / hidden.detach().norm(dim=1, keepdim=True),
        "mask by .data": lambda hidden: hidden * hidden.data.sigmoid(),
    }
    for name, change in changes.items():
        found[f"second derivative: {name}"] = (
            Variant(lambda c=change: Through(c).double()),
            SECOND,
        )
    found["gradients scaled by frequency"] = (
        Variant(lambda: Words(scale_grad_by_freq=True).double(), examples=token_data),
        r"scale_grad_by_freq",
    )
    found["embedding with max_norm"] = (
        Variant(lambda: Words(max_norm=0.5).double(), examples=token_data),
        r"in place|max_norm",
    )
    losses: dict[str, Callable] = {
        "focal": focal,
        "bootstrapped": bootstrapped,
        "siamese": siamese,
        "scaled by its batch": per_batch_scale,
    }
    for name, own in losses.items():
        found[f"detach in the loss: {name}"] = (Variant(mlp, loss=lambda _, o=own: o), SECOND)
    for how in ("warm-up", "momentum", "every other call"):
        found[f"a loss that counts: {how}"] = (
            Variant(mlp, loss=lambda _, h=how: Counting(h)),
            STATE,
        )
    draws = {"random": random.random, "numpy": lambda: float(np.random.standard_normal())}
    for name, draw in draws.items():
        found[f"noise of {name} in the loss"] = (
            Variant(
                mlp,
                loss=lambda _, d=draw: lambda net, b: noisy(net, b, d),
                output=lambda _: lambda net: loss(net, _HELD).mean(),
            ),
            wrong_by_little.DRAWS,
        )
        found[f"noise of {name} in the output"] = (
            Variant(mlp, output=lambda _, d=draw: lambda net: noisy(net, _HELD, d).mean()),
            wrong_by_little.DRAWS,
        )
    for by_switch in (True, False):
        found[f"another function without a graph ({by_switch})"] = (
            Variant(lambda s=by_switch: ModeDependent(s)),
            r"with gradients enabled and .* without",
        )
    for name, sampled in SAMPLED_BY_REJECTION.items():
        found[f"samples by rejection: {name}"] = (
            _sampled(sampled),
            r"drawn by rejection.*Kumaraswamy for Beta.*It is called at .*wrong\.py",
        )
    found["hook that draws from a generator of its own"] = (
        Variant(_own_noise),
        r"hook on the parameter of 0.weight.*Draw from torch's global generator",
    )
    found["learned numbers of a sparse matrix"] = (
        Variant(lambda: SparseWeights().double()),
        r"sparse_coo_tensor\(\) of what is learned.* at .*wrong_parts\.py",
    )
    found["hook after accumulation"] = (Variant(_post_accumulated), r"post_accumulate")
    found["output of the outer module"] = (
        Variant(mlp, output=lambda m: lambda _: loss(m, _HELD).mean()),
        ELSEWHERE,
    )
    found["loss of the outer module"] = (
        Variant(
            mlp,
            loss=lambda m: lambda _, b: loss(m, b),
            output=lambda _: lambda net: loss(net, _HELD).mean(),
        ),
        ELSEWHERE,
    )
    found["half of the loss of the outer module"] = (
        Variant(mlp, loss=lambda m: lambda net, b: loss(net, b) + 0.5 * loss(m, b)),
        ELSEWHERE,
    )
    for dtype in (torch.bfloat16, torch.float16):
        found[f"low precision inside: {dtype}"] = (
            Variant(mlp, loss=lambda _, d=dtype: lambda net, b: _low(net, b, d)),
            r"precision|bfloat16|float16|half",
        )
    return found


def _low(net: nn.Module, batch: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
    logits = net(batch[0]).to(dtype)
    return F.cross_entropy(logits, batch[1], reduction="none")


def _post_accumulated() -> nn.Module:
    net = mlp()
    net[0].weight.register_post_accumulate_grad_hook(lambda p: p.grad.mul_(0.5))
    return net


REFUSED = {
    **_refused(),
    **wrong_outputs.REFUSED,
    **modes.REFUSED,
    **held_constant.REFUSED,
    **own_backward.REFUSED,
    **sound_more.REFUSED,
    **kept_of_forward.REFUSED,
    **mapped_gradients.REFUSED,
    **wrong_by_little.REFUSED,
    **wrong_later.REFUSED,
    **inner_training.REFUSED,
    **frozen_parts.REFUSED,
}
