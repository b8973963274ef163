"""A recipe made concrete: its problem on a device, with routine, output and scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from engine.errors import ConfigurationError, EngineError
from engine.metaparameters.base import Metaparameter
from engine.numerics.fingerprint import fingerprint
from engine.problems.base import Problem
from engine.problems.calls import call_problem
from engine.problems.data.splits import DataSet, Examples
from engine.problems.data.splitting import data_set
from engine.problems.fits import check_baselines_fit, check_fits, smooths_labels
from engine.problems.identity.configurations import configurations_of
from engine.problems.identity.repeats import check_alike
from engine.problems.identity.tried import identified
from engine.problems.kept_code import at_hand
from engine.problems.metaparameters import make_metaparameter
from engine.problems.own_training import (
    check_own_training,
    own_digests,
    own_scalars,
    own_settings,
    training_parts,
)
from engine.problems.scores import check_choice, mean_scores, unchanged
from engine.progress.meter import doing
from engine.recipes.code.user_code import raised, reload_file
from engine.recipes.descent import DescentRecipe
from engine.recipes.problem_functions import names_code, places_of
from engine.routine.coupled_loss import CoupledLoss
from engine.routine.diagnosis import HELD_OUT, user_code_error
from engine.routine.outputs import MeanLoss
from engine.routine.own_state import Own, told_state
from engine.routine.routine import Routine
from engine.step.by_name import make_vjp
from engine.step.reference import StepVjp
from engine.types import Loss, Output, State

_TRIED = 2000
"""Most held-out examples that metrics are tried on before a run."""

SPLITS = ("objective", "validation", "test")
"""Held-out splits, in the order in which reports show them."""


@dataclass(frozen=True)
class BuiltProblem:
    """What a recipe stands for, on its device.

    Attributes:
        data: All examples, on the CPU.
        routine: The run at the initial metaparameters.
        output: phi, the mean loss over the objective split unless the problem has another.
        held_out: Objective, validation and test examples, on the device.
        score: Maps (model, held-out examples) to its numbers, the loss among them.
        loss: Loss of held-out examples, one number for each.
        fresh_model: Maps a seed to a model with a start of its own, on the CPU.
        origin: What the bits depend on besides settings and data: packages, initial parameters,
            and what the problem trains with of its own.
        digests: What has to be the same in every call of the problem's function, by its name.
        notes: What people should know of the problem, in sentences.
        unread: Settings of a recipe that nothing reads, because the problem has its own.
        environment: Digest of what the bits of ``digests`` depend on besides; see
            ``engine.problems.identity``.
    """

    data: DataSet
    routine: Routine
    output: Output
    held_out: dict[str, Examples]
    score: Callable[[nn.Module, Any], dict[str, Any]]
    loss: Loss
    fresh_model: Callable[[int], nn.Module]
    origin: tuple[str, ...] = ()
    digests: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unread: frozenset[str] = frozenset()
    environment: str = ""

    @property
    def kind(self) -> Metaparameter:
        """The recipe's metaparameter, at its initial value."""
        return self.routine.metaparameter

    def scores(
        self, state: State, held_out: Mapping[str, Examples] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Score a trained model on each held-out split, or on other examples by name."""

        def score(examples: Examples) -> Callable[..., dict[str, Any]]:
            return lambda model, state=None: self.score(
                model, examples, **told_state(self.score, state)
            )

        splits = {name: self.held_out[name] for name in SPLITS} if held_out is None else held_out
        with torch.no_grad():
            return {
                name: self.routine.evaluate(score(each), state) for name, each in splits.items()
            }


def build_problem(
    recipe: DescentRecipe, store: str | None = None, *, anew: bool = False
) -> BuiltProblem:
    """Call the function of a recipe's problem, and build the run around what it returns.

    The last two results are kept in memory, because every stage of a run asks for the same one.

    Args:
        recipe: Names the problem.
        store: fsspec URL of the run's store, where the source may lie (``workers.code``).
        anew: Whether files and data are read once more, for another start in the same process.

    Raises:
        DataError: If the data cannot be read or do not fit the recipe.
        ConfigurationError: If the parts of the recipe do not fit together.
    """
    found = recipe if store is None else at_hand(recipe, store)
    if anew:
        _build.cache_clear()
        for place in places_of(found.problem, found.arguments):
            reload_file(place, found.folder)
    return _build(found.model_dump_json())


def check_repeats(recipe: DescentRecipe, store: str | None = None) -> None:
    """Refuse a problem whose function returns something else each time, by calling it once more.

    Every worker calls the function for itself, and if two of them got different results, their
    stages would belong to different runs.

    Args:
        recipe: Names the problem.
        store: As for ``build_problem``.

    Raises:
        ConfigurationError: Says what differs: the model, the examples, or what a step that is tried
            once more computes.

    Cost:
        A second call of the function, and four training steps.
    """
    if not names_code(recipe.problem, recipe.arguments):
        return
    found = recipe if store is None else at_hand(recipe, store)
    one = build_problem(found)
    with doing("once more, to see whether it is the same"):
        other = _build.__wrapped__(found.model_dump_json())
    check_alike(recipe, one, other)


def check_scores(recipe: DescentRecipe, store: str | None = None) -> None:
    """Refuse a problem's metrics and pictures if they fail, and a choice by an unknown score.

    Args:
        recipe: Names the problem.
        store: As for ``build_problem``.

    Cost:
        Two evaluations of at most some thousand held-out examples, spread evenly over each split.

    Raises:
        ConfigurationError: Names the metric and the line.
    """
    if not names_code(recipe.problem, recipe.arguments):
        check_chosen_by(recipe, build_problem(recipe, store))
        return
    built = build_problem(recipe, store)
    check_choice(recipe.outer, _score_untrained(recipe, built, "validation"))
    _score_untrained(recipe, built, "test")
    if built.data.show is not None:
        try:
            built.data.show(0)
        except Exception as error:
            raise ConfigurationError(
                f"show of problem {recipe.problem} raised {raised(error)}. That was for the first "
                "candidate. Return a picture or a text, or leave show out."
            ) from error


def check_chosen_by(recipe: DescentRecipe, built: BuiltProblem) -> None:
    """Refuse a choice of the iterate by a score that the problem lacks; free if the loss chooses.

    Raises:
        ConfigurationError: Says what is measured.
    """
    if recipe.outer.choose_by != "loss":
        check_choice(recipe.outer, _score_untrained(recipe, built, "validation"))


def _score_untrained(recipe: DescentRecipe, built: BuiltProblem, split: str) -> dict[str, Any]:
    """Return the scores of the untrained model on some examples of a split."""
    held_out = built.held_out[split]
    number = min(len(held_out), _TRIED)
    few = held_out.at(torch.linspace(0, len(held_out) - 1, number).long())
    try:
        return built.scores(built.routine.initial_state(), {split: few})[split]
    except EngineError:
        raise
    except Exception as error:
        what = f"The loss fails on {split} of problem {recipe.problem}"
        raise user_code_error(what, error, HELD_OUT) from error


@lru_cache(maxsize=2)
def _build(settings: str) -> BuiltProblem:
    recipe = DescentRecipe.model_validate_json(settings)
    with doing("reading the data"):
        made = built(recipe, call_problem(recipe))
        return identified(recipe, made)


def built(recipe: DescentRecipe, problem: Problem) -> BuiltProblem:
    """Build the run of a recipe around a problem, whoever made it.

    Args:
        recipe: All settings but those of the problem.
        problem: It is left as it is, except for a model that its function made for this run.

    Raises:
        DataError: If the data do not fit the recipe.
        ConfigurationError: If the parts of the recipe do not fit together.
    """
    device = _device(recipe.training.device)
    check_fits(recipe, problem)
    check_own_training(recipe, problem)
    data, notes = data_set(problem, getattr(torch, recipe.training.dtype.value))
    check_baselines_fit(recipe, data)
    routine = _routine(recipe, problem, data, device)
    start = _start(routine.model)
    own = {**configurations_of(routine.model), **own_digests(problem, routine)}
    held_out = {name: data.splits[name].to(device) for name in SPLITS}
    notes += _several_times(recipe, problem, len(data.splits["train"]))
    chunk = _chunk(recipe, problem)
    output = problem.output or MeanLoss(problem.loss, held_out["objective"].batches(device), chunk)
    return BuiltProblem(
        data=data,
        routine=routine,
        output=output,
        held_out=held_out,
        score=partial(_score, problem, chunk),
        loss=problem.loss,
        fresh_model=lambda seed: make_model(recipe, problem, seed, fresh=True),
        origin=(*problem.origin, *start, *own.values()),
        digests={"initial parameters of the model": start, "examples": data.fingerprint, **own},
        notes=notes,
        unread=own_settings(problem),
    )


def _several_times(recipe: DescentRecipe, problem: Problem, candidates: int) -> tuple[str, ...]:
    """Return what people should know of a batch that is larger than the pool, in sentences."""
    size = recipe.training.batch_size
    if problem.order is not None or size <= candidates:
        return ()
    return (
        f"A batch of {size} is larger than the {candidates} candidates there are, so it holds "
        "some of them several times (training.batch_size).",
    )


def _routine(
    recipe: DescentRecipe, problem: Problem, data: DataSet, device: torch.device
) -> Routine:
    """Return the run of a recipe on its device, at the initial metaparameters."""
    model = make_model(recipe, problem, recipe.training.seed)
    name = recipe.metaparameters.name.value.replace("-", "_")
    parts = training_parts(recipe, problem, len(data.splits["train"]))
    of_own = problem.optimizer is not None and "scalars" in recipe.metaparameters.about.reads
    kind = (
        own_scalars(recipe, parts["optimizer"])
        if of_own
        else make_metaparameter(recipe, data, model, problem)
    )
    return Routine(
        model=model.to(device),
        loss=_training_loss(recipe, problem),
        examples=data.splits["train"].batches(device),
        num_steps=recipe.training.num_steps,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        metaparameters={name: kind},
        augment=problem.augment,
        compile=recipe.training.compile,
        path=recipe.training.path,
        piece=recipe.training.piece,
        shards=recipe.training.shards,
        skip_idle=recipe.training.skip_idle,
        **parts,
    )


def make_model(
    recipe: DescentRecipe, problem: Problem, seed: int, *, fresh: bool = False
) -> nn.Module:
    """Return a problem's model with the start of a seed, on the CPU, in the recipe's format.

    Args:
        recipe: Names the function, which is called again for a fresh model that it made itself.
        problem: What it returned.
        seed: Seed of the start.
        fresh: Whether the start has to be another than the problem's own.

    Raises:
        ConfigurationError: If what makes models makes something else.
    """
    given: Any = problem.model
    if isinstance(given, nn.Module):
        given = call_problem(recipe, seed).model if fresh else given
    else:
        try:
            given = given(seed)
        except EngineError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"The function of the seed that problem {recipe.problem} has for its model raised "
                f"{raised(error)}. It is called as model(seed), and returns an nn.Module."
            ) from error
    if not isinstance(given, nn.Module):
        raise ConfigurationError(
            f"The function of the seed that problem {recipe.problem} has for its model returned a "
            f"{type(given).__name__}. Return an nn.Module."
        )
    return given.to(getattr(torch, recipe.training.dtype.value))


def _score(
    problem: Problem, chunk: int, model: nn.Module, examples: Examples, state: Own | None = None
) -> dict[str, Any]:
    if problem.score is not None:
        with unchanged(model, "The function score"):
            return problem.score(model, examples, chunk, **told_state(problem.score, state))
    device = next(model.parameters()).device
    functions = {"loss": problem.loss, **problem.metrics}
    told = {
        name: partial(each, **told_state(each, state)) if state is not None else each
        for name, each in functions.items()
    }
    loss = told.pop("loss")
    return mean_scores(model, examples.batches(device), chunk, loss, told)


def _chunk(recipe: DescentRecipe, problem: Problem) -> int:
    """Return how many held-out examples are evaluated together."""
    if problem.chunk is not None:
        return problem.chunk
    return recipe.training.batch_size if isinstance(problem.loss, CoupledLoss) else 1000


def _start(model: nn.Module) -> tuple[str, ...]:
    """Return the digests of all tensors of a model at its start.

    Adapters leave most of a pretrained model out of the state.
    """
    tensors = (*model.parameters(), *model.buffers())
    return tuple(fingerprint(tensor.detach()) for tensor in tensors)


def make_step_vjp(recipe: DescentRecipe, routine: Routine) -> StepVjp:
    """Return how a recipe reverses a step.

    Raises:
        ConfigurationError: If the mode takes no micro-batches, and there are some.
    """
    replay, uses = recipe.replay, num_uses(recipe, routine)
    return make_vjp(replay.vjp, micro_batch=replay.micro_batch, num_uses=uses)


def num_uses(recipe: DescentRecipe, routine: Routine) -> int:
    """Return how many steps a recipe's run reverses."""
    return (routine.num_steps - routine.first_step) * recipe.outer.num_steps


def _training_loss(recipe: DescentRecipe, problem: Problem) -> Loss:
    loss, smoothing = problem.training_loss or problem.loss, recipe.training.label_smoothing
    if (
        not smoothing or recipe.metaparameters.smooths_labels
    ):  # then the metaparameter hands it to the loss
        return loss
    assert smooths_labels(loss)  # refused otherwise
    return partial(loss, label_smoothing=smoothing)  # pyright: ignore[reportCallIssue] (just asked)


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            f"training.device is {name}, but torch {torch.__version__} finds no CUDA device. "
            "Use training.device=cpu, or install a CUDA build of torch on a machine with a GPU."
        )
    return device
