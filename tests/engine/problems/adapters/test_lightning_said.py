"""What the problem of a Lightning module says that it lacks, and what stands in for the rest."""

import re
from types import SimpleNamespace

import pytest
import torch

import engine
from engine.errors import ConfigurationError
from engine.problems.adapters.lightning_modules import guarded, stood_in
from tests.engine.problems.adapters.lightning_runs import each_loss, loaders, trainer_of


def test_optimizer_that_is_handed_in_takes_the_place_of_any(of_lightning):
    """Of one that has no counterpart; the rates stay those of the module."""
    module = of_lightning.Adagrad()
    with pytest.raises(ConfigurationError, match=r"Adagrad, which has no counterpart.*optimizer="):
        engine.from_lightning(module, loaders(), trainer_of())

    problem = engine.from_lightning(module, loaders(), trainer_of(), optimizer=engine.sgd(0.5))
    clipped = engine.from_lightning(
        module, loaders(), trainer_of(), optimizer=engine.sgd(0.5, clip_norm=0.1)
    )

    routine = problem.routine({"weights": engine.ExampleWeights(torch.ones(24))})
    assert routine.optimizer.name == "sgd"
    assert list(routine.learning_rate)[::6] == pytest.approx([0.3, 0.15, 0.075])
    lost = "gradient_clip_val=0.5, because sgd was handed in without clip_norm"
    assert [lost in " ".join(each.not_carried) for each in (problem, clipped)] == [True, False]


@pytest.mark.parametrize("kind", ["StochasticWeightAveraging", "BackboneFinetuning", "Own", None])
def test_callbacks_that_change_a_training_are_said_with_what_stands_for_them(kind, of_lightning):
    """A subclass of one, too."""
    from lightning.pytorch import callbacks

    class Own(callbacks.WeightAveraging):
        def __init__(self):
            """Average nothing."""

    made = {
        "StochasticWeightAveraging": lambda: [callbacks.StochasticWeightAveraging(0.1)],
        "BackboneFinetuning": lambda: [callbacks.BackboneFinetuning()],
        "Own": lambda: [Own()],
        None: list,
    }[kind]()

    problem = engine.from_lightning(of_lightning.Net(), loaders(), trainer_of(callbacks=made))

    said = " ".join(problem.not_carried)
    assert (f"callbacks: {kind} are not called" in said) == (kind is not None)
    assert ("engine.averaged" in said) == (kind in ("StochasticWeightAveraging", "Own"))
    assert ("requires_grad_(False)" in said) == (kind == "BackboneFinetuning")


def test_trainer_is_stood_in_for_while_optimizers_are_configured_and_no_longer(of_lightning):
    """Also where that raises: a training step that asks afterwards is refused all the same."""
    module = guarded(of_lightning.Net())

    def configured():
        with stood_in(module, SimpleNamespace(max_steps=7)):
            assert (module.trainer.max_steps, module.current_epoch, module.global_step) == (7, 0, 0)
            return 1 / 0

    with pytest.raises(ZeroDivisionError):
        configured()

    for name in ("trainer", "current_epoch", "global_step"):
        with pytest.raises(ConfigurationError, match=f"asks for self.{name} in training_step"):
            getattr(module, name)


def turned(module, batch):
    """A loss of the same value, whose gradient is another."""
    weight = module.head.weight
    return each_loss(module, batch) + (weight - weight.detach()).sum()


SAID = {
    "another gradient": ("Net", turned, ["is .* or has another gradient"]),
    "random numbers": ("Noisy", lambda *given: 3 * each_loss(*given), []),
    "a step that fails": (
        "Late",
        each_loss,
        ["could not be compared with loss= .AttributeError: .*late"],
    ),
    "a loss that fails": (
        "Net",
        lambda module, batch: 1 / 0,
        ["not be compared with loss= .ZeroDivision"],
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_what_a_comparison_of_losses_says(case, of_lightning):
    """Of what draws random numbers nothing is known; what cannot be compared is said."""
    name, loss, words = SAID[case]
    problem = engine.from_lightning(
        getattr(of_lightning, name)(), loaders(), num_steps=2, loss=loss
    )

    found = [each for each in problem.not_carried if each.startswith("training_step")]

    assert len(found) == len(words)
    assert all(re.search(*pair) for pair in zip(words, found, strict=True))
