"""The object that a problem's function returns, in a notebook: the same run as the recipe's."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import engine
from engine.errors import ConfigurationError
from engine.problems.built import build_problem
from engine.problems.shipped import table
from engine.recipes.code.user_code import load_module
from engine.recipes.files import load_recipe
from tests.helpers.data.own_problem import write_problem


def test_metagradient_is_that_of_the_recipe_bit_by_bit(tmp_path):
    """A reader of the one may use the other without a second thought."""
    changes = ["metaparameters={name: weights}", "outer.update=sign", "training.dtype=float64"]
    recipe = load_recipe(write_problem(tmp_path), changes)
    built = build_problem(recipe)
    expected = engine.metagradient(built.routine, built.output)["weights"]

    problem = problem_of(tmp_path)
    weights = engine.ExampleWeights(torch.ones(40).double())
    settings = {"num_steps": 6, "batch_size": 10, "learning_rate": 0.1}
    routine = problem.routine({"weights": weights}, optimizer=engine.sgd(0.9), **settings)

    start = {name: row.clone() for name, row in built.routine.initial_state().items()}
    assert all(torch.equal(row, start[name]) for name, row in routine.initial_state().items())
    found = engine.metagradient(routine, engine.MeanLoss(problem.loss, columns(built)))["weights"]
    assert torch.equal(found, expected)


def columns(built):
    return built.held_out["objective"].batches(torch.device("cpu"))


def problem_of(folder):
    """Call the function as ``build_problem`` does: under the run's seed and format."""
    from engine.problems.calls import surroundings

    with surroundings(0, torch.float64):
        made = load_module("my_clouds.py", str(folder)).two_clouds()
    made.model.double()
    double = {name: rows.double() if rows.is_floating_point() else rows
              for name, rows in made.train.items()}  # fmt: skip
    object.__setattr__(made, "train", double)
    return made


def small(**parts):
    drawn = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 3, generator=drawn), torch.arange(20) % 2
    return engine.Problem(
        **{
            "model": lambda seed: nn.Linear(3, 2),
            "loss": lambda model, batch: cross_entropy(model(batch[0]), batch[1], reduction="none"),
            "train": rows,
            "objective": rows,
        }
        | parts
    )


def test_what_the_problem_has_of_its_own_is_taken():
    """Optimizer, rates and order, as in a recipe; what is handed in counts instead."""
    own = small(
        optimizer=engine.adam(),
        learning_rate=lambda num_steps: [0.1] * num_steps,
        order=lambda step: range(step, step + 5),
    )
    weights = {"weights": engine.ExampleWeights(torch.ones(20))}

    routine = own.routine(weights, num_steps=4, batch_size=5)
    other = own.routine(weights, num_steps=4, batch_size=5, learning_rate=0.3)

    assert routine.optimizer.name == "adam"
    assert [float(each) for each in routine.learning_rate] == pytest.approx([0.1] * 4)
    assert routine.order.batch(2).tolist() == [2, 3, 4, 5, 6]
    assert float(other.learning_rate) == pytest.approx(0.3)


def test_scheduler_that_moves_the_momentum_wants_an_optimizer_that_does():
    """Its rates alone, beside a momentum that stands still, would be another training."""
    made = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR(made, 0.2, total_steps=5)
    weights = {"weights": engine.ExampleWeights(torch.ones(20))}
    settings = {"num_steps": 4, "batch_size": 5}

    with pytest.raises(ConfigurationError, match="OneCycleLR moves the momentum"):
        small(optimizer=engine.sgd(0.9), learning_rate=cycle).routine(weights, **settings)

    momenta = engine.rates(cycle, 4, of="momentum")
    own = small(optimizer=engine.sgd(momenta), learning_rate=cycle)
    assert own.routine(weights, **settings).optimizer.hyperparameters["momentum"] == momenta


def test_what_nobody_says_is_named():
    """With an example of a call."""
    with pytest.raises(ConfigurationError, match="batch_size, optimizer, learning_rate.*Hand in"):
        small().routine({"weights": engine.ExampleWeights(torch.ones(20))}, num_steps=3)


def test_output_is_the_mean_loss_or_the_problems_own():
    """As ``phi`` of an adapter."""
    model, own = nn.Linear(3, 2), lambda model: model.weight.sum()
    plain = small(model=model)

    assert float(plain.phi(model)) == pytest.approx(float(plain.loss(model, plain.train).mean()))
    assert small(output=own).phi is own


def test_ready_problem_runs_in_a_notebook(tmp_path):
    """Its examples are of a class of the engine's, which no routine could read."""
    pytest.importorskip("pyarrow", reason="tables need the extra parquet")
    rows = "".join(f"{n},{(7 * n) % 5},{'ab'[n % 2]}\n" for n in range(40))
    (tmp_path / "rows.csv").write_text(f"x,z,y\n{rows}")
    problem = table(str(tmp_path / "rows.csv"), label="y")
    weights = {"weights": engine.ExampleWeights(torch.ones(len(problem.train)))}
    how = {"num_steps": 4, "batch_size": 8, "learning_rate": 0.1, "optimizer": engine.sgd()}

    routine = problem.routine(weights, **how)

    along = {"weights": torch.randn(len(problem.train), generator=torch.Generator().manual_seed(1))}
    found = engine.metagradient(routine, problem.phi)["weights"] @ along["weights"]
    expected = engine.central_difference(routine, problem.phi, along)
    assert float(found) == pytest.approx(float(expected), rel=0.02)
