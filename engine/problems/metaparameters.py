"""The metaparameters that a recipe asks for, at the value from which a descent starts."""

import math

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
from engine.numerics.determinism import generator
from engine.problems.fits import continuous_inputs
from engine.problems.splits import DataSet
from engine.problems.splitting import own_groups
from engine.recipes.descent import DescentRecipe
from engine.recipes.metaparameters import (
    GroupName,
    MetaparameterName,
    MetaparametersConfig,
    ScalarName,
)


def make_metaparameter(recipe: DescentRecipe, data: DataSet, model: nn.Module) -> Metaparameter:
    """Return the metaparameters of a recipe at their initial value."""
    train, dtype = data.splits["train"], getattr(torch, recipe.training.dtype.value)
    num_examples = len(train)
    match recipe.metaparameters.name:
        case MetaparameterName.COUNTS:
            counts = first_subset(recipe.metaparameters, num_examples, dtype)
            return Counts(counts, injection_steps=recipe.injection_steps)
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
            inputs = continuous_inputs(data, "metaparameters.name is inputs")
            return Inputs(inputs[chosen], chosen, num_examples, data.bounds)
        case MetaparameterName.INITIAL_PARAMETERS:
            return InitialParameters(initial_vector(model))


def initial_vector(model: nn.Module) -> Tensor:
    """Return the parameters that are trained as one vector on the CPU, as a run lays them out."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return parameters_to_vector(trained).detach().cpu()


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
    if config.groups == GroupName.CLASS and data.num_classes == 0:
        raise ConfigurationError(
            "metaparameters.groups is class, but the labels of the problem are no classes (whole "
            "numbers from 0, one for each example). Use cluster, or groups of the problem's own."
        )
    if config.groups == GroupName.CLASS:
        return GroupWeights(torch.zeros(data.num_classes, dtype=dtype), train.labels)
    if config.groups == GroupName.SOURCE and data.texts is not None:
        of_each = torch.tensor(data.texts.source_of)
        return GroupWeights(torch.zeros(len(data.texts.sources), dtype=dtype), of_each)
    if config.groups != GroupName.CLUSTER:
        of_each = own_groups(data, config.groups)
        return GroupWeights(torch.zeros(int(of_each.max()) + 1, dtype=dtype), of_each)
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
