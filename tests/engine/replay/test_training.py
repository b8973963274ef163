"""What ``engine.train`` refuses by itself; what its witness refuses is in ``tests/strangers``."""

import pytest

import engine
from engine import EngineError
from tests.strangers.plain import loss, mlp
from tests.strangers.witnessed import routine


def _warming(calls):
    """A loss that is scaled at its first calls only."""
    seen = []

    def warming(net, batch):
        seen.append(1)
        return loss(net, batch) * (0.5 if len(seen) <= calls else 1.0)

    return warming


@pytest.mark.parametrize(
    ("witness", "said"),
    [(True, "earlier call has left in 'seen'"), (False, "how often it was called")],
)
def test_a_loss_that_begins_otherwise_is_refused(witness, said):
    """By the time a step is run twice the counter has run out, so its first call is remembered."""
    run = routine(mlp(), loss=_warming(0))
    engine.train(run, witness=witness)

    run = routine(mlp(), loss=_warming(1))
    with pytest.raises(EngineError, match=said):
        engine.train(run, witness=witness)
