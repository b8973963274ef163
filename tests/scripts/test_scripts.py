"""Training scripts as people have them, each entered as a problem and beside its own loop.

A folder holds a script (``train`` is the loop, with torch's optimizers and schedulers only), a
problem that imports the script's data and model, and a recipe. The loop says what the objective is,
and its central differences what the metagradient is; nothing of the engine takes part in it.
"""

import pytest
import torch

from engine import metagradient
from engine.problems.built import build_problem, check_repeats
from tests.scripts.folders import EACH, loop_of, recipe_of

CORNERS = {"resnet": 1e-6, "gcn": 1e-6, "mixup": 1e-6, "codebook": 1e-5}
"""Scripts whose loops have corners (ReLU, clipping by value, nearest codes), and a step that
crosses none."""

LIMIT = 1e-6
"""Of the error of a directional derivative, relative to the larger of it and a thousandth of the
gradient's length."""


def difference(objective, z, direction, step):
    """Central differences with three steps, to the sixth order (Richardson)."""
    found = [
        (objective(z + h * direction) - objective(z - h * direction)) / (2 * h)
        for h in (step, step / 2, step / 4)
    ]
    first = [(4 * b - a) / 3 for a, b in zip(found, found[1:], strict=False)]
    return (16 * first[1] - first[0]) / 15


def directions(gradient):
    """Random directions, the coordinate that counts most, and one of the others."""
    drawn = torch.Generator().manual_seed(1)
    size = gradient.numel()
    yield from torch.randn(3, size, generator=drawn, dtype=torch.float64)
    chosen = [int(gradient.abs().argmax()), int(torch.randint(size, (), generator=drawn))]
    yield from torch.eye(size, dtype=torch.float64)[chosen]


@pytest.mark.parametrize("name", EACH)
def test_metagradient_is_that_of_the_script(name, tmp_path):
    """Objective to 1e-12, derivative to a millionth, for each part of a run that scripts have."""
    objective, start = loop_of(name, tmp_path)
    recipe = recipe_of(name, tmp_path)
    built = build_problem(recipe)
    check_repeats(recipe)
    torch.testing.assert_close(built.kind.value, start, rtol=0, atol=1e-15)

    found = metagradient(built.routine, built.output)
    ((_, gradient),) = found.gradient.items()

    assert found.output == pytest.approx(objective(start), rel=1e-12)
    assert "not compared" not in found.witness.sentence
    length = float(gradient.norm())
    assert length > 1e-6
    for direction in directions(gradient):
        expected = difference(objective, start, direction, CORNERS.get(name, 2e-4))
        error = abs(float(gradient @ direction) - expected)
        assert error <= LIMIT * max(abs(expected), 1e-3 * length), (error, expected)
