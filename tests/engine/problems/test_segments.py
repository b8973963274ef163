"""Segments: cut by settings alone, where the routine says that z is read for the first time."""

import subprocess
import sys
from pathlib import Path

import pytest

import engine
from engine.problems.built import build_problem
from engine.problems.segments import first_step, segments
from engine.recipes.metaparameters import MetaparameterName
from tests.helpers.runs.tiny_stages import kind, recipe


def changes(name):
    """What the tiny run needs to have a metaparameter at all."""
    scalars = [("metaparameters", "scalars", ["beta1"])] if name == "scalars" else []
    return [*kind(name), *scalars]


@pytest.mark.parametrize("name", [each.value for each in MetaparameterName if each.value != "own"])
def test_first_step_is_that_of_the_routine(name):
    """It follows from settings, and a kind that is read later would be reversed for nothing."""
    tiny = recipe(*changes(name))

    assert first_step(tiny) == build_problem(tiny).routine.first_step


@pytest.mark.parametrize("step", [None, 0, 5, 11])
def test_counts_are_read_where_losses_are_injected(step):
    """The only kind that has a say in where the sweep ends."""
    tiny = recipe(("metaparameters", "injection_step", step))

    assert first_step(tiny) == build_problem(tiny).routine.first_step
    assert first_step(tiny) in {0, *(part.start for part in segments(tiny))}


def test_a_run_is_cut_without_its_data_and_device():
    """The process that hands stages to workers may have neither."""
    code = """
import sys
from engine.problems.segments import segments
from engine.recipes.files import load_recipe

print(len(segments(load_recipe("digits-selection", ["training.device=cuda:7"]))))
print("torch" in sys.modules)
"""

    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(engine.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )

    number, has_torch = run.stdout.split()
    assert int(number) > 1
    assert has_torch == "False"
