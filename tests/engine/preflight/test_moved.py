"""Trainings around z as one batched run: what they are compared with, and what they refuse."""

import pytest
import torch

from engine.preflight import moved
from engine.preflight.moved import never_around, train_around
from engine.replay.plain_training import train_unchecked
from tests.helpers.trainings import problems


@pytest.fixture
def run():
    return problems.routine("momentum")


def around(run, *distances):
    """z, and points beside it along one direction."""
    z = run.point()
    direction = {name: torch.ones_like(t) for name, t in z.items()}
    return [{n: t + far * direction[n] for n, t in z.items()} for far in (0.0, *distances)]


def test_each_is_the_training_at_its_point_by_itself(run):
    """Single trainings share no kernel with the batched one."""
    points = around(run, 0.05, 0.1, -0.05)
    alone = [train_unchecked(run, point) for point in points]

    states, why_not = train_around(run, points, alone[0])

    assert why_not is None
    for found, expected in zip(states, alone, strict=True):
        for name, row in expected.items():
            torch.testing.assert_close(found[name], row, rtol=1e-10, atol=1e-12)


def test_rounding_as_large_as_what_is_measured_is_no_measurement(run):
    """A training that ends a little elsewhere than by itself hides moves that are as small."""
    points = around(run, 1e-3)
    states = [train_unchecked(run, point) for point in points]
    step = states[1]["params"] - states[0]["params"]
    off = {**states[0], "params": states[0]["params"] + 0.01 * step}

    found, why_not = train_around(run, points, off)

    assert found == []
    assert why_not is not None
    assert "the batched training at z ends" in why_not
    assert train_around(run, points, states[0])[1] is None


def test_a_direction_that_moves_nothing_is_measured_one_by_one(run, monkeypatch):
    """Beside no move at all any rounding is large, and signs of rounding are no agreement."""
    points = around(run, 0.0)
    alone = train_unchecked(run, points[0])
    nearly = {**alone, "params": alone["params"] * (1 + 1e-15)}
    monkeypatch.setattr(moved, "train_many", lambda *_, **__: [nearly, nearly])

    found, why_not = train_around(run, points, alone)

    assert found == []
    assert why_not is not None


def test_models_of_which_few_fit_go_one_by_one(run, monkeypatch):
    """They gain little together, and workers share them where they are stages."""
    monkeypatch.setattr(moved, "at_once", lambda _: 2)

    assert never_around(run, 2) is None
    assert "more than the 2" in (never_around(run, 3) or "")
    assert train_around(run, around(run, 0.1, 0.2), train_unchecked(run))[0] == []


def test_a_loss_that_looks_at_numbers_goes_one_by_one():
    """Code that asks for a number of one run cannot be carried over several."""

    def loss(model, batch):
        losses = problems.loss(model, batch)
        return losses if float(losses.sum()) > 0 else 2 * losses

    run = problems.routine("momentum", loss=loss)
    points = around(run, 0.05, 0.1)

    found, why_not = train_around(run, points, train_unchecked(run, points[0]))

    assert found == []
    assert "vmap" in (why_not or "")
