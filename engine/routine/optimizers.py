"""Differentiable optimizers, and which of them a recipe names.

Update equations are those of ``torch.optim``; Adam and RMSprop have ``eps_root`` in addition,
inside the square root, because d sqrt(v) / dv grows without bound towards v = 0. With 0 the update
is torch's own, and where no gradient ever came the root is a constant; see ``_root``.

Each takes ``groups``, ``clip_norm`` and ``clip_value``; see
``engine.routine.optimizer_options.with_options``. A momentum, or any other hyperparameter, may be a
list with one number for each step. ``averaged`` adds an average of the weights, which is evaluated.
"""

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.recipes.optimizer import OptimizerName, OptimizerSettings, ParameterGroup
from engine.routine.muon import muon_matrices
from engine.routine.optimizer import Optimizer, parted
from engine.routine.optimizer_options import OptimizerOptions, averaged, groups_from, with_options
from engine.types import Hyperparameters, State

__all__ = ["OPTIMIZERS", "Optimizer", "adam", "adamw", "averaged", "muon", "rmsprop", "sgd"]

Number = float | Sequence[float]
"""A hyperparameter: one number, or one for each step."""


def sgd(
    momentum: Number = 0.0,
    *,
    nesterov: bool = False,
    weight_decay: Number = 0.0,
    **options: Unpack[OptimizerOptions],
) -> Optimizer:
    """Stochastic gradient descent with momentum and an L2 penalty.

    g' = g + weight_decay * p;  b <- momentum * b + g';
    p <- p - learning_rate * (g' + momentum * b if nesterov else b)

    Args:
        momentum: Decay of the velocity b, in [0, 1); 0 keeps no velocity. Where a list has 0, that
            step moves by g' alone and leaves b as it was, as torch does.
        nesterov: Look ahead along the velocity.
        weight_decay: Coefficient of the L2 penalty.
        **options: groups, clip_norm, clip_value.
    """
    keeps = _any(momentum) or any(
        group.momentum for group in groups_from(options.get("groups", ()))
    )
    pauses = keeps and _pauses(momentum)

    def init(params: Tensor) -> State:
        return {"momentum": torch.zeros_like(params)} if keeps else {}

    def update(
        state: State, gradient: Tensor, hyper: Hyperparameters, _step: int | Tensor
    ) -> State:
        params = state["params"]
        gradient = _penalized(gradient, hyper["weight_decay"], params)
        if not keeps:
            return {"params": _plus(params, gradient, -hyper["learning_rate"])}
        velocity = _plus(gradient, state["momentum"], hyper["momentum"])
        direction = _plus(gradient, velocity, hyper["momentum"]) if nesterov else velocity
        if pauses:
            velocity = _unless_paused(state["momentum"], velocity, hyper["momentum"])
        return {"params": _plus(params, direction, -hyper["learning_rate"]), "momentum": velocity}

    hyper = {"momentum": momentum, "weight_decay": weight_decay}
    made = Optimizer("nesterov" if nesterov else "sgd", hyper, init, update)
    return with_options(made, **options)


def adam(
    betas: tuple[Number, Number] = (0.9, 0.999),
    *,
    eps: float = 1e-8,
    eps_root: float = 1e-8,
    weight_decay: Number = 0.0,
    **options: Unpack[OptimizerOptions],
) -> Optimizer:
    """Adam with an L2 penalty, differentiable where a gradient is zero.

    g' = g + weight_decay * p;  m <- beta1 m + (1 - beta1) g';  v <- beta2 v + (1 - beta2) g'^2;
    p <- p - learning_rate * m_hat / (sqrt(v_hat + eps_root) + eps), hats correct the bias.

    Args:
        betas: Decays of the first and second moment.
        eps: Added outside the square root.
        eps_root: Added inside it; 0 is torch's own Adam. A gradient that moves away from 0 (a dead
            ReLU, a row of an embedding that is seldom used) moves the update by up to
            1 / (sqrt(eps_root) + eps) times as much; 1e-8 to 1e-6 is usual, larger is smoother.
        weight_decay: Coefficient of the L2 penalty.
        **options: groups, clip_norm, clip_value.
    """
    made = _adam("adam", betas, eps, eps_root, weight_decay)
    return with_options(made, **options)


def adamw(
    betas: tuple[Number, Number] = (0.9, 0.999),
    *,
    eps: float = 1e-8,
    eps_root: float = 1e-8,
    weight_decay: Number = 1e-2,
    **options: Unpack[OptimizerOptions],
) -> Optimizer:
    """Adam with decoupled weight decay: p <- p - learning_rate * weight_decay * p, then Adam.

    Args:
        betas: Decays of the first and second moment.
        eps: Added outside the square root.
        eps_root: Added inside it; see ``adam``.
        weight_decay: Decay per unit of learning rate.
        **options: groups, clip_norm, clip_value; no decay of biases and normalizations is
            ``groups=[{"max_axes": 1, "weight_decay": 0}]``.
    """
    made = _adam("adamw", betas, eps, eps_root, weight_decay)
    return with_options(made, **options)


def _adam(
    name: str,
    betas: tuple[Number, Number],
    eps: float,
    eps_root: float,
    weight_decay: Number,
) -> Optimizer:
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise ConfigurationError(
            f"betas of {name} is {betas!r}, but there are two of them: the decays of both moments, "
            f"e.g. engine.{name}((0.9, 0.999)). A learning rate is the routine's learning_rate."
        )

    bare = eps_root == 0

    def init(params: Tensor) -> State:
        return {"exp_avg": torch.zeros_like(params), "exp_avg_sq": torch.zeros_like(params)}

    def update(state: State, gradient: Tensor, hyper: Hyperparameters, step: int | Tensor) -> State:
        params, rate = state["params"], hyper["learning_rate"]
        beta1, beta2 = hyper["beta1"], hyper["beta2"]
        if name == "adamw":
            params = (1 - rate * hyper["weight_decay"]) * params
        else:
            gradient = _penalized(gradient, hyper["weight_decay"], params)
        first = _towards(state["exp_avg"], gradient, 1 - beta1)
        second = _towards(state["exp_avg_sq"], gradient.square(), 1 - beta2)
        # Both hats are numbers, and taken out of the root they cost no pass over the parameters.
        hat = (1 - beta2 ** (step + 1)) ** 0.5
        inside = second + hyper["eps_root"] * hat * hat
        scale = (_root(inside, second) if bare else torch.sqrt(inside)) + hyper["eps"] * hat
        moved = _moved(params, first, scale, rate * hat / (1 - beta1 ** (step + 1)))
        return {"params": moved, "exp_avg": first, "exp_avg_sq": second}

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


def _root(inside: Tensor, second: Tensor) -> Tensor:
    """Return sqrt(inside), with a derivative where no gradient ever came.

    There the second moment is 0, as is everything that the root divides; their quotient is
    g / (O(|g|) + eps), whose derivative at 0 is 1 / eps. So the root is a constant, where autograd
    would make NaN of 0 times infinity. The values are those of the plain root, bit by bit.

    Args:
        inside: The second moment, perhaps without its bias or the square of the mean, (params,).
        second: The second moment, (params,).
    """
    empty = (inside == 0) & (second == 0)
    return torch.where(empty, 0.0, torch.sqrt(torch.where(empty, 1.0, inside)))


def rmsprop(
    alpha: Number = 0.99,
    *,
    momentum: Number = 0.0,
    centered: bool = False,
    eps: float = 1e-8,
    eps_root: float = 1e-8,
    weight_decay: Number = 0.0,
    **options: Unpack[OptimizerOptions],
) -> Optimizer:
    """RMSprop with an L2 penalty, differentiable where a gradient is zero.

    g' = g + weight_decay * p;  v <- alpha v + (1 - alpha) g'^2;  a <- alpha a + (1 - alpha) g';
    d = g' / (sqrt(v - (a^2 if centered else 0) + eps_root) + eps);  b <- momentum * b + d;
    p <- p - learning_rate * b

    Args:
        alpha: Decay of the second moment v.
        momentum: Decay of the velocity b, in [0, 1); 0 keeps no velocity, and in a list leaves it
            for a step, as in ``sgd``.
        centered: Divide by the standard deviation.
        eps: Added outside the square root.
        eps_root: Added inside it; see ``adam``.
        weight_decay: Coefficient of the L2 penalty.
        **options: groups, clip_norm, clip_value.
    """
    keeps = _any(momentum) or any(
        group.momentum for group in groups_from(options.get("groups", ()))
    )
    pauses, bare = keeps and _pauses(momentum), eps_root == 0
    names = ["square_avg", *(["grad_avg"] if centered else []), *(["momentum"] if keeps else [])]

    def init(params: Tensor) -> State:
        return {name: torch.zeros_like(params) for name in names}

    def update(
        state: State, gradient: Tensor, hyper: Hyperparameters, _step: int | Tensor
    ) -> State:
        params, decay = state["params"], hyper["alpha"]
        gradient = _penalized(gradient, hyper["weight_decay"], params)
        square = _towards(state["square_avg"], gradient.square(), 1 - decay)
        following, spread = {"square_avg": square}, square
        if centered:
            mean = _towards(state["grad_avg"], gradient, 1 - decay)
            following["grad_avg"], spread = mean, square - mean * mean
        inside = spread + hyper["eps_root"]
        scale = (_root(inside, square) if bare else torch.sqrt(inside)) + hyper["eps"]
        direction = gradient / scale
        if keeps:
            direction = _plus(direction, state["momentum"], hyper["momentum"])
            following["momentum"] = direction
        if pauses:
            following["momentum"] = _unless_paused(state["momentum"], direction, hyper["momentum"])
        return {"params": _plus(params, direction, -hyper["learning_rate"]), **following}

    hyper = {
        "alpha": alpha,
        "momentum": momentum,
        "eps": eps,
        "eps_root": eps_root,
        "weight_decay": weight_decay,
    }
    made = Optimizer("rmsprop", hyper, init, update)
    return with_options(made, **options)


def muon(  # noqa: PLR0913 (torch's settings)
    momentum: Number = 0.95,
    *,
    nesterov: bool = True,
    weight_decay: Number = 0.1,
    adjust: str = "original",
    ns_steps: int = 5,
    rest: Optimizer | None = None,
    rest_names: Sequence[str] = (),
    **options: Unpack[OptimizerOptions],
) -> Optimizer:
    """Muon for matrices, and another optimizer for the rest; see ``engine.routine.muon``.

    Args:
        momentum: Decay of the averaged gradient, in [0, 1).
        nesterov: Look ahead along it.
        weight_decay: Decoupled decay of the matrices, per unit of learning rate.
        adjust: How the rate depends on a matrix' shape, as torch's ``adjust_lr_fn``.
        ns_steps: Steps of the Newton-Schulz iteration.
        rest: Moves what is no matrix; ``adamw()`` by default. Its hyperparameters and moments have
            names that begin with ``rest_``; a rate of its own is ``groups=[{"rate": 0.1}]`` there.
        rest_names: Patterns of names of matrices that it moves too, e.g. ``("*embed*", "head.*")``.
        **options: groups, clip_norm, clip_value; of all parameters.
    """
    patterns = [ParameterGroup(names=(each,)) for each in rest_names]

    def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2 and not any(each.has(name, shape) for each in patterns)

    matrices = muon_matrices(momentum, nesterov, weight_decay, adjust, ns_steps)
    made = parted("muon", matrices, adamw() if rest is None else rest, is_matrix, rest_names)
    return with_options(made, **options)


def _towards(moment: Tensor, value: Tensor, share: float | Tensor) -> Tensor:
    """Return (1 - share) * moment + share * value, in one pass where ``share`` is a number."""
    if isinstance(share, Tensor):
        return (1 - share) * moment + share * value
    return torch.lerp(moment, value, share)


def _moved(params: Tensor, direction: Tensor, scale: Tensor, rate: float | Tensor) -> Tensor:
    """Return params - rate * direction / scale, in one pass where ``rate`` is a number."""
    if isinstance(rate, Tensor):
        return params - rate * direction / scale
    return torch.addcdiv(params, direction, scale, value=-rate)


def _plus(one: Tensor, other: Tensor, factor: float | Tensor) -> Tensor:
    """Return one + factor * other, in one pass where ``factor`` is a number."""
    if isinstance(factor, Tensor):
        return one + factor * other
    return torch.add(one, other, alpha=factor)


def _penalized(gradient: Tensor, decay: float | Tensor, params: Tensor) -> Tensor:
    """Add an L2 penalty's gradient, if there is one; torch leaves out one of 0, too."""
    if isinstance(decay, int | float) and not decay:
        return gradient
    return _plus(gradient, params, decay)


def _any(number: Number) -> bool:
    if isinstance(number, int | float):
        return bool(number)
    if not isinstance(number, Sequence):
        raise ConfigurationError(
            f"momentum or a decay is {number!r} ({type(number).__name__}). Give one number, or a "
            "list with one for each step."
        )
    return any(number)


def _pauses(momentum: Number) -> bool:
    """Say whether a momentum is 0 at some of the steps only."""
    return isinstance(momentum, Sequence) and any(number == 0 for number in momentum)


def _unless_paused(before: Tensor, after: Tensor, momentum: float | Tensor) -> Tensor:
    """Return the velocity after a step, which torch does not touch where the momentum is 0."""
    if isinstance(momentum, Tensor):
        return torch.where(momentum == 0, before, after)
    return before if momentum == 0 else after


def _sgd(settings: OptimizerSettings) -> Optimizer:
    return sgd(settings.momentum, nesterov=settings.nesterov, **_shared(settings))


def _of_adam(make: Callable[..., Optimizer]) -> Callable[[OptimizerSettings], Optimizer]:
    return lambda settings: make(**_adams(settings), **_shared(settings))


def _rmsprop(settings: OptimizerSettings) -> Optimizer:
    return rmsprop(
        settings.alpha,
        momentum=settings.momentum,
        centered=settings.centered,
        eps=settings.eps,
        eps_root=settings.eps_root,
        **_shared(settings),
    )


def _muon(settings: OptimizerSettings) -> Optimizer:
    groups = [] if settings.rest_rate == 1 else [ParameterGroup(rate=settings.rest_rate)]
    rest = adamw(**_adams(settings), weight_decay=settings.weight_decay, groups=groups)
    return muon(
        settings.momentum,
        nesterov=settings.nesterov,
        rest=rest,
        rest_names=settings.rest,
        **_shared(settings),
    )


def _adams(settings: OptimizerSettings) -> dict[str, Any]:
    betas = (settings.beta1, settings.beta2)
    return {"betas": betas, "eps": settings.eps, "eps_root": settings.eps_root}


def _shared(settings: OptimizerSettings) -> dict[str, Any]:
    names = ("weight_decay", "groups", "clip_norm", "clip_value")
    return {name: getattr(settings, name) for name in names}


OPTIMIZERS: dict[OptimizerName, Callable[[OptimizerSettings], Optimizer]] = {
    OptimizerName.SGD: _sgd,
    OptimizerName.ADAM: _of_adam(adam),
    OptimizerName.ADAMW: _of_adam(adamw),
    OptimizerName.RMSPROP: _rmsprop,
    OptimizerName.MUON: _muon,
}
"""Makes the optimizer of a recipe, by its name."""


def make_optimizer(settings: OptimizerSettings) -> Optimizer:
    """Return the inner optimizer that a recipe asks for."""
    made = OPTIMIZERS[settings.name](settings)
    if settings.ema_decay is None:
        return made
    return averaged(made, settings.ema_decay, start=settings.ema_start)
