"""What is kept at one step and read at a later one, wherever it is kept."""

import contextvars
import os
import queue
import threading
import types

import pytest
import torch
from torch import nn

import engine
from engine.errors import EngineError, WitnessError
from tests.strangers.plain import loss
from tests.strangers.witnessed import Counting, output, routine

_STEPS = 40


class _Slots:
    __slots__ = ("kept",)


class _Class:
    kept = 0.0


def _attribute(owner):
    owner.kept = 0.0
    return lambda: owner.kept, lambda value: setattr(owner, "kept", value)


def _file(folder):
    path = folder / "kept"
    path.write_text("0")
    return lambda: float(path.read_text()), lambda value: path.write_text(repr(value))


def _generator():
    def keeping():
        kept = 0.0
        while True:
            given = yield kept
            kept = kept if given is None else given

    kept = keeping()
    next(kept)
    return lambda: next(kept), kept.send


def _context():
    kept = contextvars.ContextVar("kept")
    kept.set(0.0)
    return kept.get, kept.set


def _queue():
    kept = queue.Queue()
    return lambda: kept.queue[0] if kept.queue else 0.0, kept.put


def _environment():
    os.environ["KEPT"] = "0"
    return lambda: float(os.environ["KEPT"]), lambda value: os.environ.update(KEPT=repr(value))


KNOWN = {
    "slots": lambda folder: _attribute(_Slots()),
    "a class": lambda folder: _attribute(_Class),
    "a namespace": lambda folder: _attribute(types.SimpleNamespace()),
    "a thread": lambda folder: _attribute(threading.local()),
    "a module": lambda folder: _attribute(nn.Module()),
    "a context": lambda folder: _context(),
    "a queue": lambda folder: _queue(),
}
ANYWHERE = {
    **KNOWN,
    "a file": _file,
    "a package": lambda folder: _attribute(types),
    "the environment": lambda folder: _environment(),
    "a generator": lambda folder: _generator(),
}


@pytest.mark.parametrize("at", [3, 27])
@pytest.mark.parametrize("place", ANYWHERE.values(), ids=ANYWHERE)
def test_an_update_that_reads_what_an_earlier_step_kept_is_refused(place, at, tmp_path):
    """Of a replay that is the same constant, so that nothing differs by itself."""
    read, write = place(tmp_path)

    def update(state, gradient, hyper, step):
        if step == at:
            write(float(gradient.norm()))
        factor = 1 + read() if step >= at + 2 else 1
        return {"params": state["params"] - hyper["learning_rate"] * factor * gradient}

    own = engine.Optimizer("own", {}, lambda params: {}, update)

    with pytest.raises(WitnessError, match="depends on earlier calls"):
        engine.metagradient(routine(optimizer=own, num_steps=_STEPS, learning_rate=0.1), output)


@pytest.mark.parametrize("place", KNOWN.values(), ids=KNOWN)
def test_a_loss_that_reads_what_an_earlier_step_kept_is_refused(place, tmp_path):
    """It is put back before the reverse sweep, and missed."""
    read, write = place(tmp_path)

    def own(model, batch):
        losses = loss(model, batch)
        if model.training and int(model.count) == 27:
            write(float(losses.mean()))
        return losses * (1 + read()) if model.training and int(model.count) >= 30 else losses

    run = routine(Counting(), loss=own, num_steps=_STEPS, learning_rate=0.1)

    with pytest.raises(EngineError, match="keeps between calls"):
        engine.metagradient(run, output)


class _Keeps(Counting):
    kept = 0.0

    def forward(self, inputs):
        outputs = super().forward(inputs)
        if self.training and int(self.count) == 27:
            self.kept = float(outputs.square().mean())
        return outputs * (1 + self.kept) if self.training and int(self.count) >= 30 else outputs


def test_a_module_that_reads_what_an_earlier_step_kept_is_refused():
    """In an attribute that is no buffer."""
    with pytest.raises(EngineError, match="keeps between calls"):
        engine.metagradient(routine(_Keeps(), num_steps=_STEPS, learning_rate=0.1), output)


def test_what_nobody_reads_is_sound_and_put_back():
    """A log holds what the training wrote, and not what the engine tried."""
    seen: list[float] = []

    def update(state, gradient, hyper, step):
        seen.append(float(gradient.norm()))
        return {"params": state["params"] - hyper["learning_rate"] * gradient}

    own = engine.Optimizer("own", {}, lambda params: {}, update)
    torch.manual_seed(0)
    found = engine.metagradient(routine(optimizer=own, num_steps=_STEPS), output)
    torch.manual_seed(0)
    known = engine.metagradient(routine(num_steps=_STEPS), output)

    assert torch.allclose(found["weights"], known["weights"], rtol=1e-12)
    assert all(value < 10 for value in seen)


def test_a_loss_that_looks_at_an_earlier_entry_of_its_log_is_sound():
    """It would fail without it; what the training left stays then."""
    log = []

    def own(model, batch):
        losses = loss(model, batch)
        if model.training and int(model.count) == 1:
            log.append("begun")
        if model.training:
            assert log[0] == "begun"
        return losses

    run = routine(Counting(), loss=own, num_steps=_STEPS, learning_rate=0.1)
    found = engine.metagradient(run, output)

    direction = torch.randn(24, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    wanted = engine.central_difference(run, output, {"weights": direction})
    assert float(found["weights"] @ direction) == pytest.approx(wanted, rel=1e-5)
