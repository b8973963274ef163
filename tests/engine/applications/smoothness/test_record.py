"""What a measurement of smoothness refuses before it trains anything."""

import pytest

from engine.applications.smoothness.record import prepare
from engine.errors import WitnessError
from engine.recipes.files import to_measure
from tests.helpers.data import own_problem

SETTINGS = ["metaparameters={name: weights}", "outer={num_steps: 1, update: sign}"]
PENALIZED = own_problem.replaced(
    "        loss=loss,\n",
    "        loss=lambda model, batch: loss(model, batch)\n"
    "        + 0.1 * sum(p.square().sum() for p in net.parameters()),\n",
)


def test_another_run_than_the_users_is_not_measured(tmp_path):
    """A penalty over the module that was handed in stays as it is: its smoothness is nobody's."""
    descent = own_problem.own(tmp_path, PENALIZED, changes=SETTINGS)

    with pytest.raises(WitnessError, match="of the module that you handed in"):
        prepare(to_measure(descent, {"directions": 2}, []), str(tmp_path / "store"))

    assert not (tmp_path / "store").exists()


def test_a_sound_run_is_measured(tmp_path):
    """The same without the penalty goes through, and its settings are kept."""
    descent = own_problem.own(tmp_path, changes=SETTINGS)

    prepare(to_measure(descent, {"directions": 2}, []), str(tmp_path / "store"))

    assert any((tmp_path / "store").rglob("recipe.json"))
