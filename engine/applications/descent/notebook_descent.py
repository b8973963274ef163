"""A descent in a notebook, made from a problem, a recipe or a routine."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from engine.errors import ConfigurationError
from engine.metaparameters.counts import Counts
from engine.problems.base import Problem
from engine.problems.built import BuiltProblem, build_problem, built, check_chosen_by, make_step_vjp
from engine.problems.scores import check_choice
from engine.recipes.descent import DescentRecipe, OuterRule, OuterSettings
from engine.recipes.execution import PreflightMode
from engine.recipes.files import load_recipe, validate_recipe, validated
from engine.recipes.replay import ReplaySettings
from engine.replay.fastest import with_fitting_schedule
from engine.replay.plain_training import evaluate
from engine.routine.intake import choice, refuse_output
from engine.routine.routine import Routine
from engine.schedules.by_name import NamedScheduleMaker, schedule_maker
from engine.schedules.segments import Segment, cut
from engine.step.by_name import make_vjp
from engine.step.reference import StepVjp
from engine.types import Output, State

Scores = dict[str, dict[str, Any]]
"""Split to its scores by name, ``loss`` among them."""

IN_MEMORY = "in-memory"
"""What the problem of a notebook is called in messages."""


@dataclass(frozen=True)
class NotebookDescent:
    """A descent that can begin.

    Attributes:
        routine: The run at z_0.
        output: phi.
        score: Maps (run, s_T) to scores by split.
        judge: The split that chooses the iterate.
        outer: How z moves.
        replay: How a run is reversed.
        preflight: Whether a refusal stops it.
        vjp: How a step is reversed.
        threads: Number of CPU threads; None leaves it as it is.
        tf32: Whether a GPU may round products to it.
    """

    routine: Routine
    output: Output
    score: Callable[[Routine, State], Scores]
    judge: str
    outer: OuterRule
    replay: ReplaySettings
    preflight: PreflightMode
    vjp: StepVjp
    threads: int | None = None
    tf32: bool = False

    @property
    def parts(self) -> list[Segment]:
        """The segments of the run, with a border at the first step that reads z."""
        length, run = self.replay.steps_per_segment, self.routine
        return cut(run.num_steps, length, run.first_step)

    @cached_property
    def maker(self) -> NamedScheduleMaker:
        """The schedule inside a segment; with auto the fastest, measured once."""
        return schedule_maker(
            with_fitting_schedule(self.replay, self.routine, self.output, self.vjp, None)
        )


def notebook_descent(
    what: Any,  # noqa: ANN401 (whatever was handed in)
    outputs: Output | Mapping[str, Output] | None,
    settings: dict[str, Any],
) -> NotebookDescent:
    """Return the descent that the arguments of ``engine.descend`` stand for.

    Raises:
        ConfigurationError: Names what is wrong with which of them.
    """
    if isinstance(what, Routine):
        return _of_routine(what, outputs, settings)
    if outputs is not None:
        raise ConfigurationError(
            f"You handed in outputs= together with a {type(what).__name__}, which has an output of "
            "its own. Hand in a Routine with outputs=, or set Problem(output=...)."
        )
    if isinstance(what, Problem):
        return _of_built(*_around(what, settings))
    recipe = load_recipe(what) if isinstance(what, str) else what
    if not isinstance(recipe, DescentRecipe):
        raise ConfigurationError(
            f"engine.descend cannot take a {type(what).__name__}. Hand in an engine.Problem, an "
            "engine.Routine, or a recipe by name, path or as a DescentRecipe."
        )
    if recipe.kind != "descent":
        raise ConfigurationError(
            f"The recipe {recipe.name} is of kind {recipe.kind}, but engine.descend takes recipes "
            "of kind descent. Run this one with `mgd run`."
        )
    recipe = _changed(recipe, settings)
    return _of_built(recipe, build_problem(recipe, anew=True))  # files may have been edited


def _changed(recipe: DescentRecipe, settings: dict[str, Any]) -> DescentRecipe:
    """Return a recipe with some of its settings changed, group by group."""
    if not settings:
        return recipe
    content = recipe.model_dump(mode="json")
    if {"problem", "arguments"} & settings.keys():
        del content["code"]  # of other code or another model, named here by a person
    for name, value in settings.items():
        before = content.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            content[name] = {**before, **value}
        else:
            content[name] = value
    made = validate_recipe(content, f"The recipe {recipe.name} with these settings")
    assert isinstance(made, DescentRecipe)  # by its kind
    return made


def _around(problem: Problem, settings: dict[str, Any]) -> tuple[DescentRecipe, BuiltProblem]:
    """Return the recipe of a notebook's problem, and the run that both make."""
    foreign = {"problem", "arguments", "folder", "code", "kind"} & settings.keys()
    if foreign:
        raise ConfigurationError(
            f"The setting {min(foreign)} belongs to a recipe that names its problem, but you "
            "handed in an engine.Problem. Leave the setting out, or hand in a recipe."
        )
    recipe = validate_recipe({"name": "notebook", **settings}, "A descent with these settings")
    recipe = recipe.model_copy(update={"problem": IN_MEMORY, "arguments": {}})
    if isinstance(problem.model, nn.Module):  # a run converts it to its number format
        problem = replace(problem, model=deepcopy(problem.model))
    return recipe, built(recipe, problem)


def _of_built(recipe: DescentRecipe, problem: BuiltProblem) -> NotebookDescent:
    check_chosen_by(recipe, problem)
    return NotebookDescent(
        routine=problem.routine,
        output=problem.output,
        score=lambda _, state: problem.scores(state),
        judge="validation",
        outer=recipe.rule,
        replay=recipe.replay,
        preflight=recipe.preflight,
        vjp=make_step_vjp(recipe, problem.routine),
        threads=recipe.training.threads,
        tf32=recipe.training.tf32,
    )


def _of_routine(
    routine: Routine,
    outputs: Output | Mapping[str, Output] | None,
    settings: dict[str, Any],
) -> NotebookDescent:
    """Return the descent of a routine that a notebook has made.

    Raises:
        ConfigurationError: If a setting or an output cannot be.
    """
    named = _outputs_by_name(outputs)
    _refuse_settings_of_routine(routine, settings)
    outer = validated(OuterSettings, **settings.get("outer", {}))
    replay = validated(ReplaySettings, **settings.get("replay", {}))
    uses = (routine.num_steps - routine.first_step) * outer.num_steps
    return NotebookDescent(
        routine=routine,
        output=named["objective"],
        score=lambda run, state: {
            name: {"loss": float(evaluate(run, state, output))} for name, output in named.items()
        },
        judge="validation" if "validation" in named else "objective",
        outer=_rule(outer, routine),
        replay=replay,
        preflight=choice(
            PreflightMode, "preflight", settings.get("preflight", PreflightMode.ENFORCE)
        ),
        vjp=make_vjp(replay.vjp, micro_batch=replay.micro_batch, num_uses=uses),
    )


def _refuse_settings_of_routine(routine: Routine, settings: dict[str, Any]) -> None:
    """Refuse settings that a descent of a Routine does not have, and a Routine that cannot descend.

    Raises:
        ConfigurationError: If it is refused; names the setting, or the number of metaparameters.
    """
    known = ("outer", "replay", "preflight")
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise ConfigurationError(
            f"The setting {unknown[0]!r} is fixed by the Routine. A descent of a Routine takes the "
            f"settings {', '.join(known)}."
        )
    if len(routine.metaparameters) != 1:
        raise ConfigurationError(
            f"The routine has {len(routine.metaparameters)} metaparameters "
            f"({', '.join(routine.metaparameters) or 'none'}), but a descent moves exactly one. "
            "Make the routine with the one to move."
        )
    for name in ("outer", "replay"):
        if not isinstance(settings.get(name, {}), Mapping):
            raise ConfigurationError(
                f"{name} is a {type(settings[name]).__name__}. Hand in a dictionary of settings, "
                "e.g. outer={'num_steps': 5}."
            )


def _rule(outer: OuterSettings, routine: Routine) -> OuterRule:
    """Return how z moves.

    Raises:
        ConfigurationError: If the settings do not fit the kind of metaparameter.
    """
    kind = routine.metaparameter
    try:
        rule = outer.rule(by_whole=isinstance(kind, Counts))
    except ConfigurationError as error:
        raise ConfigurationError(
            f"The routine's metaparameter is {type(kind).__name__}, but {error}"
        ) from None
    check_choice(outer, {"loss": 0.0})
    return rule


def _outputs_by_name(outputs: Output | Mapping[str, Output] | None) -> dict[str, Output]:
    """Return outputs by name, with an objective among them."""
    if outputs is None:
        raise ConfigurationError(
            "A Routine has no output to minimize. Hand one in: engine.descend(routine, output), or "
            "outputs={'objective': ..., 'validation': ...}."
        )
    named = dict(outputs) if isinstance(outputs, Mapping) else {"objective": outputs}
    if "objective" not in named:
        raise ConfigurationError(
            f"outputs has {', '.join(map(repr, named)) or 'nothing'}, but no 'objective', which is "
            "the output that is minimized. Give one of them that name."
        )
    for output in named.values():
        refuse_output(output)
    return named
