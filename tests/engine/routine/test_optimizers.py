"""Differentiable optimizers against ``torch.optim`` and against finite differences."""

import pytest
import torch

from engine.routine.optimizers import Optimizer, adam, adamw, rmsprop, sgd

TORCH = {
    "sgd": (sgd(), torch.optim.SGD, {}),
    "decay": (sgd(weight_decay=0.1), torch.optim.SGD, {"weight_decay": 0.1}),
    "momentum": (
        sgd(0.9, weight_decay=0.1),
        torch.optim.SGD,
        {"momentum": 0.9, "weight_decay": 0.1},
    ),
    "nesterov": (
        sgd(0.9, nesterov=True, weight_decay=0.1),
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    "adam": (
        adam((0.8, 0.95), eps_root=0.0, weight_decay=0.1),
        torch.optim.Adam,
        {"betas": (0.8, 0.95), "weight_decay": 0.1},
    ),
    "adamw": (
        adamw((0.8, 0.95), eps_root=0.0, weight_decay=0.3),
        torch.optim.AdamW,
        {"betas": (0.8, 0.95), "weight_decay": 0.3},
    ),
}


def gradient_at(params: torch.Tensor) -> torch.Tensor:
    """Gradient of a smooth function with different curvature along each axis."""
    curvature = torch.linspace(0.5, 3.0, len(params), dtype=params.dtype)
    return curvature * params + torch.sin(params)


def hyper(optimizer: Optimizer, rate: float) -> dict[str, float]:
    return {**optimizer.hyperparameters, "learning_rate": rate}


@pytest.mark.parametrize("name", TORCH)
def test_update_agrees_with_torch_step_by_step(name):
    """Users compare with torch.optim, so every step of a changing rate must agree with it."""
    optimizer, torch_class, settings = TORCH[name]
    start = torch.linspace(-1, 1, 7, dtype=torch.float64)
    theirs = start.clone().requires_grad_()
    reference = torch_class([theirs], lr=1.0, **settings)
    state = {"params": start, **optimizer.init(start)}

    errors = []
    for step in range(12):
        rate = 0.1 / (step + 1)
        theirs.grad = gradient_at(theirs.detach())
        reference.param_groups[0]["lr"] = rate
        reference.step()
        state = optimizer.update(state, gradient_at(state["params"]), hyper(optimizer, rate), step)
        errors.append(float((state["params"] - theirs.detach()).abs().max()))

    assert max(errors) < 1e-14  # a few units in the last place of numbers near 1


@pytest.mark.parametrize("step", [0, 5])
@pytest.mark.parametrize(
    "optimizer",
    [
        sgd(weight_decay=0.3),
        sgd(0.9, weight_decay=0.3),
        sgd(0.9, nesterov=True, weight_decay=0.3),
        adam(eps_root=1e-3, weight_decay=0.3),
        adamw(eps_root=1e-3, weight_decay=0.3),
    ],
    ids=["sgd", "momentum", "nesterov", "adam", "adamw"],
)
def test_vjp_of_update_passes_gradcheck_with_weight_decay(optimizer, step):
    """A detached term, as in a public trainer's decay, would leave out a factor of every step."""
    drawn = torch.Generator().manual_seed(0)
    params, gradient = torch.randn(2, 5, generator=drawn, dtype=torch.float64)
    names = list(optimizer.init(params))
    moments = [torch.rand(5, generator=drawn, dtype=torch.float64) for _ in names]
    scalars = {"learning_rate": 0.1, **optimizer.hyperparameters}
    inputs = [params, gradient, *moments]
    inputs += [torch.tensor(value, dtype=torch.float64) for value in scalars.values()]

    def update(params, gradient, *rest):
        state = {"params": params, **dict(zip(names, rest, strict=False))}
        values = dict(zip(scalars, rest[len(names) :], strict=True))
        return tuple(optimizer.update(state, gradient, values, step).values())

    assert torch.autograd.gradcheck(update, [x.requires_grad_() for x in inputs])


def test_eps_root_keeps_the_derivative_finite_where_a_gradient_is_zero():
    """The slope of sqrt(v) is infinite at v = 0: one dead unit would make everything NaN."""
    optimizer = adam(eps_root=1e-8)
    params = torch.zeros(2, dtype=torch.float64)
    gradient = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    after = optimizer.update(
        {"params": params, **optimizer.init(params)}, gradient, hyper(optimizer, 0.1), 0
    )

    (pulled,) = torch.autograd.grad(after["params"].sum(), gradient)
    assert torch.isfinite(pulled).all()


BARE = {
    "adam": (adam(eps=1e-3, eps_root=0.0), torch.optim.Adam, {}),
    "adamw": (adamw(eps=1e-3, eps_root=0.0), torch.optim.AdamW, {}),
    "rmsprop": (rmsprop(0.9, eps=1e-3, eps_root=0.0), torch.optim.RMSprop, {"alpha": 0.9}),
    "centered": (
        rmsprop(0.9, momentum=0.5, centered=True, eps=1e-3, eps_root=0.0),
        torch.optim.RMSprop,
        {"alpha": 0.9, "momentum": 0.5, "centered": True},
    ),
}
"""Torch's own optimizers, whose square root has nothing inside but the second moment."""


@pytest.mark.parametrize("name", BARE)
def test_bare_root_has_torchs_derivative_where_no_gradient_ever_came(name):
    """Rows of words that no text has, and a gradient that is 0 only at this very point."""
    optimizer, torch_class, settings = BARE[name]
    start = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)

    def gradients(z):
        return [torch.stack([z * c, 0 * z, (z - 1) * c]) for c in (0.3, -0.8, 0.7)]

    def by_torch(z):
        params = start.clone().requires_grad_()
        reference = torch_class([params], lr=0.1, eps=1e-3, **settings)
        for gradient in gradients(torch.tensor(z, dtype=torch.float64)):
            params.grad = gradient
            reference.step()
        return params.detach()

    z = torch.ones((), dtype=torch.float64, requires_grad=True)
    state = {"params": start, **optimizer.init(start)}
    for step, gradient in enumerate(gradients(z)):
        state = optimizer.update(state, gradient, hyper(optimizer, 0.1), step)

    torch.testing.assert_close(state["params"].detach(), by_torch(1.0), rtol=0, atol=1e-15)
    found = [torch.autograd.grad(part, z, retain_graph=True)[0].item() for part in state["params"]]
    # |g| of the last part stays below 1e-9, far below eps, and its error is first order in it.
    small, expected = 1e-9, (by_torch(1 + 1e-5) - by_torch(1 - 1e-5)) / 2e-5
    last = (by_torch(1 + small) - by_torch(1 - small))[2] / (2 * small)
    assert found[:2] == pytest.approx(expected[:2].tolist(), rel=1e-6, abs=1e-9)
    assert found[1] == 0
    assert found[2] == pytest.approx(float(last), rel=1e-5)


def test_update_leaves_its_inputs_alone():
    """A step is replayed from the same state, so an update must not change it in place."""
    optimizer = adamw()
    params = torch.ones(3, dtype=torch.float64)
    state = {"params": params, **optimizer.init(params)}
    before = {name: row.clone() for name, row in state.items()}

    optimizer.update(state, torch.ones(3, dtype=torch.float64), hyper(optimizer, 0.1), 0)

    assert all(torch.equal(state[name], before[name]) for name in before)
