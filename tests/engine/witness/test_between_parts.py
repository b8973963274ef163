"""What a loss keeps of one part of a batch, and reads in a later part of the same step."""

import pytest
import torch

import engine
from engine.errors import EngineError
from engine.metaparameters.counts import Counts
from tests.strangers.plain import loss
from tests.strangers.witnessed import Counting, output, routine

_STEPS, _SHARDS = 20, 2


def _keeping(kept, read):
    """A loss that keeps a number in one call of training and reads it in another one."""
    found = {"it": 0.0}

    def own(model, batch):
        losses, call = loss(model, batch), int(model.count) if model.training else 0
        if call == kept:
            found["it"] = float(losses.mean())
        return losses * (1 + found["it"] * (call == read))

    return own


@pytest.mark.parametrize("step", [4, 10, 19])
def test_what_one_shard_keeps_for_the_next_is_refused(step):
    """Each shard agrees with finite differences of itself, in which the number stays."""
    call = 1 + _SHARDS * step
    own = _keeping(call, call + 1)
    run = routine(Counting(), loss=own, num_steps=_STEPS, shards=_SHARDS, learning_rate=0.1)

    with pytest.raises(EngineError, match=f"In step {step} the losses of a shard"):
        engine.metagradient(run, output)


def test_what_a_batch_keeps_for_what_is_injected_is_refused():
    """The counts of examples enter one step as a second term of its loss."""
    counts = Counts(torch.ones(24, dtype=torch.float64), injection_step=12)
    found = {"it": 0.0}

    def own(model, batch):
        losses, is_due = loss(model, batch), model.training and int(model.count) == 13
        if is_due and len(losses) == 8:
            found["it"] = float(losses.mean())
        return losses * (1 + found["it"] * (is_due and len(losses) == 24))

    run = routine(
        Counting(),
        loss=own,
        num_steps=_STEPS,
        learning_rate=0.1,
        metaparameters={"counts": counts},
    )

    with pytest.raises(EngineError, match="In step 12 the losses"):
        engine.metagradient(run, output)


def test_a_log_of_shards_is_sound():
    """It is written and never read."""
    log = []

    def own(model, batch):
        losses = loss(model, batch)
        log.append(float(losses.mean()))
        return losses

    run = routine(Counting(), loss=own, num_steps=_STEPS, shards=_SHARDS, learning_rate=0.1)
    found = engine.metagradient(run, output)["weights"]

    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found)
    wanted = engine.central_difference(run, output, {"weights": direction})
    assert float(found @ direction) == pytest.approx(float(wanted), rel=1e-6)
