"""A recipe made concrete: data, routine and output."""

import math

import pytest
import torch

from engine import Counts, ExampleWeights, LearningRatePoints, train
from engine.errors import ConfigurationError
from engine.problems import built
from engine.problems.built import SPLITS, build_problem
from engine.recipes.descent import DescentRecipe
from engine.recipes.optimizer import OptimizerSettings
from engine.recipes.training import TrainingSettings
from engine.routine.optimizers import make_optimizer
from engine.routine.rates import learning_rates


def recipe(**changes):
    """A tiny run on the digits."""
    settings = {
        "name": "tiny",
        "arguments": {
            "num_train": 40,
            "num_objective": 20,
            "num_validation": 10,
            "num_test": 10,
            "model": {"width": 6, "depth": 1, "dropout": 0.2},
        },
        "training": {"num_steps": 6, "batch_size": 8},
        "outer": {"update": "sign"},
    }
    return DescentRecipe.model_validate(settings | changes)


def one_cycle(num_steps, peak=0.4):
    return learning_rates(
        TrainingSettings(num_steps=num_steps, learning_rate=peak, rate_schedule="one-cycle")
    )


def test_one_cycle_of_nine_steps_is_this():
    """Half the peak at the start, the peak at a quarter, a ten-thousandth of it at the end."""
    rates = one_cycle(9, peak=1.0)

    fall = [1 - 0.9999 * share / 6 for share in range(1, 7)]
    assert rates == pytest.approx([0.5, 0.75, 1.0, *fall], rel=1e-14)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 40, 201])
def test_one_cycle_has_a_positive_rate_for_each_step(num_steps):
    """A rate of zero would train nothing in that step and cut its share of the metagradient."""
    rates = one_cycle(num_steps)

    assert len(rates) == num_steps
    assert all(0 < rate <= 0.4 for rate in rates)


@pytest.mark.parametrize("num_steps", [5, 41, 201])
def test_one_cycle_rises_to_its_peak_at_a_quarter_and_falls(num_steps):
    """The peak is the recipe's learning rate, reached once."""
    rates = one_cycle(num_steps)
    quarter = (num_steps - 1) // 4

    assert rates[quarter] == max(rates) == pytest.approx(0.4, rel=1e-14)
    assert list(rates[: quarter + 1]) == sorted(rates[: quarter + 1])
    assert list(rates[quarter:]) == sorted(rates[quarter:], reverse=True)


def test_flat_schedule_is_one_number():
    """The default is what people write in their own loop."""
    assert learning_rates(TrainingSettings(learning_rate=0.3)) == 0.3


@pytest.mark.parametrize(
    ("settings", "name", "hyperparameters"),
    [
        ({"name": "sgd", "momentum": 0.0}, "sgd", {"momentum": 0.0, "weight_decay": 0.0}),
        (
            {"name": "sgd", "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
            "nesterov",
            {"momentum": 0.8, "weight_decay": 0.1},
        ),
        (
            {"name": "adam", "beta1": 0.8, "beta2": 0.95, "eps": 1e-7, "eps_root": 1e-6},
            "adam",
            {"beta1": 0.8, "beta2": 0.95, "eps": 1e-7, "eps_root": 1e-6, "weight_decay": 0.0},
        ),
        (
            {"name": "adamw", "weight_decay": 0.3},
            "adamw",
            {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "eps_root": 1e-8, "weight_decay": 0.3},
        ),
    ],
    ids=["sgd", "nesterov", "adam", "adamw"],
)
def test_optimizer_is_the_one_that_the_recipe_names(settings, name, hyperparameters):
    """A setting that is read and dropped would train something else under the same name."""
    optimizer = make_optimizer(OptimizerSettings(**settings))

    assert optimizer.name == name
    assert optimizer.hyperparameters == hyperparameters


@pytest.mark.parametrize(
    ("name", "kind", "start"),
    [("counts", Counts, 1.0), ("weights", ExampleWeights, 1.0)],
)
def test_selection_starts_from_every_example_once(name, kind, start):
    """z_0 is plain training, so that the first iterate is the baseline."""
    found = build_problem(recipe(metaparameters={"name": name})).kind

    assert type(found) is kind
    assert found.value.tolist() == [start] * 40


def test_schedule_starts_from_the_recipes_rate():
    """Key points are logarithms, so a flat start is the log of the rate at each."""
    settings = {"name": "learning-rate", "num_key_points": 3}

    kind = build_problem(recipe(metaparameters=settings)).kind

    assert isinstance(kind, LearningRatePoints)
    assert kind.value.tolist() == pytest.approx([math.log(0.1)] * 3)
    assert kind.num_steps == 6


def test_scalars_start_from_the_recipes_numbers():
    """z_0 is the recipe as it stands, so that the first iterate is the baseline."""
    found = build_problem(
        recipe(
            metaparameters={"name": "scalars", "scalars": ["momentum", "label_smoothing"]},
            training={"num_steps": 6, "batch_size": 8, "label_smoothing": 0.1},
        )
    ).kind

    numbers = {name: float(number) for name, number in found.numbers(found.value).items()}
    assert numbers == pytest.approx({"momentum": 0.9, "label_smoothing": 0.1}, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["group-weights", "inputs", "initial-parameters"])
def test_kind_at_its_start_trains_the_run_without_it(name):
    """z_0 of every kind is plain training: to the bit, or to the rounding of weights of 1."""
    expected = train(build_problem(recipe(metaparameters={"name": "counts"})).routine)

    found = train(build_problem(recipe(metaparameters={"name": name})).routine)

    torch.testing.assert_close(found["params"], expected["params"], rtol=1e-4, atol=1e-6)


def test_inputs_are_a_share_of_the_candidates_drawn_by_a_seed_of_their_own():
    """Another training seed must attack the same examples, or a rerun tests something else."""
    settings = {"name": "inputs", "fraction": 0.1, "seed": 3}

    one, other = (
        build_problem(
            recipe(metaparameters=settings, training={"num_steps": 6, "batch_size": 8, "seed": s})
        ).kind
        for s in (0, 1)
    )

    assert one.value.shape == (4, 1, 8, 8)
    assert torch.equal(one.chosen, other.chosen)
    assert one.bounds == (0.0, 1.0)


def test_label_smoothing_of_a_recipe_reaches_the_loss():
    """A setting that is read and dropped would train something else under the same name."""
    plain, smooth = (
        build_problem(
            recipe(training={"num_steps": 6, "batch_size": 8, "label_smoothing": share})
        ).routine
        for share in (0.0, 0.2)
    )
    inputs, labels = (column[:5] for column in plain.examples)
    logits = plain.model(inputs)

    found = smooth.loss(lambda _: logits, (inputs, labels))

    expected = torch.nn.functional.cross_entropy(
        logits, labels, reduction="none", label_smoothing=0.2
    )
    torch.testing.assert_close(found, expected)


def test_counts_are_injected_at_ninety_percent_by_default():
    """Algorithm 1 leaves k open; late enough to matter, early enough to be learnt from."""
    assert build_problem(recipe()).routine.first_step == 5


def test_routine_reads_what_the_recipe_says():
    """The same numbers by their own names: a mix-up of two would train without an error."""
    problem = build_problem(recipe())

    assert (problem.routine.num_steps, problem.routine.batch_size) == (6, 8)
    assert len(problem.routine) == 40
    assert {name: len(split) for name, split in problem.held_out.items()} == {
        "objective": 20,
        "validation": 10,
        "test": 10,
    }
    assert tuple(problem.held_out) == SPLITS
    assert torch.equal(problem.output.examples[0], problem.held_out["objective"].inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_number_format_reaches_every_tensor(dtype):
    """One float32 tensor in a float64 run spoils the comparison with an oracle."""
    name = str(dtype).removeprefix("torch.")
    problem = build_problem(recipe(training={"num_steps": 6, "batch_size": 8, "dtype": name}))

    tensors = [
        problem.routine.initial_state()["params"],
        problem.routine.examples[0],
        problem.kind.value,
        *problem.output.examples[:1],
    ]

    assert [tensor.dtype for tensor in tensors] == [dtype] * 4


def test_same_recipe_is_the_same_run_to_the_bit():
    """Stages of one run are computed by many processes, each of which builds the problem anew."""
    first = train(build_problem(recipe()).routine)["params"]
    built._build.cache_clear()

    again = train(build_problem(recipe()).routine)["params"]

    assert torch.equal(again, first)


def test_another_seed_is_another_run():
    """Initial parameters, order and dropout all follow training.seed."""
    other = recipe(training={"num_steps": 6, "batch_size": 8, "seed": 1})

    start = build_problem(other).routine.initial_state()["params"]

    assert not torch.equal(start, build_problem(recipe()).routine.initial_state()["params"])


def test_routine_at_another_value_trains_on_it():
    """Each outer step trains the same run at the z that the last one made."""
    problem = build_problem(recipe())
    dropped = torch.ones(40)
    dropped[:20] = 0

    routine = problem.routine.at(dropped)

    assert routine.order.epoch_size == 20
    assert problem.routine.order.epoch_size == 40


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_gpu_that_is_not_there_is_refused(device):
    """A run sent to the wrong work pool must say so, and not train for a week on a CPU."""
    with pytest.raises(ConfigurationError, match=rf"device is {device}, but.*no CUDA.*device=cpu"):
        build_problem(recipe(training={"device": device}))


@pytest.mark.parametrize(("size", "said"), [(40, False), (41, True)])
def test_batch_that_holds_a_candidate_several_times_is_said(size, said):
    """It is no error, but rarely meant."""
    built = build_problem(recipe(training={"num_steps": 2, "batch_size": size}))
    told = [each for each in built.notes if f"batch of {size} is larger than the 40" in each]
    assert bool(told) == said
