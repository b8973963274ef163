"""A number that is not finite is told as what it is: not as randomness, and not as chaos."""

import math
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from engine import metagradient, sgd
from engine.errors import (
    ConfigurationError,
    EngineError,
    NonFiniteError,
    NonFiniteStartError,
    StoreError,
)
from engine.replay.plain_training import train_unchecked
from engine.routine.optimizers import Optimizer
from engine.step.nonfinite import refuse_nonfinite_adjoint
from tests.helpers.trainings import routines
from tests.helpers.trainings.broken_routines import bare_root

ZERO_AT = 5
"""The example whose inputs, and with them the hidden values, are all 0."""


class Hidden(nn.Module):
    """A network without a bias before ``function``: an input of zeros arrives there as zeros."""

    def __init__(self, function):
        super().__init__()
        self.encode, self.decode = nn.Linear(8, 12, bias=False), nn.Linear(12, 3)
        self.function = function

    def forward(self, inputs):  # noqa: D102
        return self.decode(self.function(self.encode(inputs)))


def routine(function, *, batch_size=routines.NUM_EXAMPLES, zero=True, **changes):
    inputs, labels = routines.examples()
    inputs = inputs.clone()
    if zero:
        inputs[ZERO_AT] = 0.0
    return routines.routine(
        model=routines.seeded_model(lambda: Hidden(function)),
        examples=(inputs, labels),
        batch_size=batch_size,
        num_steps=6,
        **changes,
    )


def log_where(hidden):
    return torch.where(hidden > 0, hidden.log(), torch.zeros_like(hidden))


def root(hidden):
    return hidden * hidden.abs().sqrt()


def power(hidden):
    return hidden.abs().pow(1.5)


def unit(hidden):
    return hidden / (hidden.norm(dim=1, keepdim=True) + 1e-6)


def spread(hidden):
    return hidden / (hidden.std(1, keepdim=True) + 1e-6)


NAN_GRADIENT = {"log": log_where, "sqrt": root}
INFINITE_SECOND = {"pow": power, "vector_norm": unit, "std": spread}
BLAMED = r"two different states|random|chaotic|diverged"


def refusal(run, output=routines.output):
    with pytest.raises(NonFiniteError) as caught:
        metagradient(run, output)
    return str(caught.value)


@pytest.mark.parametrize("operation", NAN_GRADIENT)
def test_nan_gradient_at_step_0_names_the_operation_and_its_line(operation):
    """A NaN is not equal to itself, which was told as randomness and sent people to their seeds."""
    message = refusal(routine(NAN_GRADIENT[operation]))

    assert "loss of step 0 is finite, but its gradient is not, first at 0.encode.weight" in message
    assert operation in message
    assert "test_nonfinite.py" in message
    assert "1e-6" in message
    assert not any(word in message for word in BLAMED.split("|"))


@pytest.mark.parametrize("operation", INFINITE_SECOND)
def test_infinite_second_derivative_at_step_0_names_the_operation(operation):
    """The first derivative is finite, so training goes well and only the metagradient is NaN."""
    message = refusal(routine(INFINITE_SECOND[operation]))

    assert "Step 0 is finite, but its derivative is not" in message
    assert operation in message
    assert not any(word in message for word in BLAMED.split("|"))


def hazards(model, batch):
    """Cox's partial likelihood, which leaves out those that were censored."""
    risk, event = model(batch[0])[:, 0], (batch[1] > 0).double()
    return (torch.logcumsumexp(risk, 0) - risk) * event


def test_operation_whose_way_back_takes_a_logarithm_has_a_remedy_of_its_own():
    """To add a small number inside of it, as for a root, changes nothing; nothing was trained."""
    run = routine(torch.tanh, zero=False, loss=hazards)
    with pytest.raises(NonFiniteStartError, match=r"logcumsumexp .*\.logsumexp\(1\)") as caught:
        metagradient(run, routines.output)
    assert isinstance(caught.value, ConfigurationError)

    def mended(model, batch):
        risk, event = model(batch[0])[:, 0], (batch[1] > 0).double()
        allowed = torch.ones(len(risk), len(risk)).tril().bool()
        among = torch.where(allowed, risk, -torch.inf).logsumexp(1)
        return (among - risk) * event

    z = {"weights": torch.linspace(0.5, 1.5, routines.NUM_EXAMPLES).double()}
    states = [train_unchecked(replace(run, loss=loss), z) for loss in (hazards, mended)]
    torch.testing.assert_close(states[0]["params"], states[1]["params"])
    found = metagradient(replace(run, loss=mended), routines.output)["weights"]
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("operation", INFINITE_SECOND)
def test_infinite_second_derivative_in_a_later_step_is_not_told_as_chaos(operation):
    """Lowering the learning rate, which is what helps against chaos, does nothing here."""
    run = routine(INFINITE_SECOND[operation], batch_size=16)
    (first,) = [t for t in range(6) if ZERO_AT in run.order.batch(t).tolist()]
    assert first > 0  # otherwise this tests step 0 again

    message = refusal(run)

    assert f"when step {first} was reversed" in message
    assert not any(word in message for word in BLAMED.split("|"))


@pytest.mark.parametrize("function", [*NAN_GRADIENT.values(), *INFINITE_SECOND.values()])
def test_the_same_operations_away_from_zero_pass(function):
    """What is refused is the place, not the operation."""
    run = routine(lambda hidden: function(hidden.abs() + 0.1), zero=False)

    assert torch.isfinite(metagradient(run, routines.output)["weights"]).all()


def test_nan_out_of_the_optimizer_is_told_as_the_optimizers():
    """The model and its gradient are innocent, so nobody should look there."""
    plain = sgd()

    def update(state, gradient, hyper, step):
        moved = plain.update(state, gradient, hyper, step)
        return {"params": moved["params"] + (gradient.sum() * 0) / 0}

    optimizer = Optimizer("own", {"weight_decay": 0.0}, plain.init, update)

    message = refusal(routine(torch.tanh, optimizer=optimizer))

    assert "the update of optimizer 'own' makes 'params' infinite or NaN" in message


def test_bare_root_of_an_optimizer_is_told_as_the_optimizers():
    """Of all infinite derivatives this one has a setting that cures it."""
    inputs, labels = routines.examples()
    run = routine(torch.tanh, optimizer=bare_root())
    dark = replace(run, examples=(torch.zeros_like(inputs), labels))

    message = refusal(dark)

    assert "the square root of the optimizer 'bare root' with eps_root=0" in message
    assert "eps_root=1e-8" in message


def test_growth_to_infinity_is_told_as_chaos():
    """Here the learning rate is the cure, and the message says from what to what it grew."""
    norms = {9: 1.0, 8: 1e60, 7: 1e120, 6: math.inf}

    with pytest.raises(NonFiniteError, match=r"from 1.0e\+00 to 1.0e\+120.*lower learning_rate"):
        refuse_nonfinite_adjoint(routine(torch.tanh), norms, 6)


@pytest.mark.parametrize("kind", [NonFiniteError, StoreError])
def test_error_keeps_its_settings_through_a_pickle(kind):
    """Errors cross processes on Dask and Ray; the keys are what the recipe's reader needs."""
    error = kind("Lower learning_rate.", settings=["training.learning_rate"])

    again = pickle.loads(pickle.dumps(error))

    assert isinstance(again, EngineError)
    assert again.in_recipe() == "Lower learning_rate. (In a recipe: training.learning_rate.)"
    assert str(again) == "Lower learning_rate."


def test_nan_output_is_told_apart_from_its_derivative():
    """One is a value to look at, the other a place where a root or a norm is taken at 0."""
    run = routine(torch.tanh, zero=False)

    assert "output of the model is nan" in refusal(run, lambda m: routines.output(m) * math.nan)
    infinite = lambda m: routines.output(m) + (m[0].decode.bias * 0).sum().sqrt()  # noqa: E731
    assert "but its derivative is infinite or NaN" in refusal(run, infinite)
