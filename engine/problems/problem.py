"""A recipe made concrete: its problem, its routine and its output."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter
from engine.numerics.fingerprint import fingerprint
from engine.problems.base import Problem
from engine.problems.calls import call_problem
from engine.problems.fits import check_baselines_fit, check_fits, smooths_labels
from engine.problems.metaparameters import make_metaparameter
from engine.problems.scores import mean_scores
from engine.problems.splits import DataSet, Examples
from engine.problems.splitting import data_set
from engine.recipes.descent import DescentRecipe
from engine.recipes.metaparameters import MetaparameterName, ScalarName
from engine.recipes.problem_functions import names_code
from engine.routine.coupled_loss import CoupledLoss
from engine.routine.optimizers import make_optimizer
from engine.routine.outputs import MeanLoss
from engine.routine.rates import learning_rates
from engine.routine.routine import Routine
from engine.step.by_name import make_vjp
from engine.step.reference import StepVjp
from engine.types import Loss, Output, State

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
        score: Maps (model, held-out examples) to its figures, the loss among them.
        loss: Of held-out examples, one number for each.
        fresh_model: Maps a seed to a model with a start of its own, on the CPU.
        origin: What the bits depend on besides settings and data: packages, initial parameters.
        notes: What people should know of the problem, in sentences.
    """

    data: DataSet
    routine: Routine
    output: Output
    held_out: dict[str, Examples]
    score: Callable[[nn.Module, Any], dict[str, Any]]
    loss: Loss
    fresh_model: Callable[[int], nn.Module]
    origin: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> Metaparameter:
        """The recipe's metaparameter, at its initial value."""
        (kind,) = self.routine.metaparameters.values()
        return kind

    def routine_at(self, value: Tensor) -> Routine:
        """Return the routine at another value of the metaparameter, which may be flat."""
        ((name, kind),) = self.routine.metaparameters.items()
        return self.routine.with_metaparameters({name: value.reshape(kind.value.shape)})

    def scores(self, state: State) -> dict[str, dict[str, Any]]:
        """Score a trained model on each held-out split."""
        return {
            name: self.routine.evaluate(
                lambda model, e=self.held_out[name]: self.score(model, e), state
            )
            for name in SPLITS
        }


def build_problem(recipe: DescentRecipe) -> BuiltProblem:
    """Call the function of a recipe's problem, and build the run around what it returns.

    The last two are kept, because every stage of a run asks for the same one.

    Raises:
        DataError: If the data cannot be read or do not fit the recipe.
        ConfigurationError: If the parts of the recipe do not fit together.
    """
    return _build(recipe.model_dump_json())


def check_repeats(recipe: DescentRecipe) -> None:
    """Refuse a problem whose function returns something else each time, by calling it once more.

    Every worker calls it for itself, and what differs between two of them would be another run.

    Raises:
        ConfigurationError: Says whether the model or the examples differ.
    """
    if not names_code(recipe.problem, recipe.arguments):
        return
    one, other = build_problem(recipe), _build.__wrapped__(recipe.model_dump_json())
    differing = [
        what
        for what, same in (
            ("initial parameters of the model", one.origin == other.origin),
            ("examples", one.data.fingerprint == other.data.fingerprint),
        )
        if not same
    ]
    if differing:
        raise ConfigurationError(
            f"Two calls of the function of problem {recipe.problem} returned different "
            f"{' and '.join(differing)}, although torch, numpy and random were seeded alike. Draw "
            "from those generators, or from one that the function seeds itself, and read no clock."
        )


@lru_cache(maxsize=2)
def _build(settings: str) -> BuiltProblem:
    recipe = DescentRecipe.model_validate_json(settings)
    return built(recipe, call_problem(recipe))


def built(recipe: DescentRecipe, problem: Problem) -> BuiltProblem:
    """Build the run of a recipe around a problem, whoever made it.

    Args:
        recipe: All settings but those of the problem.
        problem: Is left as it is, but for a model that its function made for this run.

    Raises:
        DataError: If the data do not fit the recipe.
        ConfigurationError: If the parts of the recipe do not fit together.
    """
    device = _device(recipe.training.device)
    dtype = getattr(torch, recipe.training.dtype.value)
    check_fits(recipe, problem)
    data, notes = data_set(problem, dtype)
    check_baselines_fit(recipe, data)
    model = make_model(recipe, problem, recipe.training.seed)
    name = recipe.metaparameters.name.value.replace("-", "_")
    routine = Routine(
        model=model.to(device),
        loss=_training_loss(recipe, problem),
        examples=data.splits["train"].batches(device),
        optimizer=make_optimizer(recipe.optimizer),
        learning_rate=learning_rates(recipe.training),
        num_steps=recipe.training.num_steps,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        metaparameters={name: make_metaparameter(recipe, data, model)},
        augment=problem.augment,
        compile=recipe.training.compile,
        path=recipe.training.path,
        piece=recipe.training.piece,
        shards=recipe.training.shards,
    )
    held_out = {name: data.splits[name].to(device) for name in SPLITS}
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
        origin=_origin(problem, routine.model),
        notes=notes,
    )


def make_model(
    recipe: DescentRecipe, problem: Problem, seed: int, *, fresh: bool = False
) -> nn.Module:
    """Return a problem's model with the start of a seed, on the CPU, in the recipe's format.

    Args:
        recipe: Names the function, which is called again for a fresh model that it made itself.
        problem: What it returned.
        seed: Of the start.
        fresh: Whether the start has to be another than the problem's own.

    Raises:
        ConfigurationError: If what makes models makes something else.
    """
    given: Any = problem.model
    if isinstance(given, nn.Module):
        given = call_problem(recipe, seed).model if fresh else given
    else:
        given = given(seed)
    if not isinstance(given, nn.Module):
        raise ConfigurationError(
            f"The function of the seed that problem {recipe.problem} has for its model returned a "
            f"{type(given).__name__}. Return an nn.Module."
        )
    return given.to(getattr(torch, recipe.training.dtype.value))


def _score(problem: Problem, chunk: int, model: nn.Module, examples: Examples) -> dict[str, Any]:
    if problem.score is not None:
        return problem.score(model, examples, chunk)
    device = next(model.parameters()).device
    return mean_scores(model, examples.batches(device), chunk, problem.loss, problem.metrics)


def _chunk(recipe: DescentRecipe, problem: Problem) -> int:
    """Return how many held-out examples are evaluated together."""
    if problem.chunk is not None:
        return problem.chunk
    return recipe.training.batch_size if isinstance(problem.loss, CoupledLoss) else 1000


def _origin(problem: Problem, model: nn.Module) -> tuple[str, ...]:
    """Return what a stage's bits depend on besides settings and data: all of the model, too.

    Adapters leave most of a pretrained model out of the state.
    """
    tensors = (*model.parameters(), *model.buffers())
    start = [fingerprint(tensor.detach()) for tensor in tensors]
    return (*problem.origin, *start)


def make_step_vjp(recipe: DescentRecipe, routine: Routine) -> StepVjp:
    """Return how a recipe reverses a step.

    Raises:
        ConfigurationError: If the mode takes no micro-batches, and there are some.
    """
    replay, num_reversed = recipe.replay, routine.num_steps - routine.first_step
    num_uses = num_reversed * recipe.outer.num_steps
    return make_vjp(replay.vjp, micro_batch=replay.micro_batch, num_uses=num_uses)


def _training_loss(recipe: DescentRecipe, problem: Problem) -> Loss:
    loss, smoothing = problem.training_loss or problem.loss, recipe.training.label_smoothing
    metaparameter = (
        recipe.metaparameters.name is MetaparameterName.SCALARS
        and ScalarName.LABEL_SMOOTHING in recipe.metaparameters.scalars
    )
    if not smoothing or metaparameter:  # then the metaparameter hands it to the loss
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
