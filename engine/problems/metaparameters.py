"""The metaparameters that a recipe asks for, at the value from which a descent starts."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from engine.errors import ConfigurationError
from engine.extras import load
from engine.metaparameters.base import Metaparameter
from engine.metaparameters.by_name import kind_of
from engine.metaparameters.setup import Setup
from engine.problems.base import Problem
from engine.problems.data.splits import DataSet
from engine.problems.data.splitting import own_groups
from engine.problems.fits import continuous_inputs
from engine.recipes.descent import DescentRecipe
from engine.recipes.metaparameters import GroupName, MetaparametersSettings


def make_metaparameter(
    recipe: DescentRecipe,
    data: DataSet,
    model: nn.Module,
    problem: Problem,
) -> Metaparameter:
    """Return the metaparameters of a recipe at their initial value.

    Args:
        recipe: Says which.
        data: The examples.
        model: Model at its start.
        problem: May have embeddings, and metaparameters of its own.
    """
    train, embedding = data.splits["train"], problem.embedding
    setup = Setup(
        recipe=recipe,
        num_examples=len(train),
        inputs=lambda positions: continuous_inputs(
            data, f"metaparameters.name is {recipe.metaparameters.name.value}"
        )[positions],
        bounds=data.bounds,
        shifts=None if embedding is None else partial(_shifts, data, model, embedding),
        groups=lambda: groups(recipe.metaparameters, data),
        parameters=lambda: initial_vector(model),
        own=lambda: own_metaparameter(recipe, problem),
    )
    return kind_of(recipe.metaparameters.name).start(setup)


def own_metaparameter(recipe: DescentRecipe, problem: Problem) -> Metaparameter:
    """Return the metaparameter of the problem's own that a recipe names.

    Raises:
        ConfigurationError: If there is none of that name, or it is no ``Metaparameter``.
    """
    name, known = recipe.metaparameters.own, problem.metaparameters
    chosen = next(iter(known)) if name is None and len(known) == 1 else name
    if chosen is None or chosen not in known:
        has = f"has {', '.join(known)}" if known else "has none of its own"
        remedy = (
            f"Set metaparameters.own to one of {', '.join(known)}."
            if known
            else "Give its engine.Problem metaparameters={name: kind}, or name another kind."
        )
        raise ConfigurationError(
            f"metaparameters.name is own and metaparameters.own {name or 'empty'}, but problem "
            f"{recipe.problem} {has}. {remedy}"
        )
    if not isinstance(known[chosen], Metaparameter):
        raise ConfigurationError(
            f"metaparameters[{chosen!r}] of problem {recipe.problem} is a "
            f"{type(known[chosen]).__name__}. Make it an object of a subclass of "
            "engine.Metaparameter, e.g. engine.ExampleWeights(torch.ones(n))."
        )
    return known[chosen]


def _shifts(
    data: DataSet, model: nn.Module, embedding: Callable[[nn.Module], Tensor]
) -> tuple[Tensor, float]:
    """Return zeros of the shape of an embedded input, and the largest element of an embedding."""
    known = embedding(model).detach().cpu()
    tokens = data.splits["train"].inputs.shape[1:]
    return torch.zeros(*tokens, known.shape[-1], dtype=known.dtype), float(known.abs().max())


def initial_vector(model: nn.Module) -> Tensor:
    """Return the parameters that are trained as one vector on the CPU, as a run lays them out."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return parameters_to_vector(trained).detach().cpu()


def groups(settings: MetaparametersSettings, data: DataSet) -> tuple[Tensor, int]:
    """Return the class, cluster, source or own group of each candidate, and how many there are.

    Returns:
        Integers from 0, shape (examples,), and the number of groups.

    Raises:
        ConfigurationError: If the problem has no such groups, or one alone.
    """
    of_each, number = _groups(settings, data)
    if number < 2:
        raise ConfigurationError(
            f"metaparameters.groups is {settings.groups}, and all candidates are of one group, "
            "whose share is 1 whatever its weight. Name groups of which there are several."
        )
    return of_each, number


def _groups(settings: MetaparametersSettings, data: DataSet) -> tuple[Tensor, int]:
    train = data.splits["train"]
    if settings.groups == GroupName.CLASS and data.num_classes == 0:
        raise ConfigurationError(
            "metaparameters.groups is class, but the labels of the problem are no classes (whole "
            "numbers from 0, one for each example). Use cluster, or groups of the problem's own."
        )
    if settings.groups == GroupName.CLASS:
        return train.labels, data.num_classes
    if settings.groups == GroupName.SOURCE and data.texts is not None:
        return torch.tensor(data.texts.source_of), len(data.texts.sources)
    if settings.groups != GroupName.CLUSTER:
        of_each = own_groups(data, settings.groups)
        return of_each, int(of_each.max()) + 1
    # A second of import that other runs can spare.
    clusters = load("sklearn.cluster", "metaparameters.groups=cluster")
    points = train.inputs.flatten(1).to(torch.float64).numpy()
    seed = settings.seed % 2**32
    found = clusters.KMeans(settings.num_groups, n_init="auto", random_state=seed).fit(points)
    return torch.from_numpy(found.labels_).to(torch.int64), settings.num_groups
