"""What a problem's code does, as a digest: for what its source, arguments and examples do not say.

A loss may read a number that came from a file, a variable of the environment, a pickle or a module
of another folder, and no list of such ways is complete. So code of one's own is known by what it
computes, too: two steps of training, and scores of some held-out examples after them. What makes
itself felt in none of these goes unseen.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from engine.numerics.determinism import deterministic
from engine.numerics.environment import environment
from engine.numerics.fingerprint import fingerprint
from engine.numerics.memory_errors import is_out_of_memory
from engine.problems.identity.elsewhere import source_elsewhere
from engine.problems.identity.names import BEHAVIOUR, ELSEWHERE
from engine.recipes.descent import DescentRecipe
from engine.recipes.problem_functions import names_code
from engine.recipes.settings import digest
from engine.routine.outputs import MeanLoss
from engine.routine.routine import Routine
from engine.step.step import plain_step
from engine.storage.transient_errors import is_transient_while_parsing
from engine.types import State

if TYPE_CHECKING:
    from engine.problems.built import BuiltProblem

_SCORED = 16
"""Examples of each held-out split that are scored."""


def identified(recipe: DescentRecipe, built: "BuiltProblem") -> "BuiltProblem":
    """Return a problem with digests of what its code computes, and of modules elsewhere.

    One that ships stays as it is.

    Args:
        recipe: Names the problem.
        built: It, on its device.

    Raises:
        ConfigurationError: If a module elsewhere was edited after this process has loaded it.

    Cost:
        Two training steps, and a pass over sixteen examples of each held-out split.
    """
    if not names_code(recipe.problem, recipe.arguments):
        return built
    training = recipe.training
    digests = {
        ELSEWHERE: source_elsewhere(recipe.problem, recipe.arguments, recipe.folder),
        BEHAVIOUR: behaviour(recipe, built),
    }
    found = {what: each for what, each in digests.items() if each}
    return replace(
        built,
        origin=(*built.origin, *found.values()),
        digests={**built.digests, **found},
        environment=digest(environment(training.device, training.threads)),
    )


def behaviour(recipe: DescentRecipe, built: "BuiltProblem") -> str:
    """Return 32 hex digits for what a problem computes; empty if it fails, which others tell.

    The steps are the first and the last of the run, at its initial metaparameters. Nothing is
    compiled for them. The bits are those of a machine, so they are compared in one environment only
    (``engine.numerics.environment``), which the keys of stages contain as well.

    Args:
        recipe: Names the problem.
        built: It, on its device.

    Raises:
        RuntimeError, MemoryError: If memory is short. Another process or another moment may have
            enough of it, and would get other digits than none.
        OSError: If a file did not answer this time, likewise.
    """
    training = recipe.training
    try:
        with deterministic(training.threads, tf32=training.tf32):
            return _digest(built)
    except Exception as error:
        short = is_out_of_memory(error) or isinstance(error, torch.OutOfMemoryError)
        if short or is_transient_while_parsing(error):
            raise
        return ""


def _digest(built: "BuiltProblem") -> str:
    routine = replace(built.routine, compile=False) if built.routine.compile else built.routine
    z = routine.point()
    state: State = routine.initial_state(z)
    found: list[object] = []
    for step in _steps(routine):
        state, loss = plain_step(routine, state, z, step)
        found += [loss, state]
    some = {
        name: split.at(torch.linspace(0, len(split) - 1, min(_SCORED, len(split))).long())
        for name, split in built.held_out.items()
    }
    found.append(built.scores(state, some))
    if not isinstance(built.output, MeanLoss):  # that is of the scores
        found.append(routine.evaluate(built.output, state))
    return hashlib.sha256(repr(canonical(found)).encode()).hexdigest()[:32]


def canonical(value: Any) -> Any:  # noqa: ANN401 (what a score may hold)
    """Return a value whose text is the same in every process exactly if the given one is the same.

    The order of names says nothing: a dict that was made of a set has another one in each process.
    Of an object that only its address tells from others, its class is shown.
    """
    if isinstance(value, Tensor):
        return fingerprint(value)
    if isinstance(value, np.ndarray | np.generic):
        return str(value.dtype), np.shape(value), value.tolist()
    if isinstance(value, Mapping):
        return sorted(
            (repr(canonical(name)), repr(canonical(each))) for name, each in value.items()
        )
    if isinstance(value, set | frozenset):
        return sorted(repr(canonical(each)) for each in value)
    if isinstance(value, list | tuple):
        return [canonical(each) for each in value]
    if isinstance(value, str | bytes | int | float | complex | None):
        return value
    return type(value).__qualname__


def _steps(routine: Routine) -> list[int]:
    """Return the first step and the last at which no candidates are injected, which is dear."""
    last = range(routine.num_steps - 1, 0, -1)
    plain = (step for step in last if next(iter(routine.injected_terms(step)), None) is None)
    return [0, *(step for step in [next(plain, 0)] if step)]
