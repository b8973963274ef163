"""The metasmoothness of a preflight: trainings that are shared, and trained together."""

import pytest
import torch

from engine.numerics.determinism import deterministic
from engine.preflight import smoothness
from engine.preflight.metasmoothness import metasmoothness
from engine.preflight.smoothness import check_metasmoothness
from engine.preflight.training import train_twin
from engine.preflight.verdict import Verdict
from engine.recipes.smoothness import SmoothnessSettings
from tests.helpers.trainings import routines


def alone(routine):
    """The same definition from trainings one by one."""
    settings = SmoothnessSettings(directions=2)
    return metasmoothness(routine, routines.output, settings).definition_2.mean


@pytest.mark.parametrize("make", [routines.routine, routines.single])
def test_trainings_together_score_as_trainings_one_by_one(make):
    """The first one is that of the twin, bit by bit, and the others agree to rounding."""
    routine = make()
    with deterministic():
        found = check_metasmoothness(train_twin(routine), routines.output)

    assert found.value == pytest.approx(alone(routine), abs=1e-4)


def test_a_score_that_warns_is_that_of_trainings_one_by_one(monkeypatch):
    """Sums of a batched run go in another order, which a chaotic run may make much of."""
    real, tried = smoothness.train_many, []

    def spoiled(routine, points, **options):
        tried.append(len(points))
        states = real(routine, points, **options)
        return [{**s, "params": torch.randn_like(s["params"])} for s in states]

    monkeypatch.setattr(smoothness, "train_many", spoiled)
    routine = routines.routine()
    with deterministic():
        found = check_metasmoothness(train_twin(routine), routines.output)

    assert tried == [4]
    assert found.verdict is Verdict.PASS
    assert found.value == pytest.approx(alone(routine), abs=1e-12)
