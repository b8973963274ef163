"""What people hand in: it works as the plain form does, or one message says what to hand in."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import engine
from engine.routine import optimizers
from tests.handed_in.pieces import embedding
from tests.handed_in.plain import loss, run
from tests.handed_in.rightly import WORK
from tests.handed_in.wrongly import REFUSED
from tests.helpers.trainings import routines

ROOT = Path(__file__).parents[3]
AS_FLOAT32 = {"weights as a list", "z as a list", "table"}
"""A list of Python's numbers becomes float32, as everywhere in torch."""


COMPILED = {"compiled"}
"""Importing the compiler takes ten seconds."""

REFUSALS = [
    pytest.param(name, marks=pytest.mark.slow if name in COMPILED else ()) for name in REFUSED
]


@pytest.fixture(scope="module")
def outcomes(request):
    """Every case that is asked for, in a process without run-time checks of type hints.

    A notebook is such a process.
    """
    asked = [
        item.callspec.params["name"]
        for item in request.session.items
        if item.module is request.module and "outcomes" in item.fixturenames
    ]
    found = subprocess.run(
        [sys.executable, "-m", "tests.handed_in", json.dumps(asked)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(found.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_plain_meaning_works(name, outcomes):
    """Honest forms of the same run, whose meaning nobody can mistake, give the same numbers."""
    kind, found = outcomes[name]
    assert kind == "value", found

    expected = outcomes["Subset, plain" if name == "Subset" else "plain"][1]

    rtol, atol = (1e-5, 1e-7) if name in AS_FLOAT32 else (1e-12, 1e-15)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", REFUSALS)
def test_what_has_no_plain_meaning_is_refused_with_what_to_hand_in(name, outcomes):
    """One message from the engine; a raw TypeError tells a newcomer nothing."""
    kind, found = outcomes[name]

    assert kind == "refused", found
    assert re.search(REFUSED[name][1], found, re.DOTALL), found


def test_sparse_embedding_gives_the_numbers_of_a_dense_one():
    """A sparse gradient is the same gradient, kept in another form."""
    inputs, labels = routines.examples(24)
    tokens = (inputs.abs() * 3).long().clamp(max=9)
    dense, sparse = embedding(), embedding(sparse=True)
    sparse.load_state_dict(dense.state_dict())

    found, expected = (
        run(lambda m: loss(m, (tokens, labels)).mean(), model=model, examples=(tokens, labels))
        for model in (sparse, dense)
    )

    assert torch.equal(found, expected)
    assert found.any()


def test_inference_mode_around_a_call_changes_nothing():
    """Notebooks have it around evaluation cells, where a metagradient is easily asked for."""
    expected = run()

    with torch.inference_mode():
        found = run()

    assert torch.equal(found, expected)


def test_an_error_of_the_engines_own_is_not_taken_for_the_users():
    """A message that blames the user's loss for our bug would cost both of us days."""
    routine = routines.routine()
    broken = {"__name__": optimizers.__name__}
    text = "def update(state, gradient, hyper, step):\n    raise TypeError('our own')\n"
    exec(compile(text, optimizers.__file__, "exec"), broken)
    object.__setattr__(routine.optimizer, "update", broken["update"])

    with pytest.raises(TypeError, match="our own"):
        engine.metagradient(routine, routines.output)
