"""The references, against derivatives that are known by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from engine import (
    ExampleWeights,
    Metaparameter,
    Routine,
    central_difference,
    evaluate,
    metagradient,
    train,
    whole_run_gradient,
)
from engine.errors import ConfigurationError, NonFiniteError, WitnessError
from engine.preflight.oracle import central_differences
from engine.routine.optimizers import sgd
from tests.helpers.trainings import problems, routines

INPUTS = torch.tensor([[1.0], [2.0], [-1.0]], dtype=torch.float64)
RATE, START = 0.1, 0.7


def weight(model):
    """The output: the one trained number itself."""
    return model.weight.sum()


def scalar_run(num_steps):
    """Run w <- w - rate * w * sum_i z_i x_i^2 / 3 on three examples: w_T = w_0 (1 - rate c)^T."""
    net = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(net.weight, START)
    return Routine(
        model=net,
        loss=lambda model, batch: model(batch[0]).squeeze(1) ** 2 / 2,
        examples=(INPUTS,),
        optimizer=sgd(),
        learning_rate=RATE,
        num_steps=num_steps,
        batch_size=3,
        metaparameters={"weights": ExampleWeights(torch.ones(3, dtype=torch.float64))},
    )


def by_hand(num_steps):
    """Return d w_T / d z_i = -w_0 T (1 - rate c)^(T - 1) rate x_i^2 / 3, c = sum_i x_i^2 / 3."""
    squares = INPUTS.squeeze(1) ** 2
    curvature = float(squares.sum()) / 3
    shrink = (1 - RATE * curvature) ** (num_steps - 1)
    return -START * num_steps * shrink * RATE * squares / 3


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_all_three_ways_give_the_derivative_by_hand(num_steps):
    """A linear recursion can be differentiated on paper, so no code is trusted here."""
    routine, expected = scalar_run(num_steps), by_hand(num_steps)
    unit = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)

    _, unrolled = whole_run_gradient(routine, weight)
    replayed = metagradient(routine, weight)["weights"]
    estimate = central_difference(routine, weight, {"weights": unit})

    assert unrolled["weights"].tolist() == pytest.approx(expected.tolist(), rel=1e-13)
    assert replayed.tolist() == pytest.approx(expected.tolist(), rel=1e-13)
    assert estimate == pytest.approx(float(expected[1]), rel=1e-9)  # eps / h and h^2


def test_truncation_error_falls_with_the_square_of_the_step():
    """Halving h must quarter the error; one-sided differences would only halve it."""
    direction = {"weights": torch.ones(3, dtype=torch.float64)}
    exact = float(by_hand(5).sum())

    errors = [
        central_difference(scalar_run(5), weight, direction, step_size=h) - exact
        for h in (0.2, 0.1)
    ]

    assert errors[0] / errors[1] == pytest.approx(4, rel=0.01)


def test_difference_moves_the_named_metaparameters_only():
    """With several kinds in a run, each is compared by itself."""
    routine = problems.routine("momentum", "all")
    rates = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    expected = float((metagradient(routine, problems.output)["rates"] * rates).sum())

    estimate = central_difference(routine, problems.output, {"rates": rates})

    assert estimate == pytest.approx(expected, rel=1e-5)


def test_training_at_another_z_is_training_the_routine_there():
    """``central_difference`` and the planner train at z without making a routine for each."""
    routine = problems.routine("adamw", "weights")
    other = torch.linspace(0, 2, 12, dtype=torch.float64)

    found = train(routine, {"weights": other})

    expected = train(routine.with_metaparameters({"weights": other}))
    assert torch.equal(found["params"], expected["params"])
    assert not torch.equal(found["params"], train(routine)["params"])


def test_oracles_and_metagradient_speak_of_the_same_run():
    """Their derivatives can only be compared if their outputs are those of one trained model."""
    routine = problems.routine("adamw", "all")

    value, _ = whole_run_gradient(routine, problems.output)

    assert torch.equal(
        metagradient(routine, problems.output).state["params"], train(routine)["params"]
    )
    assert float(evaluate(routine, train(routine), problems.output)) == pytest.approx(
        float(value), rel=1e-14
    )


def test_evaluation_keeps_no_graph():
    """It is called after trainings that may be many."""
    routine = problems.routine()

    assert not evaluate(routine, routine.initial_state(), problems.output).requires_grad


def test_diverging_training_names_its_step():
    """A NaN that an oracle returned would be compared with, and equal nothing."""
    routine = problems.routine("sgd", learning_rate=[0.05] * 2 + [1e200] + [0.05] * 6)

    with pytest.raises(NonFiniteError, match="in step 3"):
        train(routine)


def test_optimizer_hyperparameters_can_be_differentiated():
    """Weight decay and momentum as metaparameters of one's own, by all three ways."""

    class Hyper(Metaparameter):
        def hyperparameters(self, z, step):
            return {"weight_decay": z[0], "momentum": z[1]}

    values = torch.tensor([0.2, 0.8], dtype=torch.float64)
    routine = problems.routine("momentum", metaparameters={"hyper": Hyper(values)})
    direction = torch.tensor([1.0, -2.0], dtype=torch.float64)

    found = metagradient(routine, problems.output)["hyper"]

    _, unrolled = whole_run_gradient(routine, problems.output)
    estimate = central_difference(routine, problems.output, {"hyper": direction})
    assert found.tolist() == pytest.approx(unrolled["hyper"].tolist(), rel=1e-12)
    assert float(found @ direction) == pytest.approx(estimate, rel=1e-6)


@pytest.mark.parametrize(
    ("direction", "remedy"),
    [({}, "along none of them"), ({"typo": torch.ones(3)}, "Use their names")],
    ids=["empty", "unknown"],
)
def test_central_difference_along_nothing_is_refused(direction, remedy):
    """A direction that moves no metaparameter gave 0.0, which looks like a derivative."""
    with pytest.raises(ConfigurationError, match=remedy):
        central_difference(problems.routine(), problems.output, direction)


def equation(model, batch):
    """The residual of u'' = -u at points, which differentiates the model by its inputs."""
    points = batch[0].clone().requires_grad_()
    value = model(points)
    (slope,) = torch.autograd.grad(value.sum(), points, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), points, create_graph=True)
    return ((bend + value) ** 2).squeeze(1)


@pytest.mark.parametrize("kind", ["weights", "counts"])
def test_equations_that_differentiate_by_inputs_are_trained_and_differenced(kind):
    """Physics-informed networks take gradients inside of loss and output, also in evaluation."""
    points = torch.linspace(0, 2, 12, dtype=torch.float64)[:, None]
    run = problems.routine("sgd", kind, model=routines.seeded_model(
        lambda: nn.Linear(1, 8), nn.Tanh, lambda: nn.Linear(8, 1)), examples=(points, points),
        loss=equation)  # fmt: skip
    output = lambda model: equation(model, (points + 0.1, points)).mean()  # noqa: E731
    (name,) = run.metaparameters
    direction = torch.randn(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    found = metagradient(run, output)
    estimate = central_difference(run, output, {name: direction})

    assert float(found[name] @ direction) == pytest.approx(estimate, rel=1e-6)
    assert float(evaluate(run, found.state, output)) == found.output
    assert not evaluate(run, found.state, output).requires_grad


def test_a_difference_of_a_float32_run_is_taken_in_float64_with_the_runs_own_dropout():
    """In float32 it was 5 % off at its default distance; other units would be another run."""
    run = routines.single(model=routines.mlp(nn.GELU, lambda: nn.Dropout(0.3), dtype=torch.float32))
    drawn = torch.Generator().manual_seed(2)
    direction = torch.randn(routines.NUM_EXAMPLES, generator=drawn)

    found = float(metagradient(run, routines.output)["weights"] @ direction)
    estimate = central_difference(run, routines.output, {"weights": direction})

    assert found == pytest.approx(estimate, rel=1e-4)


def unit_vectors():
    """Return a direction for each weight, and one along which nothing moves."""
    return [{"weights": row} for row in (*torch.eye(3, dtype=torch.float64), torch.zeros(3))]


def test_differences_of_runs_trained_together_are_the_derivative_by_hand():
    """Three that move one weight, and one along which nothing moves."""
    found = central_differences(scalar_run(5), weight, unit_vectors(), 1e-5)

    assert found is not None
    expected = [*by_hand(5).tolist(), 0.0]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_differences_in_parts_are_those_in_one(monkeypatch):
    """What a processor's cache holds says how many runs go together, and nothing else."""
    at_once = central_differences(scalar_run(5), weight, 4 * unit_vectors(), 1e-5)
    monkeypatch.setattr("engine.preflight.oracle.at_once", lambda _: 10)

    in_parts = central_differences(scalar_run(5), weight, 4 * unit_vectors(), 1e-5)

    assert in_parts == pytest.approx(at_once, rel=1e-9, abs=1e-10)


def test_runs_that_cannot_be_trained_together_have_no_differences():
    """A loss that reads a number out of a prediction goes the way of the loop."""
    run = scalar_run(5)

    def loss(model, batch):
        found = model(batch[0]).squeeze(1)
        return found**2 * found.max().item()

    read = replace(run, loss=loss)

    assert central_differences(read, weight, unit_vectors(), 1e-5) is None
    assert central_differences(run, weight, unit_vectors()[:1], 1e-5) is None


class _Again(torch.autograd.Function):
    """Keeps nothing of a block and computes it again in the backward pass, by the module itself."""

    @staticmethod
    def forward(ctx, inputs, block, *weights):
        ctx.block, ctx.weights = block, len(weights)
        ctx.save_for_backward(inputs)
        with torch.no_grad():
            return block(inputs)

    @staticmethod
    def backward(ctx, cotangent):
        (inputs,) = ctx.saved_tensors
        with torch.enable_grad():
            again = inputs if inputs.requires_grad else inputs.detach().requires_grad_()
            sources = [again, *ctx.block.parameters()]
            result = ctx.block(again)
            found = torch.autograd.grad(result, sources, cotangent, create_graph=True)
        return (found[0], None, *found[1:])


class Recomputing(nn.Module):
    """A block of a reversible network, as people write one by hand, or the same without it."""

    def __init__(self, by_hand):
        super().__init__()
        self.by_hand = by_hand
        self.enter, self.leave = nn.Linear(8, 8), nn.Linear(8, 3)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def forward(self, inputs):
        """Return three logits."""
        hidden = self.enter(inputs)
        if self.by_hand:
            return self.leave(_Again.apply(hidden, self.block, *self.block.parameters()))
        return self.leave(self.block(hidden))


def _run_of(by_hand):
    torch.manual_seed(0)
    return routines.routine(model=Recomputing(by_hand).double())


def test_what_a_backward_pass_reads_of_the_module_is_that_of_its_step():
    """Each step's function computes its block again by the parameters that the block had there."""
    _, expected = whole_run_gradient(_run_of(False), routines.output)
    _, found = whole_run_gradient(_run_of(True), routines.output)
    replayed = metagradient(_run_of(True), routines.output)

    torch.testing.assert_close(found["weights"], expected["weights"], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(replayed["weights"], expected["weights"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("place", ["loss", "output"])
def test_references_refuse_another_run_than_the_users(place):
    """A penalty over the module that was handed in stays as it is, and both would agree on that."""
    torch.manual_seed(0)
    outer = nn.Linear(8, 3).double()

    def penalized(function):
        return lambda *given: function(*given) + outer.weight.square().sum()

    of_loss, of_output = place == "loss", place == "output"
    loss = penalized(routines.loss) if of_loss else routines.loss
    routine = routines.routine(model=outer, loss=loss)
    output = penalized(routines.output) if of_output else routines.output
    unit = {"weights": torch.ones_like(routine.point()["weights"])}

    for reference in (whole_run_gradient, lambda r, o: central_difference(r, o, unit)):
        with pytest.raises(WitnessError, match=rf"{place} reads the parameter 'weight'"):
            reference(routine, output)
