"""Scripts in their folders: the loop of each, the recipe of its problem, and which run when."""

import importlib.util
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from engine.recipes.files import load_recipe

HERE = Path(__file__).parent
SCRIPTS = sorted(each.name for each in HERE.iterdir() if (each / "script.py").is_file())
QUICK = ("lightning",)
"""Run each time; all of them with ``-m exhaustive``."""

EACH = [
    each if each in QUICK else pytest.param(each, marks=pytest.mark.exhaustive) for each in SCRIPTS
]


@contextmanager
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def script_of(name):
    """The script alone, under a name that no problem imports it by."""
    spec = importlib.util.spec_from_file_location(f"loop_of_{name}", HERE / name / "script.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw_pictures(script, folder):
    """Write the pictures of a script that reads some."""
    if hasattr(script, "draw_pictures"):
        script.draw_pictures(folder)


def loop_of(name, folder):
    """The script's loop as a function of z alone, and the z that it starts from."""
    script = script_of(name)
    draw_pictures(script, folder)
    given = (str(folder),) if name == "resnet" else ()

    def objective(z):
        with float64():
            return script.train(z, *given)

    with float64():
        return objective, script.start()


def recipe_of(name, folder, changes=()):
    """The recipe of a script's problem; of the one that reads pictures with their folder."""
    given = [f"arguments.folder={folder}"] if name == "resnet" else []
    return load_recipe(str(HERE / name / "recipe.yaml"), [*given, *changes])
