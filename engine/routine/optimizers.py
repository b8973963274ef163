"""Differentiable optimizers: pure functions on flat vectors.

``init`` makes the moments, ``update`` maps (state, gradient, hyperparameters, step) to the next
state. Nothing is hidden, in place or detached, so the vector-Jacobian product of an update is
torch's own. Hyperparameters are arguments of every update: each may be a number or a tensor that
is being differentiated.

Update equations are those of ``torch.optim``; Adam has ``eps_root`` in addition, inside the
square root, because d sqrt(v) / dv is infinite at v = 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.types import Hyperparameters, State


@dataclass(frozen=True)
class Optimizer:
    """An optimizer as a pair of pure functions.

    Attributes:
        name: For people and digests.
        hyperparameters: Defaults of what ``update`` reads besides ``learning_rate``.
        init: Maps params, shape (params,), to the moments at step 0, each of shape (params,).
        update: Maps (state, gradient, hyperparameters, step) to the next state. ``state`` holds
            ``params`` and the moments; ``hyperparameters`` holds ``learning_rate`` as well;
            ``step`` counts from 0; in a compiled step it is a scalar tensor. Must be pure and
            differentiable in all but ``step``.
        recover: Optional; maps (state, next state, hyperparameters) to the gradient that led from
            one to the other, to rounding. It saves ``forward-over-reverse`` a pass; SGD needs
            none, because its update is linear in the gradient.
    """

    name: str
    hyperparameters: dict[str, float]
    init: Callable[[Tensor], State]
    update: Callable[[State, Tensor, Hyperparameters, int | Tensor], State]
    recover: Callable[[State, State, Hyperparameters], Tensor] | None = None


def sgd(momentum: float = 0.0, *, nesterov: bool = False, weight_decay: float = 0.0) -> Optimizer:
    """Stochastic gradient descent with momentum and an L2 penalty.

    g' = g + weight_decay * p;  b <- momentum * b + g';
    p <- p - learning_rate * (g' + momentum * b if nesterov else b)

    Args:
        momentum: Decay of the velocity b, in [0, 1); 0 keeps no velocity.
        nesterov: Look ahead along the velocity.
        weight_decay: Coefficient of the L2 penalty.
    """

    def init(params: Tensor) -> State:
        return {"momentum": torch.zeros_like(params)} if momentum else {}

    def update(state: State, gradient: Tensor, hyper: Hyperparameters, step: int | Tensor) -> State:
        del step
        params = state["params"]
        gradient = gradient + hyper["weight_decay"] * params
        if not momentum:
            return {"params": params - hyper["learning_rate"] * gradient}
        velocity = hyper["momentum"] * state["momentum"] + gradient
        direction = gradient + hyper["momentum"] * velocity if nesterov else velocity
        return {"params": params - hyper["learning_rate"] * direction, "momentum": velocity}

    name = "nesterov" if nesterov else "sgd"
    return Optimizer(name, {"momentum": momentum, "weight_decay": weight_decay}, init, update)


def adam(
    betas: tuple[float, float] = (0.9, 0.999),
    *,
    eps: float = 1e-8,
    eps_root: float = 1e-8,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Adam with an L2 penalty, differentiable where a gradient is zero.

    g' = g + weight_decay * p;  m <- beta1 m + (1 - beta1) g';  v <- beta2 v + (1 - beta2) g'^2;
    p <- p - learning_rate * m_hat / (sqrt(v_hat + eps_root) + eps), hats correct the bias.

    Args:
        betas: Decays of the first and second moment.
        eps: Added outside the square root.
        eps_root: Added inside it. With 0 the metagradient is infinite or NaN as soon as one
            parameter has had no gradient (dead ReLU, unused embedding row); 1e-8 to 1e-6 is
            usual, larger is smoother.
        weight_decay: Coefficient of the L2 penalty.
    """
    return _adam("adam", betas, eps, eps_root, weight_decay)


def adamw(
    betas: tuple[float, float] = (0.9, 0.999),
    *,
    eps: float = 1e-8,
    eps_root: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Optimizer:
    """Adam with decoupled weight decay: p <- p - learning_rate * weight_decay * p, then Adam.

    Args:
        betas: Decays of the first and second moment.
        eps: Added outside the square root.
        eps_root: Added inside it; see ``adam``.
        weight_decay: Decay per unit of learning rate.
    """
    return _adam("adamw", betas, eps, eps_root, weight_decay)


def _adam(
    name: str, betas: tuple[float, float], eps: float, eps_root: float, weight_decay: float
) -> Optimizer:
    def init(params: Tensor) -> State:
        return {"exp_avg": torch.zeros_like(params), "exp_avg_sq": torch.zeros_like(params)}

    def update(state: State, gradient: Tensor, hyper: Hyperparameters, step: int | Tensor) -> State:
        params, rate = state["params"], hyper["learning_rate"]
        beta1, beta2 = hyper["beta1"], hyper["beta2"]
        if name == "adamw":
            params = params - rate * hyper["weight_decay"] * params
        else:
            gradient = gradient + hyper["weight_decay"] * params
        first = beta1 * state["exp_avg"] + (1 - beta1) * gradient
        second = beta2 * state["exp_avg_sq"] + (1 - beta2) * gradient * gradient
        second_hat = second / (1 - beta2 ** (step + 1))
        scale = torch.sqrt(second_hat + hyper["eps_root"]) + hyper["eps"]
        params = params - (rate / (1 - beta1 ** (step + 1))) * first / scale
        return {"params": params, "exp_avg": first, "exp_avg_sq": second}

    def recover(state: State, following: State, hyper: Hyperparameters) -> Tensor:
        beta1 = hyper["beta1"]
        gradient = (following["exp_avg"] - beta1 * state["exp_avg"]) / (1 - beta1)
        return gradient if name == "adamw" else gradient - hyper["weight_decay"] * state["params"]

    hyper = {
        "beta1": betas[0],
        "beta2": betas[1],
        "eps": eps,
        "eps_root": eps_root,
        "weight_decay": weight_decay,
    }
    return Optimizer(name, hyper, init, update, recover)
