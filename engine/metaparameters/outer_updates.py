"""Outer updates: how the metaparameters move along the metagradient.

Sign, masked sign and ranked exchange are the paper's and in no library; everything else is
``torch.optim``. An update is a pure function whose state is tensors by name, so it can be stored
between outer steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import NonFiniteError
from engine.numerics.determinism import generator
from engine.recipes.descent import OuterRule, OuterUpdate

OuterState = dict[str, Tensor]
"""What an update remembers from one outer step to the next: vectors by name."""

Move = Callable[[Tensor, Tensor, OuterState, int], tuple[Tensor, OuterState]]


@dataclass(frozen=True)
class Outer:
    """Moves a metaparameter downhill: maps (value, metagradient, state, outer step) to the next."""

    move: Move

    def __call__(
        self, value: Tensor, gradient: Tensor, state: OuterState, step: int
    ) -> tuple[Tensor, OuterState]:
        """Return the moved value, not yet projected, and the update's next state.

        Raises:
            NonFiniteError: If the metagradient is not finite.
        """
        if not torch.isfinite(gradient).all():
            raise NonFiniteError(
                f"The metagradient of outer step {step} is not finite, so there is no direction "
                "to move in. Lower training.learning_rate or raise optimizer.eps_root."
            )
        return self.move(value, gradient, state, step)


def sign_update(step_size: float, *, decay: float = 1.0) -> Outer:
    """Move every coordinate by the step size against the sign of its metagradient.

    z <- z - step_size * decay^n * sign(g)
    """

    def move(
        value: Tensor, gradient: Tensor, state: OuterState, step: int
    ) -> tuple[Tensor, OuterState]:
        return value - step_size * decay**step * gradient.sign().to(value), state

    return Outer(move)


def masked_sign_update(
    step_size: float, probability: float, *, decay: float = 1.0, seed: int = 0
) -> Outer:
    """Move each coordinate with probability p by a sign step: block-coordinate descent.

    c <- c - step_size * decay^n * sign(g) * m with m ~ Bernoulli(p). All coordinates moving at once
    would overshoot, since each sign is right only while the others stay.

    References:
        Engstrom et al. 2025, arXiv:2503.13751, Algorithm 1, line of the update.
    """

    def move(
        value: Tensor, gradient: Tensor, state: OuterState, step: int
    ) -> tuple[Tensor, OuterState]:
        drawn = torch.rand(value.shape, generator=generator(seed, "mask", step))
        mask = (drawn < probability).to(value)
        return value - step_size * decay**step * gradient.sign().to(value) * mask, state

    return Outer(move)


def exchange_update(
    share: float,
    probability: float = 1.0,
    *,
    decay: float = 1.0,
    seed: int = 0,
    max_count: int | None = None,
) -> Outer:
    """Replace the examples that hurt most by those that would help most; their number stays.

    Among a random shard of the candidates, those with the highest metagradient lose a use and those
    with the lowest gain one, pair by pair, while the one that gains is better.

    Args:
        share: Largest share of the uses that is replaced.
        probability: Share of the candidates in the shard.
        decay: Factor on the share after every outer step.
        seed: Seed of the shard.
        max_count: Uses that one candidate may have; 1 keeps a subset.

    References:
        Engstrom et al. 2025, arXiv:2503.13751, data selection with a fixed budget (CLIP).
    """

    def move(
        value: Tensor, gradient: Tensor, state: OuterState, step: int
    ) -> tuple[Tensor, OuterState]:
        shard = torch.rand(value.shape, generator=generator(seed, "shard", step)) < probability
        room = shard if max_count is None else shard & (value < max_count)
        worst = _ranked(-gradient, shard & (value > 0))
        best = _ranked(gradient, room)
        most = round(share * decay**step * float(value.sum()))
        number = min(max(most, 1), len(worst), len(best))
        worst, best = worst[:number], best[:number]
        # The order is strict along both lists, so no candidate is in both parts that are kept.
        better = gradient[best] < gradient[worst]
        moved = value.clone()
        moved[worst[better]] -= 1
        moved[best[better]] += 1
        return moved, state

    return Outer(move)


def _ranked(scores: Tensor, allowed: Tensor) -> Tensor:
    """Return the allowed positions, the lowest score first; stable, so ties fall one way."""
    order = torch.argsort(scores, stable=True)
    return order[allowed[order]]


def torch_update(name: str, step_size: float, *, decay: float = 1.0) -> Outer:
    """Move by any optimizer of ``torch.optim`` with its default settings.

    Args:
        name: Name of the optimizer's class, e.g. ``"Adam"``.
        step_size: Learning rate of the optimizer.
        decay: Factor on the learning rate after every outer step.
    """

    def move(
        value: Tensor, gradient: Tensor, state: OuterState, step: int
    ) -> tuple[Tensor, OuterState]:
        parameter = value.detach().clone().requires_grad_()
        parameter.grad = gradient.to(value)
        optimizer = getattr(torch.optim, name)([parameter], lr=step_size * decay**step)
        for key, row in state.items():
            # Rows of a store are vectors; counters and the like are scalars to torch.
            shape = value.shape if row.numel() == value.numel() else ()
            optimizer.state[parameter][key] = row.clone().reshape(shape)
        optimizer.step()
        kept = optimizer.state[parameter].items()
        return parameter.detach(), {k: v.reshape(-1) for k, v in kept if isinstance(v, Tensor)}

    return Outer(move)


def make_outer(settings: OuterRule) -> Outer:
    """Return the update that a recipe asks for."""
    decay = settings.step_decay
    if settings.update is OuterUpdate.SIGN:
        return sign_update(settings.step_size, decay=decay)
    if settings.update is OuterUpdate.MASKED_SIGN:
        return masked_sign_update(
            settings.step_size, settings.probability, decay=decay, seed=settings.seed
        )
    if settings.update is OuterUpdate.RANKED_EXCHANGE:
        return exchange_update(
            settings.step_size,
            settings.probability,
            decay=decay,
            seed=settings.seed,
            max_count=settings.max_count,
        )
    return torch_update(settings.update.value, settings.step_size, decay=decay)
