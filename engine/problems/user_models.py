"""Models of a ready problem: one that ships, or a class or function of the user's by name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from engine.errors import ConfigurationError
from engine.models.build import build_model, check_model
from engine.numerics.determinism import seeded
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.code.user_code import load_object


def model_maker(
    model: ModelSettings | str, input_shape: tuple[int, ...], num_outputs: int
) -> Callable[[int], nn.Module]:
    """Return a function of the seed that makes a model for examples of a shape.

    Args:
        model: Settings of a shipped model, or a class or function, see ``own_model``, which is
            called with those of ``input_shape``, ``num_inputs`` and ``num_outputs`` that its
            signature has.
        input_shape: Shape of one input, without the batch axis.
        num_outputs: Numbers that the model has for an example.

    Raises:
        ConfigurationError: If there is no such class, or it takes other arguments.
    """
    dtype = torch.get_default_dtype()
    if isinstance(model, ModelSettings):
        check_model(model, input_shape)
        return lambda seed: build_model(model, input_shape, num_outputs, seed=seed, dtype=dtype)
    return own_model(model, sizes(input_shape, num_outputs))


def sizes(input_shape: tuple[int, ...], num_outputs: int) -> dict[str, Any]:
    """Return the sizes that a model of one's own may take as arguments, by their names."""
    return {
        "input_shape": input_shape,
        "num_inputs": int(torch.tensor(input_shape).prod()),
        "num_outputs": num_outputs,
    }


def own_model(name: str, known: Mapping[str, Any]) -> Callable[[int], nn.Module]:
    """Return a function of the seed that makes a model of one's own.

    Args:
        name: ``my_file.py:Net`` or ``package.module:Net``: a class or a function.
        known: What it may ask for, by the names of its parameters.

    Raises:
        ConfigurationError: If there is no such class, or it takes other arguments.
    """
    make = load_object(name, "arguments.model")
    given = _matching_arguments(make, known, name)

    def make_model(seed: int) -> nn.Module:
        with seeded(seed, "own model"):
            return make(**given)

    return make_model


def _matching_arguments(
    make: Callable[..., Any], known: Mapping[str, Any], name: str
) -> dict[str, Any]:
    parameters = inspect.signature(make).parameters.values()
    needed = [each.name for each in parameters if each.default is each.empty]
    missing = [each for each in needed if each not in known]
    if missing:
        raise ConfigurationError(
            f"arguments.model is {name}, which needs {', '.join(missing)}, but a model of a ready "
            f"problem is called with {', '.join(known)} only. Give {missing[0]} a default, or "
            "write a problem of your own: `mgd new`."
        )
    return {each.name: known[each.name] for each in parameters if each.name in known}
