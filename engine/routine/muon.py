"""Muon: the averaged gradient of a matrix, made orthogonal by Newton and Schulz' iteration.

b <- momentum * b + (1 - momentum) * g;  u = (1 - momentum) * g + momentum * b if nesterov else b;
W <- (1 - learning_rate * weight_decay) W - learning_rate * ratio * orthogonal(u)

The iteration is a polynomial in u, so the derivative is that of its own products; nothing of it is
detached, the norm that it starts from and the decay included. ``torch.optim.Muon`` iterates in
bfloat16, whose rounding no derivative knows; here it has the run's own number format.

References:
    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.routine.layout import Layout
from engine.routine.optimizer import Optimizer, unfitted
from engine.types import Hyperparameters, State

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of X, (X X^T) X and (X X^T)^2 X in one step of the iteration."""

NORM_EPS = 1e-7
"""Smallest norm that a gradient is divided by."""

RATIOS = {
    "original": lambda rows, columns: math.sqrt(max(1, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}
"""Factor on the rate of a matrix, by torch's name for it."""


def muon_matrices(
    momentum: float | Sequence[float],
    nesterov: bool,
    weight_decay: float | Sequence[float],
    adjust: str,
    ns_steps: int,
) -> Optimizer:
    """Return Muon for parameters that are all matrices; see ``engine.routine.optimizers.muon``.

    Raises:
        ConfigurationError: If there is no such factor or iteration.

    Cost:
        15 products of a matrix with itself a step, of its smaller side; as many with their graph
        in the reverse sweep.
    """
    if adjust not in RATIOS:
        raise ConfigurationError(f"adjust is {adjust!r}. Use {' or '.join(map(repr, RATIOS))}.")
    if isinstance(ns_steps, bool) or not isinstance(ns_steps, int) or not 0 < ns_steps < 100:
        raise ConfigurationError(f"ns_steps is {ns_steps!r}. Use 1 to 99, e.g. ns_steps=5.")

    def init(params: Tensor) -> State:
        return {"momentum": torch.zeros_like(params)}

    def fit(layout: Layout, _device: torch.device) -> Optimizer:
        def update(
            state: State, gradient: Tensor, hyper: Hyperparameters, _step: int | Tensor
        ) -> State:
            params, rate, share = state["params"], hyper["learning_rate"], hyper["momentum"]
            mean = share * state["momentum"] + (1 - share) * gradient
            ahead = (1 - share) * gradient + share * mean if nesterov else mean
            views = layout.views(ahead)
            moves = {
                name: RATIOS[adjust](*view.shape) * orthogonal(view, ns_steps)
                for name, view in views.items()
            }
            params = params - rate * hyper["weight_decay"] * params
            return {"params": params - rate * layout.flatten(moves), "momentum": mean}

        return Optimizer("muon", hyper, init, update, recover)

    def recover(state: State, following: State, hyper: Hyperparameters) -> Tensor:
        share = hyper["momentum"]
        return (following["momentum"] - share * state["momentum"]) / (1 - share)

    hyper = {"momentum": momentum, "weight_decay": weight_decay}
    _, update = unfitted("muon")
    return Optimizer("muon", hyper, init, update, fit=fit)


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Return a matrix with the singular vectors of another one, and singular values near 1.

    Args:
        matrix: Shape (rows, columns).
        steps: Number of iterations; five leave the values between about 0.5 and 1.5.
    """
    a, b, c = COEFFICIENTS
    rows, columns = matrix.shape
    found = matrix.T if rows > columns else matrix
    found = found / torch.linalg.vector_norm(found).clamp(min=NORM_EPS)
    for _ in range(steps):
        gram = found @ found.T
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found.T if rows > columns else found
