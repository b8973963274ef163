"""A tiny run carried out stage by stage."""

from copy import deepcopy

from engine.problems.segments import first_step, segments
from engine.recipes.descent import DescentRecipe
from engine.stages import training as stages
from engine.stages.run import Run

SETTINGS = {
    "name": "tiny",
    "arguments": {
        "num_train": 60,
        "num_objective": 30,
        "num_validation": 10,
        "num_test": 10,
        "model": {"width": 5, "depth": 1, "dropout": 0.2},
    },
    "optimizer": {"name": "adamw", "weight_decay": 0.1},
    "training": {"num_steps": 12, "batch_size": 7, "learning_rate": 0.02},
    "metaparameters": {"name": "counts", "injection_step": 5},
    "outer": {"update": "Adam"},
    "replay": {"steps_per_segment": 4},
}


def recipe(*changes):
    """The tiny run with some settings changed, each given as (group, setting, value)."""
    settings = deepcopy(SETTINGS)
    for *groups, name, value in changes:
        place = settings
        for group in groups:
            place = place[group]
        place[name] = value
    return DescentRecipe.model_validate(settings)


def kind(name):
    return ("metaparameters", "name", name), ("metaparameters", "injection_step", None)


def train_all(tiny, store, value):
    """Train segment by segment; what made the state at each border, None for s_0."""
    run, borders = Run(tiny, store), [None]
    for part in segments(tiny):
        borders.append(stages.train_segment(run, part, value, borders[-1]))
    return borders


def reverse_all(tiny, store, value, borders):
    """Seed the adjoint and reverse the segments that z has a part in, last first."""
    run = Run(tiny, store)
    adjoint = stages.seed(run, value, borders[-1])
    reversible = [
        (part, start, end)
        for part, start, end in zip(segments(tiny), borders, borders[1:], strict=False)
        if part.start >= first_step(tiny)
    ]
    for part, start, end in reversed(reversible):
        adjoint = stages.reverse_segment(run, part, value, start, end, adjoint)
    return adjoint
