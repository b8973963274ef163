"""A problem of somebody's own in a folder of its own, as a user has it: two clouds of points."""

import textwrap

from engine.recipes.files import load_recipe

HELPERS = """
import torch


def clouds(number, generator):
    labels = torch.randint(0, 2, (number,), generator=generator)
    return torch.randn(number, 4, generator=generator) + labels[:, None], labels
"""

PROBLEM = '''
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import engine
from my_helpers import clouds


def loss(model, batch):
    return cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def accuracy(model, batch):
    return (model(batch["x"]).argmax(1) == batch["y"]).double()


def two_clouds(number: int = 40, wrong: float = 0.2, width: int = 5) -> engine.Problem:
    """Which points of two clouds have a wrong label.

    Args:
        number: Training candidates.
        wrong: Share of the labels that are wrong.
        width: Hidden units.
    """
    generator = torch.Generator().manual_seed(0)
    x, y = clouds(number, generator)
    y[: int(wrong * number)] = 1 - y[: int(wrong * number)]
    hx, hy = clouds(60, generator)
    net = nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, 2))
    return engine.Problem(
        model=net,
        loss=loss,
        train={"x": x, "y": y},
        objective={"x": hx, "y": hy},
        metrics={"accuracy": accuracy},
        names=[f"point {place}" for place in range(number)],
        groups={"cloud": y.tolist()},
    )
'''

RECIPE = """
kind: descent
name: clouds
problem: my_clouds.py:two_clouds
arguments: {number: 40, wrong: 0.2}
optimizer: {name: sgd, momentum: 0.9}
training: {num_steps: 6, batch_size: 10, threads: 1, learning_rate: 0.1}
metaparameters: {name: counts, injection_step: 2}
outer: {num_steps: 2, update: masked-sign, probability: 0.5}
replay: {steps_per_segment: 3}
"""


def write_problem(folder, problem=PROBLEM, recipe=RECIPE):
    """Write the three files of the problem into a folder; return the recipe's path as text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my_helpers.py").write_text(HELPERS)
    (folder / "my_clouds.py").write_text(textwrap.dedent(problem))
    path = folder / "clouds.yaml"
    path.write_text(recipe)
    return str(path)


def own(tmp_path, problem=PROBLEM, changes=()):
    """Write the problem into a folder, and return its recipe."""
    return load_recipe(write_problem(tmp_path, problem), [*changes])


def replaced(old, new):
    """Return the problem with some of its words replaced."""
    assert old in PROBLEM
    return PROBLEM.replace(old, new)
