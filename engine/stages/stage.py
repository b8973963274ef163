"""Declares a stage once: a function, its name, and which of its parameters are not inputs.

``@stage("train")`` makes a ``Stage`` of the function that computes it. A call of the stage returns
the reference of a committed result, which is found again or made now by the function. All
parameters are inputs unless they are named as exceptions, so a new parameter changes the key by
itself.
"""

import inspect
import re
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec

from engine.errors import ConfigurationError
from engine.stages import ahead
from engine.stages.commits import Made, committed, run_stage
from engine.stages.keys import Declaration, application_of, stage_key
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.storage.safe_names import KIND_PATTERN

P = ParamSpec("P")

STAGES: dict[str, "Stage[...]"] = {}
"""Every stage whose module is imported, by its name."""

_NAME = re.compile(KIND_PATTERN)
"""What records and folders of a store may be called."""

_TAKEN = {"recipe", "store"}
"""Parameters that a task of the pipeline has in place of ``run``."""


class Stage(Generic[P]):
    """A stage of the engine: called with a run and its inputs, it returns a reference.

    Attributes:
        declared: What its key has to know of it.
        compute: Makes the result, given the run and the inputs.
        signature: Signature of a call; without ``run``, its parameters are the inputs and
            ``cost_only``.
        cost_only: Parameters that change what a call costs and no bit of what it makes, so they
            are no inputs.
        num_rows: Maps the inputs, by name, to the number of rows that are made.
    """

    def __init__(
        self,
        declared: Declaration,
        compute: Callable[Concatenate[Run, P], Made],
        cost_only: frozenset[str],
        num_rows: Callable[..., int],
    ) -> None:
        update_wrapper(self, compute)
        self.__signature__ = inspect.signature(compute).replace(return_annotation=Ref)
        self.declared, self.compute = declared, compute
        self.cost_only, self.num_rows = cost_only, num_rows

    @property
    def name(self) -> str:
        """Kind of stage, e.g. train."""
        return self.declared.name

    @property
    def signature(self) -> inspect.Signature:
        """The signature of a call."""
        return self.__signature__

    @property
    def input_names(self) -> list[str]:
        """The parameters that are inputs, in their order."""
        return [name for name in [*self.signature.parameters][1:] if name not in self.cost_only]

    def __call__(self, run: Run, *args: P.args, **kwargs: P.kwargs) -> Ref:
        """Return the stage's reference: of the committed result, or of the one that is made now.

        Raises:
            ReplayMismatchError: If another attempt has committed other bits.
            StoreError: If the store does not answer or is full.
        """
        inputs = self.inputs(run, *args, **kwargs)
        before = None
        if ahead.is_any():
            before = ahead.take(self, run, self.key(run, *args, **kwargs))
        made, spent = (None, 0.0) if before is None else before
        return run_stage(
            self.declared,
            run,
            inputs,
            lambda: self.compute(run, *args, **kwargs) if made is None else made,
            num_rows=self.num_rows(**inputs),
            spent=spent,
        )

    def inputs(self, run: Run, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """Return the inputs of a call by their names, defaults filled in."""
        given = self.signature.bind(run, *args, **kwargs)
        given.apply_defaults()
        return {name: given.arguments[name] for name in self.input_names}

    def key(self, run: Run, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the digest of everything that shapes the result of a call, 32 hex digits."""
        return stage_key(self.declared, run, self.inputs(run, *args, **kwargs))

    def committed(self, run: Run, *args: P.args, **kwargs: P.kwargs) -> Ref | None:
        """Return the reference if the stage is committed; does not look at its rows."""
        return committed(self.name, self.key(run, *args, **kwargs), run.store)

    def __reduce__(self) -> str:
        """Travel to a worker as a name, which it imports."""
        return self.compute.__qualname__


def stage(
    name: str,
    *,
    cost_only: set[str] | frozenset[str] = frozenset(),
    reverses: bool = False,
    moves: bool = False,
    num_rows: Callable[..., int] = lambda **_: 1,
) -> Callable[[Callable[Concatenate[Run, P], Made]], Stage[P]]:
    """Declare a stage: a decorator of the function that computes it from a run and its inputs.

    Args:
        name: Kind of stage, which no other stage has; ``engine.storage.names`` lists them.
        cost_only: Parameters that change what a call costs and no bit of what it makes.
        reverses: Whether it reverses steps.
        moves: Whether it moves z as ``outer`` says.
        num_rows: Maps the inputs, by name, to the number of rows that are made.

    Raises:
        ConfigurationError: If the name is taken, or the function cannot be a stage.
    """

    def declare(compute: Callable[Concatenate[Run, P], Made]) -> Stage[P]:
        _check(name, compute, frozenset(cost_only))
        declared = Declaration(name, application_of(compute.__module__), reverses, moves)
        made = Stage(declared, compute, frozenset(cost_only), num_rows)
        _check_is_free(made)
        STAGES[name] = made
        return made

    return declare


def _check(name: str, compute: Callable[..., Made], cost_only: frozenset[str]) -> None:
    """Refuse a function whose parameters cannot be the inputs of a key."""
    parameters = inspect.signature(compute).parameters
    first, *others = parameters or [""]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    unnamed = [each.name for each in parameters.values() if each.kind not in named]
    unknown = sorted(cost_only - set(others))
    if not _NAME.fullmatch(name):
        problem = "a stage has small letters, and hyphens between them. Give it such a name"
    elif first != "run":
        problem = f"its first parameter is {first or 'missing'}. Call that one run"
    elif unnamed:
        problem = f"{unnamed[0]} stands for any number of values. Name each input"
    elif unknown:
        problem = f"cost_only names {unknown[0]}, which is none of its parameters. Correct that"
    elif taken := sorted(_TAKEN.intersection(others)):
        problem = f"it has a parameter {taken[0]}, which is a part of run. Take that from there"
    else:
        return
    raise ConfigurationError(f"{compute.__qualname__} cannot be the stage {name}: {problem}.")


def _check_is_free(made: Stage[...]) -> None:
    """Refuse a name that another function has; a module that is loaded again has it still."""
    other = STAGES.get(made.name)
    if other is not None and _place(other) != _place(made):
        raise ConfigurationError(
            f"{_place(made)} is declared as the stage {made.name}, and so is {_place(other)}: one "
            "would find what the other has made. Give one of them another name."
        )


def _place(one: Stage[...]) -> str:
    return f"{one.compute.__module__}.{one.compute.__qualname__}"
