"""Recipes so small that a whole run takes a second or two, for tests of what surrounds a run."""

from engine.recipes.files import load_recipe

SMALL = [
    "baselines=[]",
    "arguments.num_train=60",
    "arguments.num_objective=40",
    "arguments.num_validation=40",
    "arguments.num_test=50",
    "arguments.model.width=8",
    "arguments.model.depth=1",
    "training.num_steps=12",
    "training.batch_size=10",
    "outer.num_steps=2",
    "replay.steps_per_segment=5",
]


def as_options(changes):
    """Return settings as the command line takes them: each once, of which the last one counts."""
    last = {change.partition("=")[0]: change for change in changes}
    return [part for change in last.values() for part in ("--set", change)]


def small(*changes):
    """Return the recipe ``digits-selection`` with these sizes and some settings changed."""
    return load_recipe("digits-selection", [*SMALL, *changes])


SCHEDULE = [
    "arguments.num_train=60",
    "arguments.num_objective=40",
    "arguments.num_validation=40",
    "arguments.num_test=50",
    "arguments.model.width=8",
    "training.num_steps=10",
    "training.batch_size=20",
    "metaparameters.num_key_points=3",
]
"""The same for ``digits-schedule``."""

COARSE = ["outer.num_steps=1", "replay.steps_per_segment=12", "training.threads=1"]
"""One outer step in one segment: the fewest stages that a descent can have."""
