"""Settings of a replay: one class for recipes and for calls, in which nothing is ignored."""

import numpy as np
import pytest
import torch

import engine
from engine.errors import ConfigurationError, EngineError
from engine.recipes.replay import ReplaySettings, ScheduleName, VjpMode, replay_from
from tests.helpers.trainings import routines

CALLS = {
    "metagradient": lambda **options: engine.metagradient(
        routines.routine(), routines.output, **options
    ),
    "metagradients": lambda **options: engine.metagradients(
        routines.routine(), [routines.output], **options
    ),
    "check": lambda **options: engine.check(routines.routine(), routines.output, **options),
}

MISSPELT = {
    "slow_slot": "slow_slots",
    "shedule": "schedule",
    "microbatch": "micro_batch",
    "max_device_byte": "max_device_bytes",
    "unrol": "unroll",
    "num_slot": "num_slots",
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", MISSPELT)
def test_misspelt_option_is_refused_with_what_was_meant(call, name):
    """An option that is ignored is a wrong belief about what was computed."""
    with pytest.raises(EngineError, match=f"{call} has no option '{name}'.*'{MISSPELT[name]}'"):
        CALLS[call](**{name: 3})


def test_misspelt_argument_is_named_too():
    """People misspell arguments as well as options."""
    with pytest.raises(ConfigurationError, match="Did you mean 'store'"):
        CALLS["metagradient"](stores="memory://a")


def test_an_option_that_resembles_nothing_lists_what_there_is():
    """Who remembers another library's name has to find ours."""
    with pytest.raises(
        ConfigurationError, match="'checkpointing'. Its options are schedule, arity"
    ):
        CALLS["metagradient"](checkpointing=True)


@pytest.mark.parametrize("name", ReplaySettings.model_fields)
def test_every_option_is_read_or_refused(name):
    """The list is that of the class, so that a new option is tried as well."""
    impossible = {"schedule": "lazy", "vjp": "backwards"}.get(name, -1)

    with pytest.raises(
        ConfigurationError, match=f"{name} is {impossible!r}|{name} is {impossible}"
    ):
        CALLS["metagradient"](**{name: impossible})


def test_a_wrong_name_of_a_schedule_says_which_was_meant():
    """The names have hyphens, which are easily left out."""
    with pytest.raises(ConfigurationError, match="Did you mean 'store-all'"):
        CALLS["metagradient"](schedule="store_all")
    with pytest.raises(ConfigurationError, match="Did you mean 'forward-over-reverse'"):
        CALLS["metagradient"](vjp="forward_over_reverse")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_slots": 3}, "num_slots is 3, but schedule is k-ary"),
        ({"schedule": "sqrt", "slow_cost": 2.0}, "slow_cost is 2.0, but schedule is sqrt"),
        ({"schedule": "auto", "unroll": 2}, "unroll is 2, but schedule is auto"),
        ({"unroll": 2, "vjp": "forward-over-reverse"}, "unroll is 2, which keeps the graphs"),
        ({"unroll": 2, "micro_batch": 4}, "unroll is 2, which keeps the graphs"),
        ({"steps_per_segment": 5}, "reverses its run as one segment"),
        ({"max_store_bytes": 10**9}, "there is no store"),
        ({"arity": True}, "true is neither a number nor a name"),
        ({"arity": 2.5}, "arity is 2.5"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_options_that_do_not_fit_together_are_refused(options, message):
    """A setting without an effect is a misunderstanding."""
    with pytest.raises(ConfigurationError, match=message):
        CALLS["metagradient"](**options)


def test_numbers_of_numpy_and_torch_are_numbers():
    """They come out of loops over np.arange and out of configuration tables."""
    found = replay_from({"arity": np.int64(3), "unroll": torch.tensor(2)}, "metagradient", ())

    assert (found.arity, found.unroll) == (3, 2)


def test_a_recipe_and_a_call_refuse_in_the_same_words():
    """One rule written twice drifts apart."""
    with pytest.raises(ValueError, match="unroll is 2, which keeps the graphs") as recipe:
        ReplaySettings(unroll=2, vjp=VjpMode.COMPILED)
    with pytest.raises(ConfigurationError) as call:
        replay_from({"unroll": 2, "vjp": "compiled"}, "metagradient", ())

    assert str(call.value) in str(recipe.value)
    assert ScheduleName.AUTO in ScheduleName


def test_metagradients_is_a_function_of_the_package():
    """A module of the same name hid it, so that the documented call was a TypeError."""
    first, second = engine.metagradients(
        routines.routine(), [routines.output, lambda model: 2 * routines.output(model)]
    )

    torch.testing.assert_close(2 * first["weights"], second["weights"], rtol=1e-10, atol=0)
