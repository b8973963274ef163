"""A kind of z that a problem brings: named by a recipe, differentiated, and a part of its keys."""

import sys

import pytest
import torch

import engine
from engine.errors import ConfigurationError
from engine.problems.built import _build, build_problem, check_repeats
from engine.recipes.files import load_recipe
from engine.replay.training import train
from engine.stages.run import Run
from engine.stages.training import initial_value
from tests.helpers.data.own_problem import PROBLEM, RECIPE, write_problem

KIND = """
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Temperature(engine.Metaparameter):
    power: float = 1.0

    def loss_arguments(self, z, indices):
        return {"temperature": z[0] ** self.power}
"""

HELD = """
    table: object = None

    def __post_init__(self):
        super().__post_init__()
        read = lambda name: float(os.environ.get(name, "1.0"))
        net = torch.nn.Linear(1, 1).double()
        torch.nn.init.constant_(net.weight, read("NET"))
        held = {"table": torch.tensor(read("TABLE")), "array": [np.full(2000, read("ARRAY"))]}
        object.__setattr__(self, "table", {**held, "net": net})
        object.__setattr__(self, "other", read("OTHER"))
"""
"""Fields, and what is none, as tensors, arrays and modules of which a text shows few digits."""

OWN = (
    PROBLEM.replace(
        "def loss(model, batch):", f"{KIND}\n\ndef loss(model, batch, temperature=1.0):"
    )
    .replace('cross_entropy(model(batch["x"]),', 'cross_entropy(model(batch["x"]) * temperature,')
    .replace("model=net,", "model=net, metaparameters={'temperature': Temperature(START)},")
    .replace("Temperature(START)", "Temperature(torch.tensor([1.5]))")
)

TEMPERATURE = RECIPE.replace(
    "{name: counts, injection_step: 2}", "{name: own, own: temperature}"
).replace("masked-sign, probability: 0.5", "sign, step_size: 0.1")


def recipe_of(folder, problem=OWN, recipe=TEMPERATURE):
    return load_recipe(write_problem(folder, problem, recipe), ["training.dtype=float64"])


def test_metagradient_is_the_central_difference(tmp_path):
    """The problem's object enters the run as it says, by the recipe alone."""
    recipe = recipe_of(tmp_path)
    built = build_problem(recipe)
    check_repeats(recipe)

    found = engine.metagradient(built.routine, built.output)["own"]

    def at(value):
        routine = built.routine.at(torch.tensor([value], dtype=torch.float64))
        return float(engine.evaluate(routine, train(routine), built.output))

    expected = (at(1.5 + 1e-4) - at(1.5 - 1e-4)) / 2e-4
    assert abs(expected) > 1e-4
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_one_alone_needs_no_name(tmp_path):
    """As a problem with one set of groups."""
    recipe = recipe_of(tmp_path, recipe=TEMPERATURE.replace(", own: temperature", ""))

    assert build_problem(recipe).kind.value.tolist() == [1.5]


@pytest.mark.parametrize("change", ["START", "POWER", "TABLE", "ARRAY", "NET", "OTHER"])
def test_another_start_or_field_is_another_stage(change, tmp_path, monkeypatch):
    """Also where it comes from what no digest of source sees, and in digits that nothing shows."""
    source = OWN.replace("[1.5]", "[float(os.environ.get('START', '1.5'))]")
    source = source.replace("float = 1.0", "float = float(os.environ.get('POWER', '1.0'))")
    source = source.replace("    def loss_arguments", f"{HELD}\n    def loss_arguments")
    recipe = recipe_of(tmp_path, "import os\nimport numpy as np\n" + source)
    run = Run(recipe, str(tmp_path / "store"))
    before = initial_value.key(run)

    monkeypatch.setenv(change, "1.00000001")
    _build.cache_clear()
    for name in [name for name in sys.modules if name.startswith("problem_my_clouds")]:
        del sys.modules[name]  # as in another process
    after = initial_value.key(Run(recipe, run.store))

    assert after != before


WRONG = {
    "none": (PROBLEM, TEMPERATURE, "has none of its own. Give its engine.Problem"),
    "another": (
        OWN,
        TEMPERATURE.replace("own: temperature", "own: warmth"),
        "own warmth, but .* has temperature. Set metaparameters.own",
    ),
    "no kind": (
        OWN.replace("Temperature(torch.tensor([1.5]))", "torch.tensor([1.5])"),
        TEMPERATURE,
        "is a Tensor. Make it an object of a subclass",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_refused_in_one_message(case, tmp_path):
    """Before training, with what to do."""
    problem, recipe, words = WRONG[case]

    with pytest.raises(ConfigurationError, match=words):
        build_problem(recipe_of(tmp_path, problem, recipe))


@pytest.mark.slow
def test_descent_moves_it(tmp_path):
    """The outer loop knows no kind by its name."""
    path = write_problem(tmp_path, OWN, TEMPERATURE)

    found = engine.descend(path, check=False)

    assert [each.value.tolist()[0] for each in found.iterates][0] == pytest.approx(1.5)
    assert len({each.value.tolist()[0] for each in found.iterates}) == 3
