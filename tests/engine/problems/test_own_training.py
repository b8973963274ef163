"""Optimizer, rates, order and state of a problem's own: in the keys, or refused in words."""

import pytest
import torch

from engine.errors import ConfigurationError, EngineError
from engine.metaparameters.scalars import Scalars
from engine.planning.plan import plan
from engine.problems.built import _build, build_problem, check_repeats
from engine.recipes.files import load_recipe
from engine.routine.own_state import OWN
from engine.stages.run import Run
from engine.stages.training import initial_value, prepare
from tests.helpers.data.own_problem import write_problem

PROBLEM = '''
import os

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import engine
from my_helpers import clouds

NUMBER = float(os.environ.get("MY_NUMBER", "1"))


def loss(model, batch, state):
    losses = cross_entropy(model(batch["x"]), batch["y"], reduction="none")
    return losses * state["scale"]


def held_out_loss(model, batch):
    return cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def advance(state, params, batch, step):
    return {"scale": 0.9 * state["scale"] + 0.1}


def two_clouds(number: int = 40, wrong: float = 0.2) -> engine.Problem:
    """Which points of two clouds have a wrong label."""
    generator = torch.Generator().manual_seed(0)
    x, y = clouds(number, generator)
    hx, hy = clouds(60, generator)
    sampler = torch.utils.data.RandomSampler(range(number))
    return engine.Problem(
        model=nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2)),
        loss=held_out_loss,
        training_loss=loss,
        train={"x": x, "y": y},
        objective={"x": hx, "y": hy},
        optimizer=engine.sgd(0.9, weight_decay=0.01),
        learning_rate=[0.1] * 6,
        order=sampler,
        state={"scale": torch.ones(1)},
        advance=advance,
    )
'''

RECIPE = """
kind: descent
name: clouds
problem: my_clouds.py:two_clouds
training: {num_steps: 6, batch_size: 10, threads: 1}
metaparameters: {name: weights}
outer: {num_steps: 2, update: sign}
replay: {steps_per_segment: 3}
"""


def replaced(old, new):
    assert old in PROBLEM
    return PROBLEM.replace(old, new)


def own(tmp_path, problem=PROBLEM, changes=()):
    return load_recipe(write_problem(tmp_path, problem, RECIPE), [*changes])


@pytest.mark.slow
def test_parts_of_ones_own_are_those_of_the_run(tmp_path):
    """A sampler without a generator draws under the run's seed; another seed is another order."""
    routine = build_problem(own(tmp_path)).routine
    same, other = (
        build_problem(own(tmp_path, changes=[f"training.seed={seed}", "name=again"])).routine
        for seed in (0, 1)
    )

    assert routine.optimizer.hyperparameters == {"momentum": 0.9, "weight_decay": 0.01}
    assert routine.learning_rate == (0.1,) * 6
    assert {"optimizer", "training.learning_rate"} < build_problem(own(tmp_path)).unread
    batches = [each.order.batch(5) for each in (routine, same, other)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
    check_repeats(own(tmp_path))


UNSEEN = {
    "optimizer": replaced("engine.sgd(0.9,", "engine.sgd(0.9 * NUMBER,"),
    "an optimizer's number for each step": replaced(
        "engine.sgd(0.9,", "lambda num_steps: engine.sgd([0.9 * NUMBER] * num_steps,"
    ),
    "learning rates": replaced("[0.1] * 6", "[0.1] * 5 + [0.1 * NUMBER]"),
    "one learning rate": replaced("[0.1] * 6", "0.1 * NUMBER"),
    "rates by a function": replaced("[0.1] * 6", "lambda num_steps: [0.1 * NUMBER] * num_steps"),
    "order": replaced("sampler,", "[[int(9 * NUMBER + s) % 40 for s in range(10)]] * 6,"),
    "order by a function": replaced(
        "sampler,", "lambda step: [int(9 * NUMBER + s + step) % 40 for s in range(10)],"
    ),
    "state": replaced("torch.ones(1)", "NUMBER * torch.ones(1)"),
    "state by a function": replaced(
        "torch.ones(1)", "lambda params: NUMBER * params['0.bias'][:1]"
    ),
}
"""Parts that depend on something that no digest of the source sees."""


@pytest.mark.slow
@pytest.mark.parametrize("problem", UNSEEN.values(), ids=UNSEEN)
def test_another_part_is_another_key_whatever_it_comes_from(problem, tmp_path, monkeypatch):
    """The source and the recipe are the same, so only the bits of the part tell the runs apart."""
    keys = []
    for number in ("1", "0.5", "1"):
        monkeypatch.setenv("MY_NUMBER", number)
        _build.cache_clear()
        forget_module()
        keys.append(initial_value.key(Run(own(tmp_path, problem), "")))

    assert keys[0] == keys[2] != keys[1]


def forget_module():
    """Let the file be loaded anew, as in another process."""
    import sys

    for name in [each for each in sys.modules if each.startswith("problem_my_clouds")]:
        del sys.modules[name]


EDITED = {
    "optimizer": replaced("engine.sgd(", "engine.adamw((0.9, 0.99), "),
    "advance": replaced("0.9 * state", "0.8 * state"),
    "order": replaced("RandomSampler", "SequentialSampler"),
}


@pytest.mark.slow
@pytest.mark.parametrize("problem", EDITED.values(), ids=EDITED)
def test_another_function_is_another_key(problem, tmp_path):
    """By the digest of the source."""
    problem = problem.replace("0.99), 0.9", "0.99)")

    one, other = (initial_value.key(Run(own(tmp_path, each), "")) for each in (PROBLEM, problem))

    assert one != other


REFUSED = {
    "both optimizers": (PROBLEM, ["optimizer.momentum=0.5"], r"optimizer is set in the recipe"),
    "both rates": (PROBLEM, ["training.learning_rate=0.5"], r"training.learning_rate is set"),
    "all of them": (
        PROBLEM,
        ["optimizer.momentum=0.5", "training.learning_rate=0.5", "training.warmup_steps=2"],
        "optimizer, training.learning_rate, training.warmup_steps are set .* an optimizer and "
        "learning rates of its own, so nothing would read them",
    ),
    "a warm-up": (PROBLEM, ["training.warmup_steps=2"], r"training.warmup_steps is set"),
    "rates as z": (PROBLEM, ["metaparameters={name: learning-rate}"], "Leave learning_rate out"),
    "baselines of single candidates": (
        replaced("order=sampler,", ""),
        ["metaparameters={name: counts}", "outer.update=masked-sign",
         "baselines=[low-loss, gradient-similarity]"],
        "gradient-similarity and low-loss, which asks for",
    ),
    "a baseline of low losses": (
        replaced("order=sampler,", ""),
        ["metaparameters={name: counts}", "outer.update=masked-sign", "baselines=[low-loss]"],
        "baselines has low-loss, which asks for",
    ),
    "a number that it lacks": (
        PROBLEM,
        ["metaparameters={name: scalars, scalars: [beta1]}"],
        r"'sgd' of problem .* has none. Use one of momentum, weight_decay",
    ),
    "a number for each step": (
        replaced("engine.sgd(0.9,", "engine.sgd([0.9] * 6,"),
        ["metaparameters={name: scalars, scalars: [momentum]}"],
        "has one for each step",
    ),
    "counts and an order": (
        PROBLEM,
        ["metaparameters={name: counts}", "outer.update=masked-sign"],
        "leave order out",
    ),
    "an optimizer of torch": (
        replaced("engine.sgd(0.9, weight_decay=0.01)",
                 "torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)"),
        [],
        "optimizer is torch's SGD",
    ),
    "a function that was not called": (
        replaced("engine.sgd(0.9, weight_decay=0.01)", "engine.sgd"), [], r"Write engine.sgd\(\)",
    ),
    "rates by another word for steps": (
        replaced("learning_rate=[0.1] * 6", "learning_rate=lambda n: [0.1] * n"),
        [],
        "learning_rate is a function.*if its argument is called num_steps",
    ),
    "too few rates": (replaced("[0.1] * 6", "[0.1] * 5"), [], "5 values for 6 steps"),
    "rates of nothing": (replaced("[0.1] * 6", "'fast'"), [], "Give one number"),
    "a plateau": (
        replaced("[0.1] * 6", "torch.optim.lr_scheduler.ReduceLROnPlateau("
                 "torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1))"),
        [],
        "Train once with it",
    ),
    "too few batches": (replaced("sampler,", "[list(range(10))] * 4,"), [], "only|for 4 steps"),
    "examples that are not there": (
        replaced("sampler,", "[list(range(35, 45))] * 6,"), [], "there are only 40",
    ),
    "a state that nothing moves": (replaced("advance=advance,", ""), [], "Hand in both"),
    "a loss that asks for a state": (
        replaced('state={"scale": torch.ones(1)},\n        advance=advance,', ""),
        [],
        r"loss\(model, batch, state\)",
    ),
    "a metric that asks for a state": (
        replaced('state={"scale": torch.ones(1)},\n        advance=advance,',
                 'metrics={"a": lambda model, batch, state: held_out_loss(model, batch)},')
        .replace("training_loss=loss", "training_loss=held_out_loss"),
        [],
        r"metric 'a'.*state",
    ),
    "an order that changes": (
        replaced("sampler,", "torch.randint(40, (6, 10), generator="
                 "torch.Generator().manual_seed(torch.Generator().seed())),"),
        [],
        "different order of the examples",
    ),
    "an optimizer that changes": (
        replaced("engine.sgd(0.9,", "engine.sgd(os.times().elapsed % 1e3 / 1e3,"),
        [],
        "different optimizer",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("problem", "changes", "words"), REFUSED.values(), ids=REFUSED)
def test_parts_that_make_no_run_are_refused_before_training(problem, changes, words, tmp_path):
    """A setting that nothing reads would be reported as if it had been done."""
    with pytest.raises(EngineError, match=words):
        prepare(Run(own(tmp_path, problem, changes), str(tmp_path / "store")))


def test_scalars_start_from_the_problems_own_optimizer(tmp_path):
    """The recipe's group ``optimizer`` says nothing about it."""
    changes = ["metaparameters={name: scalars, scalars: [momentum, weight_decay]}"]

    kind = build_problem(own(tmp_path, changes=changes)).kind

    assert isinstance(kind, Scalars)
    assert {n: float(v) for n, v in kind.numbers(kind.value).items()} == pytest.approx(
        {"momentum": 0.9, "weight_decay": 0.01}
    )


def test_plan_and_scores_tell_the_state(tmp_path):
    """The trained teacher is scored in a plan, before a run and after it."""
    text = PROBLEM.replace("loss=held_out_loss", "loss=loss").replace("training_loss=loss,", "")
    recipe = own(tmp_path, text)

    built = build_problem(recipe)
    state = built.routine.initial_state()
    once = built.scores(state)["test"]["loss"]
    twice = built.scores({**state, OWN: 2 * state[OWN]})["test"]["loss"]

    assert twice == pytest.approx(2 * once)
    assert plan(recipe, str(tmp_path / "store")).alternatives


def test_losses_of_single_examples_know_no_state():
    """An attribution asks for the loss of one example, whatever batch came before it."""
    from engine.problems.fits import check_single_losses

    with pytest.raises(ConfigurationError, match="reads the run's own state"):
        check_single_losses(lambda model, batch, state: batch, "attribution")
