"""Calls a problem's function under the run's seed and number format, and explains its errors."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from engine.errors import ConfigurationError, EngineError
from engine.numerics.determinism import seed_for, seeded
from engine.problems.base import Problem
from engine.recipes.code.process_defaults import folder_kept
from engine.recipes.code.signatures import call
from engine.recipes.code.user_code import calling, own_line, raised
from engine.recipes.descent import DescentRecipe
from engine.recipes.problem_functions import check_sources, find_function
from engine.routine.diagnosis import MIXED_FORMATS


def call_problem(recipe: DescentRecipe, seed: int | None = None) -> Problem:
    """Call a recipe's problem function with its arguments, and return the problem.

    Args:
        recipe: Names the function.
        seed: Seed in place of ``training.seed``, for a model with another start.

    Raises:
        ConfigurationError: If the function raises an error, or returns something else; it says
            in which line.
    """
    check_sources(recipe.problem, recipe.folder, recipe.arguments, recipe.code)
    function = find_function(recipe.problem, recipe.folder)
    dtype = getattr(torch, recipe.training.dtype.value)
    try:
        drawn = recipe.training.seed if seed is None else seed
        around = calling(recipe.problem, recipe.folder, recipe.code)
        kept = folder_kept(f"The function of problem {recipe.problem}")
        with around, kept, surroundings(drawn, dtype), redirect_stdout(sys.stderr):
            made = call(function, recipe.arguments)
    except (Exception, SystemExit) as error:
        line = own_line(error)
        if isinstance(error, EngineError) and not line:
            raise
        place = f" in {line}" if line else ""
        if isinstance(error, EngineError):
            raise ConfigurationError(
                f"The function of problem {recipe.problem} was refused{place}. {error}",
                settings=error.settings,
            ) from error
        if isinstance(error, SystemExit):
            raise ConfigurationError(
                f"The function of problem {recipe.problem} ends the process{place} (exit). Raise "
                "an error that says what is missing, or return the engine.Problem."
            ) from error
        raise ConfigurationError(
            f"The function of problem {recipe.problem} raised {raised(error)}. "
            f"{_remedy(error, dtype)}"
        ) from error
    if not isinstance(made, Problem):
        raise ConfigurationError(
            f"The function of problem {recipe.problem} returned a {type(made).__name__}, but a "
            "recipe needs an engine.Problem. Return one."
        )
    return made


def _remedy(error: BaseException, dtype: torch.dtype) -> str:
    """Say what to do about an error of a problem's function in a run of a number format."""
    name = getattr(error, "filename", None)
    if (
        isinstance(error, FileNotFoundError)
        and isinstance(name, str)
        and not Path(name).is_absolute()
    ):
        return (
            f"A relative path is looked for where the command runs, here {Path.cwd()}. Beside the "
            f"problem's file it is Path(__file__).with_name({Path(name).name!r}); or make it an "
            "argument of the recipe."
        )
    if isinstance(error, TypeError) and str(error).startswith("Problem.__init__()"):
        needed = [part.name for part in fields(Problem) if part.default is part.default_factory]
        others = [part.name for part in fields(Problem) if part.name not in needed]
        return (
            f"An engine.Problem is made of {', '.join(needed)}, and may have {', '.join(others)}; "
            "help(engine.Problem) says what each is."
        )
    if isinstance(error, RuntimeError) and any(each in str(error) for each in MIXED_FORMATS):
        return (
            f"Torch's default format is that of the run here, {dtype}, and so is what modules and "
            "constants are made in. Convert what has a format of its own before they meet: "
            "x.to(torch.get_default_dtype())."
        )
    return "Correct it, or its arguments in the recipe."


@contextmanager
def surroundings(seed: int, dtype: torch.dtype, purpose: str = "problem") -> Iterator[None]:
    """Seed all generators that a function may draw from, and set torch's default format.

    All of them belong to the process, so they are changed only while no other thread trains.

    Args:
        seed: Seed of the run.
        dtype: Number format of the run.
        purpose: What is drawn, which has random numbers of its own.
    """
    value = seed_for(seed, purpose)
    with seeded(seed, purpose), torch.device("cpu"):
        before, numpy_before = random.getstate(), np.random.get_state()
        format_before = torch.get_default_dtype()
        random.seed(value)
        np.random.seed(value % 2**32)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)
            torch.set_default_dtype(format_before)
