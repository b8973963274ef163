"""Outer updates: how the metaparameters move along the metagradient.

Sign and masked sign are the paper's and in no library; everything else is ``torch.optim``. An
update is a pure function whose state is tensors by name, so it can be stored between outer steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.config import OuterConfig, OuterUpdate
from engine.determinism import generator
from engine.errors import NonFiniteError

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


def torch_update(name: str, step_size: float, *, decay: float = 1.0) -> Outer:
    """Move by any optimizer of ``torch.optim`` with its default settings.

    Args:
        name: Its class name, e.g. ``"Adam"``.
        step_size: Its learning rate.
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


def make_outer(config: OuterConfig) -> Outer:
    """Return the update that a recipe asks for."""
    decay = config.step_decay
    if config.update is OuterUpdate.SIGN:
        return sign_update(config.step_size, decay=decay)
    if config.update is OuterUpdate.MASKED_SIGN:
        return masked_sign_update(
            config.step_size, config.probability, decay=decay, seed=config.seed
        )
    return torch_update(config.update.value, config.step_size, decay=decay)
