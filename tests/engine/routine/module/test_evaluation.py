"""What is evaluated without a graph, and takes derivatives of its own, gets one."""

import pytest
import torch
from torch import nn

import engine


class Line(nn.Module):
    """A line, and a bend."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 1)

    def forward(self, x):
        """Return one number for each row."""
        return self.line(x).tanh()


def by_inputs(model, x):
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return slope.square().sum(dim=1)


def by_parameters(model, x):
    (slope,) = torch.autograd.grad(model(x).sum(), model.line.weight, create_graph=True)
    return slope.square().sum() + model(x)[:, 0]


def make(loss):
    torch.manual_seed(0)
    x = torch.randn(12, 2)
    return engine.Routine(
        model=Line(),
        loss=lambda model, batch: loss(model, batch[0]),
        examples=(x,),
        optimizer=engine.sgd(),
        learning_rate=0.1,
        batch_size=4,
        num_steps=3,
    ), x


@pytest.mark.parametrize("loss", [by_inputs, by_parameters])
def test_inner_derivatives_are_taken_where_no_graph_is_wanted(loss):
    """A loss that differentiates by its inputs is also asked for a score."""
    routine, x = make(loss)
    state = engine.train(routine)

    with torch.no_grad():
        found = routine.evaluate(lambda model: {"losses": loss(model, x)}, state)

    wanted = loss(routine.model_at(state), x)
    torch.testing.assert_close(found["losses"], wanted.detach())
    assert not found["losses"].requires_grad


def test_what_calls_numpy_beside_an_inner_derivative_still_may():
    """A second try with a graph must not hand numpy a tensor that has one."""
    routine, x = make(by_inputs)
    state = engine.train(routine)

    with torch.no_grad():
        found = routine.evaluate(
            lambda model: (by_inputs(model, x).sum(), model(x).numpy().mean()), state
        )

    assert found[1] == pytest.approx(float(routine.model_at(state)(x).detach().mean()))


def test_other_failures_are_told_as_they_are():
    """A second try must not take the place of the error that people have to see."""
    routine, x = make(by_inputs)
    state = engine.train(routine)

    with torch.no_grad(), pytest.raises(RuntimeError, match="mat1 and mat2"):
        routine.evaluate(lambda model: model(x[:, :1]), state)
