"""Maps of gradients: where products pass by them, and that torch is as it was afterwards."""

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_full_backward_hook

import engine
from engine.routine.module.backward.own_derivative import OwnDerivatives
from engine.routine.module.gradient_hooks import hooks_of_gradients
from engine.routine.module.stop_gradient import whole_derivatives
from tests.strangers.mapped_gradients import Adversary, IntoItself, Itself, Reversal
from tests.strangers.plain import data, loss


@pytest.fixture
def values():
    return torch.randn(7, generator=torch.Generator().manual_seed(0)).requires_grad_()


def _by_function(values):
    return Reversal.apply(values, 0.5)


def _by_hook(values):
    values = values.clone()
    values.register_hook(lambda gradient: -0.5 * gradient)
    return values


@pytest.mark.parametrize("mapped", [_by_function, _by_hook])
def test_a_gradient_is_mapped_and_a_product_is_not(mapped, values):
    """The first is what training does, the second is how the value moves."""
    with hooks_of_gradients(), OwnDerivatives():
        found = mapped(values)

    (gradient,) = torch.autograd.grad(found.sum(), values, retain_graph=True)
    with whole_derivatives():
        (product,) = torch.autograd.grad(found.sum(), values)

    assert torch.equal(found, values)
    assert torch.equal(gradient, torch.full((7,), -0.5))
    assert torch.equal(product, torch.ones(7))


@pytest.mark.parametrize("mapped", [_by_function, _by_hook])
def test_outside_of_a_block_torch_does_what_it_did(mapped, values):
    """Also for other derivatives, and after blocks within blocks."""
    with hooks_of_gradients(), OwnDerivatives(), hooks_of_gradients():
        pass
    found = mapped(values)

    with whole_derivatives():
        (product,) = torch.autograd.grad(found.sum(), values)

    assert torch.equal(product, torch.full((7,), -0.5))
    assert torch.Tensor.register_hook.__module__ == "torch._tensor"
    assert "apply" not in vars(torch.autograd.function._SingleLevelFunction)


def test_an_inner_block_leaves_the_outer_one_in_force(values):
    """A loss may call another routine's module."""
    with hooks_of_gradients(), OwnDerivatives():
        with hooks_of_gradients(), OwnDerivatives():
            pass
        found = Itself.apply(_by_hook(values))

    with whole_derivatives():
        (product,) = torch.autograd.grad(found.sum(), values)

    assert torch.equal(product, torch.ones(7))


def test_a_function_that_writes_into_its_input_is_passed_by_too(values):
    """The values before it are copied, at its first call as well."""
    with hooks_of_gradients(), OwnDerivatives():
        found = IntoItself.apply(1 * values)

    with whole_derivatives():
        (product,) = torch.autograd.grad(found.sum(), values)

    assert torch.equal(product, torch.ones(7))


@pytest.mark.parametrize("of_all", [False, True])
def test_hooks_of_modules_are_met_whoever_registers_them_when(values, of_all):
    """A forward pass may give its layers hooks, and all modules of a process may have one."""
    layer = nn.Identity()

    def halved(_module, given, _found):
        return (-0.5 * given[0],)

    with hooks_of_gradients():
        register = (
            register_module_full_backward_hook if of_all else layer.register_full_backward_hook
        )
        handle = register(halved)
        found = layer(1 * values)
        handle.remove()

    (gradient,) = torch.autograd.grad(found.sum(), values, retain_graph=True)
    with whole_derivatives():
        (product,) = torch.autograd.grad(found.sum(), values)

    assert torch.equal(gradient, torch.full((7,), -0.5))
    assert torch.equal(product, torch.ones(7))


def _routine():
    torch.manual_seed(0)
    weights = {"weights": engine.ExampleWeights(torch.ones(24, dtype=torch.float64))}
    columns = tuple(column[:24] for column in data())
    return engine.Routine(
        Adversary(Reversal.apply).double(),
        loss,
        columns,
        engine.adamw(),
        learning_rate=0.05,
        num_steps=6,
        batch_size=8,
        metaparameters=weights,
    )


def _held(model: nn.Module):
    return loss(model, tuple(column[24:] for column in data())).mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"vjp": "batched"}, {"vjp": "auto"}, {"unroll": 3}, {"micro_batch": 3}]
)
def test_several_outputs_are_those_of_one_after_the_other(options):
    """A pass for all of them goes through the same maps."""
    outputs = [_held, lambda model: model(data()[0][:1])[0, 0]]
    routine = _routine()
    wanted = [engine.metagradient(routine, output)["weights"] for output in outputs]

    found = engine.metagradients(routine, outputs, **options)

    for one, other in zip(wanted, found, strict=True):
        assert torch.allclose(other["weights"], one, rtol=1e-10, atol=1e-14)


def test_the_gradient_through_the_whole_run_is_the_same():
    """One graph of all steps, in which each gradient was mapped when it was made."""
    routine = _routine()
    found = engine.metagradient(routine, _held)["weights"]

    _, whole = engine.whole_run_gradient(routine, _held)

    assert torch.allclose(whole["weights"], found, rtol=1e-10, atol=1e-14)
