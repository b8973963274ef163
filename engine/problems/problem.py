"""A recipe made concrete: its data, its routine and its output."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter
from engine.metaparameters.counts import Counts
from engine.metaparameters.initial_parameters import InitialParameters
from engine.metaparameters.inputs import Inputs
from engine.metaparameters.learning_rate import LearningRatePoints
from engine.metaparameters.scalars import Scalars
from engine.metaparameters.weights import ExampleWeights, GroupWeights
from engine.models.build import build_model
from engine.models.losses import per_example_cross_entropy
from engine.numerics.determinism import generator
from engine.problems.data_sets import load_data
from engine.problems.pairs.workload import pairs_task
from engine.problems.splits import DataSet, Examples
from engine.problems.texts.model import LanguageModel, build_language_model, origin
from engine.problems.texts.splits import load_texts
from engine.problems.workload import Task
from engine.recipes.data import PAIRS, DataName
from engine.recipes.descent import DescentRecipe
from engine.recipes.metaparameters import (
    GroupName,
    MetaparameterName,
    MetaparametersConfig,
    ScalarName,
)
from engine.routine.optimizers import make_optimizer
from engine.routine.outputs import MeanLoss, classification_scores
from engine.routine.rates import learning_rates
from engine.routine.routine import Routine
from engine.step.by_name import make_vjp
from engine.step.reference import StepVjp
from engine.types import Loss, State

SPLITS = ("objective", "validation", "test")
"""Held-out splits, in the order in which reports show them."""

TEXTS_TOGETHER = 64
"""Held-out texts evaluated at a time: each has as many logits as tokens times vocabulary."""


@dataclass(frozen=True)
class Problem:
    """What a recipe stands for, on its device.

    Attributes:
        data: All examples, on the CPU.
        routine: The run at the initial metaparameters.
        output: phi, the mean loss over the objective split.
        held_out: Objective, validation and test examples, on the device.
        score: Maps (model, held-out examples) to its figures, the loss among them.
        origin: What the bits depend on besides settings and data, e.g. pretrained weights.
    """

    data: DataSet
    routine: Routine
    output: MeanLoss
    held_out: dict[str, Examples]
    score: Callable[[nn.Module, Any], dict[str, Any]]
    origin: tuple[str, ...] = ()

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


def build_problem(recipe: DescentRecipe) -> Problem:
    """Read the data and build model, optimizer and metaparameters of a recipe.

    The last two are kept, because every stage of a run asks for the same one.

    Raises:
        DataError: If the data cannot be read or do not fit the recipe.
        ConfigurationError: If the parts of the recipe do not fit together.
    """
    return _build(recipe.model_dump_json())


@lru_cache(maxsize=2)
def _build(settings: str) -> Problem:
    recipe = DescentRecipe.model_validate_json(settings)
    device = _device(recipe.training.device)
    dtype = getattr(torch, recipe.training.dtype.value)
    task = _task(recipe, dtype)
    data, model = task.data, task.model.to(device)
    train = data.splits["train"]
    name = recipe.metaparameters.name.value.replace("-", "_")
    routine = Routine(
        model=model,
        loss=task.training_loss,
        examples=train.batches(device),
        optimizer=make_optimizer(recipe.optimizer),
        learning_rate=learning_rates(recipe.training),
        num_steps=recipe.training.num_steps,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        metaparameters={name: _kind(recipe, data, model)},
        compile=recipe.training.compile,
        path=recipe.training.path,
        piece=recipe.training.piece,
        shards=recipe.training.shards,
    )
    held_out = {name: data.splits[name].to(device) for name in SPLITS}
    objective = held_out["objective"]
    output = MeanLoss(task.loss, (objective.inputs, objective.labels), task.chunk)
    return Problem(data, routine, output, held_out, task.score, task.origin)


def _task(recipe: DescentRecipe, dtype: torch.dtype) -> Task:
    """Read the examples of a recipe, and build a model for them."""
    if recipe.data.name in PAIRS:
        return pairs_task(recipe, dtype)
    reads_text = recipe.data.name is DataName.TEXT
    data = load_texts(recipe) if reads_text else load_data(recipe.data, dtype)
    model = _model(recipe, data)
    chunk = TEXTS_TOGETHER if reads_text else 1000
    return Task(
        data,
        model,
        per_example_cross_entropy,
        _training_loss(recipe),
        lambda model, examples: classification_scores(
            model, examples.inputs, examples.labels, chunk=chunk
        ),
        chunk,
        origin(recipe.language, model) if isinstance(model, LanguageModel) else (),
    )


def _model(recipe: DescentRecipe, data: DataSet) -> nn.Module:
    dtype = getattr(torch, recipe.training.dtype.value)
    train, seed = data.splits["train"], recipe.training.seed
    if recipe.data.name is not DataName.TEXT:
        shape = tuple(train.inputs.shape[1:])
        return build_model(recipe.model, shape, data.num_classes, seed=seed, dtype=dtype)
    return build_language_model(
        recipe.model,
        recipe.language,
        vocabulary=data.num_classes,
        num_positions=train.inputs.shape[1],
        seed=seed,
        dtype=dtype,
    )


def make_step_vjp(recipe: DescentRecipe, routine: Routine) -> StepVjp:
    """Return how a recipe reverses a step.

    Raises:
        ConfigurationError: If the mode takes no micro-batches, and there are some.
    """
    replay, num_reversed = recipe.replay, routine.num_steps - routine.first_step
    num_uses = num_reversed * recipe.outer.num_steps
    return make_vjp(replay.vjp, micro_batch=replay.micro_batch, num_uses=num_uses)


def _training_loss(recipe: DescentRecipe) -> Loss:
    smoothing = recipe.training.label_smoothing
    metaparameter = (
        recipe.metaparameters.name is MetaparameterName.SCALARS
        and ScalarName.LABEL_SMOOTHING in recipe.metaparameters.scalars
    )
    if not smoothing or metaparameter:  # then the metaparameter hands it to the loss
        return per_example_cross_entropy
    return partial(per_example_cross_entropy, label_smoothing=smoothing)


def _kind(recipe: DescentRecipe, data: DataSet, model: nn.Module) -> Metaparameter:
    train, dtype = data.splits["train"], getattr(torch, recipe.training.dtype.value)
    num_examples = len(train)
    match recipe.metaparameters.name:
        case MetaparameterName.COUNTS:
            counts = first_subset(recipe.metaparameters, num_examples, dtype)
            return Counts(counts, injection_step=recipe.injection_step)
        case MetaparameterName.WEIGHTS:
            return ExampleWeights(torch.ones(num_examples, dtype=dtype))
        case MetaparameterName.LEARNING_RATE:
            flat = math.log(recipe.training.learning_rate)
            points = torch.full((recipe.metaparameters.num_key_points,), flat, dtype=dtype)
            return LearningRatePoints(points, num_steps=recipe.training.num_steps)
        case MetaparameterName.SCALARS:
            return Scalars.of(dtype, **_scalars(recipe))
        case MetaparameterName.GROUP_WEIGHTS:
            kind = group_weights(recipe.metaparameters, data, dtype)
            return kind.with_value(kind.proportional())
        case MetaparameterName.INPUTS:
            drawn = generator(recipe.metaparameters.seed, "chosen inputs")
            number = max(round(recipe.metaparameters.fraction * num_examples), 1)
            chosen = torch.randperm(num_examples, generator=drawn)[:number].sort().values
            return Inputs(train.inputs[chosen], chosen, num_examples, data.bounds)
        case MetaparameterName.INITIAL_PARAMETERS:
            return InitialParameters(parameters_to_vector(model.parameters()).detach().cpu())


def first_subset(config: MetaparametersConfig, num_examples: int, dtype: torch.dtype) -> Tensor:
    """Return the counts that a descent starts from: all once, or a random share once."""
    counts = torch.zeros(num_examples, dtype=dtype)
    drawn = generator(config.seed, "first subset")
    number = max(round(config.kept * num_examples), 1)
    counts[torch.randperm(num_examples, generator=drawn)[:number]] = 1
    return counts


def group_weights(config: MetaparametersConfig, data: DataSet, dtype: torch.dtype) -> GroupWeights:
    """Return the uniform mixture of the classes, of clusters of the inputs, or of sources."""
    train = data.splits["train"]
    if config.groups is GroupName.CLASS:
        return GroupWeights(torch.zeros(data.num_classes, dtype=dtype), train.labels)
    if config.groups is GroupName.SOURCE:
        if data.texts is None:
            raise ConfigurationError(
                "metaparameters.groups is source, but only texts have sources. Use class or "
                "cluster, or data.name=text."
            )
        of_each = torch.tensor(data.texts.source_of)
        return GroupWeights(torch.zeros(len(data.texts.sources), dtype=dtype), of_each)
    from sklearn.cluster import KMeans  # a second of import that other runs can spare

    points = train.inputs.flatten(1).to(torch.float64).numpy()
    found = KMeans(config.num_groups, n_init="auto", random_state=config.seed % 2**32).fit(points)
    groups = torch.from_numpy(found.labels_).to(torch.int64)
    return GroupWeights(torch.zeros(config.num_groups, dtype=dtype), groups)


def _scalars(recipe: DescentRecipe) -> dict[str, float]:
    """Return where the scalars start: the recipe's own settings."""
    names = recipe.metaparameters.scalars
    sources = {name: recipe.optimizer for name in names} | {
        ScalarName.LABEL_SMOOTHING: recipe.training
    }
    return {name.value: getattr(sources[name], name.value) for name in names}


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            f"training.device is {name}, but torch {torch.__version__} finds no CUDA device. "
            "Use training.device=cpu, or install a CUDA build of torch on a machine with a GPU."
        )
    return device
