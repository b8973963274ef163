"""Arguments by names that other libraries have: one message, with what to write instead."""

import inspect

import pytest
import torch

import engine
from engine.errors import ConfigurationError
from tests.helpers.trainings import routines


def call(name, **more):
    routine = routines.routine()
    if name == "Routine":
        return engine.Routine(
            routines.mlp(), routines.loss, routines.examples(), engine.sgd(), **more
        )
    if name == "train":
        return engine.train(routine, **more)
    direction = {"weights": torch.ones(routines.NUM_EXAMPLES).double()}
    first = (routine, routines.output, direction)
    return getattr(engine, name)(*first[: 3 if name == "central_difference" else 2], **more)


@pytest.mark.parametrize(
    ("name", "argument", "sentence"),
    [
        ("Routine", "lr", "Write learning_rate=."),
        ("Routine", "batchsize", "Write batch_size=."),
        ("Routine", "epochs", "num_steps = epochs * len(examples) // batch_size"),
        ("Routine", "wd", "engine.adamw(weight_decay=...)"),
        ("Routine", "num_stepz", "Did you mean num_steps?"),
        ("train", "schedule", "option of engine.metagradient"),
        ("train", "shedule", "Its arguments are routine, z, witness, progress."),
        ("central_difference", "h", "Write step_size=."),
        ("whole_run_gradient", "witness", "Its arguments are routine, output, z, progress."),
    ],
)
def test_argument_by_another_name_is_told_what_to_write(name, argument, sentence):
    """A bare TypeError said neither what there is nor what was meant."""
    with pytest.raises(ConfigurationError) as refused:
        call(name, **{argument: 1})

    assert str(refused.value).startswith(f"{name} has no argument {argument!r}.")
    assert sentence in str(refused.value)


def test_a_rate_given_to_an_optimizer_is_said_to_be_the_routines():
    """As torch has it."""
    with pytest.raises(ConfigurationError, match="routine's.*learning_rate"):
        engine.adamw(lr=0.1)


def test_what_names_its_arguments_still_says_which_it_has():
    """Completion in a notebook, and help, read the signature."""
    assert list(inspect.signature(engine.train).parameters) == [
        "routine",
        "z",
        "witness",
        "progress",
    ]
    assert "learning_rate" in inspect.signature(engine.Routine).parameters
