"""What is kept at one step and read at a later one, of the same replay or of another."""

import argparse
import ctypes
import io
import mmap
import os
import sqlite3
import struct
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import engine
from engine.errors import ConfigurationError, EngineError
from tests.strangers.plain import data, loss, mlp
from tests.strangers.witnessed import Counting, output, routine

_STEPS = 30
_TYPES: Any = types
_SPANS = [(9, 10), (3, 4), (26, 27), (12, 13), (9, 11), (2, 5), (12, 21), (20, 24)]
"""The step at which something is kept, and the one at which it is read."""


def _exhaustive(value):
    return pytest.param(value, marks=pytest.mark.exhaustive)


def _seldom(name):
    often = ("a file", "another module", "a generator", "a package")
    return () if name in often else pytest.mark.exhaustive


def _attribute(owner):
    owner.kept = 0.0
    return lambda: owner.kept, lambda value: setattr(owner, "kept", value)


def _file(folder):
    path = folder / "kept"
    path.write_text("0")
    return lambda: float(path.read_text()), lambda value: path.write_text(repr(value))


def _saved(folder):
    path = folder / "kept.pt"
    torch.save(torch.zeros(()), path)
    return lambda: float(torch.load(path)), lambda value: torch.save(torch.tensor(value), path)


def _environment(_folder):
    os.environ["KEPT"] = "0"
    return lambda: float(os.environ["KEPT"]), lambda value: os.environ.update(KEPT=repr(value))


def _generator(_folder):
    def keeping():
        kept = 0.0
        while True:
            given = yield kept
            kept = kept if given is None else given

    kept = keeping()
    next(kept)
    return lambda: next(kept), kept.send


def _indexed(array):
    return lambda: float(array[0]), lambda value: array.__setitem__(0, value)


def _bytes(buffer):
    def write(value):
        buffer[:8] = struct.pack("d", value)

    return lambda: struct.unpack("d", bytes(buffer[:8]))[0], write


def _database(_folder):
    kept = sqlite3.connect(":memory:")
    kept.execute("create table kept (value real)")
    kept.execute("insert into kept values (0)")

    def write(value):
        kept.execute("update kept set value = ?", (value,))

    return lambda: kept.execute("select value from kept").fetchone()[0], write


def _stream(_folder):
    stream = io.StringIO("0")

    def write(value):
        stream.seek(0)
        stream.truncate()
        stream.write(repr(value))

    return lambda: float(stream.getvalue()), write


def _package(_folder):
    _TYPES.kept = 0.0

    def write(value):
        _TYPES.kept = value

    return lambda: _TYPES.kept, write


def _other_module(_folder):
    teacher = nn.Linear(1, 1)
    nn.init.zeros_(teacher.bias)
    return lambda: float(teacher.bias.detach()), lambda value: teacher.bias.data.fill_(value)


def _rate(_folder):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)
    group = optimizer.param_groups[0]
    return lambda: optimizer.param_groups[0]["lr"], lambda value: group.update(lr=value)


def _number(_folder):
    number = ctypes.c_double(0.0)
    return lambda: number.value, lambda value: setattr(number, "value", value)


PLACES = {
    "a file": _file,
    "another module": _other_module,
    "the environment": _environment,
    "a generator": _generator,
    "a saved tensor": _saved,
    "a namespace": lambda folder: _attribute(argparse.Namespace()),
    "a package": _package,
    "any package": lambda folder: _attribute(types),
    "an array in a file": lambda folder: _indexed(
        np.memmap(folder / "kept", dtype="f8", mode="w+", shape=(1,))
    ),
    "an array of objects": lambda folder: _indexed(np.array([0.0, None])),
    "bytes": lambda folder: _bytes(bytearray(8)),
    "shared bytes": lambda folder: _bytes(mmap.mmap(-1, 8)),
    "a number of C": _number,
    "a data base": _database,
    "a stream": _stream,
    "an optimizer": _rate,
}


def _loss(kept, span):
    read, write = kept

    def own(model, batch):
        losses, step = loss(model, batch), int(model.count) - 1
        if model.training and step == span[0]:
            write(float(losses.mean()))
        return losses * (1 + read()) if model.training and step == span[1] else losses

    return own


def _update(kept, span):
    read, write = kept

    def update(state, gradient, hyper, step):
        if step == span[0]:
            write(float(gradient.norm()))
        factor = 1 + read() if step == span[1] else 1
        return {"params": state["params"] - hyper["learning_rate"] * factor * gradient}

    return engine.Optimizer("own", {}, lambda params: {}, update)


def _run(part, kept, span):
    change = {"loss": _loss(kept, span)} if part == "loss" else {"optimizer": _update(kept, span)}
    return routine(Counting(), num_steps=_STEPS, learning_rate=0.1, **change)


def _refused(run, **options):
    with pytest.raises(EngineError, match=r"keeps between calls|depends on earlier calls"):
        engine.metagradient(run, output, **options)


@pytest.mark.parametrize("part", ["loss", "update"])
@pytest.mark.parametrize("span", [*_SPANS[:2], *(_exhaustive(s) for s in _SPANS[2:])], ids=str)
def test_what_is_kept_for_some_steps_is_refused(part, span):
    """A replay writes it again with the numbers of the training, so nothing differs by itself."""
    _refused(_run(part, _attribute(types.SimpleNamespace()), span))


@pytest.mark.parametrize(
    "place", [pytest.param(make, id=name, marks=_seldom(name)) for name, make in PLACES.items()]
)
@pytest.mark.parametrize("span", [(9, 10), (9, 21)], ids=str)
@pytest.mark.parametrize("part", ["loss", _exhaustive("update")])
def test_wherever_it_is_kept_it_is_refused(place, span, part, tmp_path, monkeypatch):
    """Also where nobody can put it back."""
    monkeypatch.setattr(types, "kept", 0.0, raising=False)
    monkeypatch.setenv("KEPT", "0")
    _refused(_run(part, place(tmp_path), span))


_WAYS = [
    {"unroll": 4},
    {"schedule": "store-all"},
    {"schedule": "store-all", "unroll": _STEPS},
    {"micro_batch": 4},
    {"schedule": "binomial", "num_slots": 3},
]


@pytest.mark.parametrize("part", ["loss", "update"])
@pytest.mark.parametrize("options", [_WAYS[0], *(_exhaustive(each) for each in _WAYS[1:])], ids=str)
def test_however_the_run_is_reversed_it_is_refused(part, options):
    """Steps whose graphs are kept are run before any of them is reversed."""
    _refused(_run(part, _attribute(types.SimpleNamespace()), (9, 10)), **options)


@pytest.mark.parametrize("place", ["a file", _exhaustive("another module")])
@pytest.mark.parametrize("span", [_exhaustive((9, 10)), (9, 21)], ids=str)
def test_segments_that_are_reversed_by_themselves_refuse_it(place, span, tmp_path):
    """Of which the training was no part of the sweep."""
    run = _run("loss", PLACES[place](tmp_path), span)

    with pytest.raises(EngineError, match="keeps between calls"):
        engine.descend(run, output, outer={"num_steps": 1}, replay={"steps_per_segment": 11})


def test_a_hook_that_reads_what_an_earlier_step_kept_is_refused():
    """The loss is the same; its gradient is not."""
    kept = [0.0]

    def own(model, batch):
        losses, step = 1 * loss(model, batch), int(model.count) - 1
        if model.training and step == 9:
            kept[0] = float(losses.mean())
        if model.training and step == 10 and losses.requires_grad:
            losses.register_hook(lambda gradient: gradient * (1 + kept[0]))
        return losses

    _refused(routine(Counting(), loss=own, num_steps=_STEPS, learning_rate=0.1))


def test_a_teacher_that_follows_at_times_is_refused():
    """As the target network of a reinforcement learner."""
    teacher = mlp(nn.Tanh()).requires_grad_(False)

    def own(model, batch):
        losses = loss(model, batch)
        if model.training and int(model.count) % 7 == 0:
            teacher.load_state_dict(model.net.state_dict())
        apart = (model.net(batch[0]) - teacher(batch[0])).square().mean(1)
        return losses + 0.5 * apart * model.training

    _refused(routine(Counting(), loss=own, num_steps=_STEPS, learning_rate=0.1))


def _logged(losses, folder, kept):
    kept.append(losses.mean().item())
    return losses


def _filed(losses, folder, kept):
    with (folder / "log").open("a") as file:
        file.write(f"{losses.mean().item()}\n")
    return losses


def _cached(losses, folder, kept):
    kept.extend([] if kept else [1.5])
    return losses * kept[0]


@pytest.mark.parametrize("change", [_logged, _filed, _cached])
def test_what_nobody_reads_or_no_number_moves_is_sound(change, tmp_path):
    """As a log, or a cache of constants."""
    kept: list[float] = []
    run = routine(
        Counting(),
        loss=lambda model, batch: change(loss(model, batch), tmp_path, kept),
        num_steps=_STEPS,
        learning_rate=0.1,
    )
    found = engine.metagradient(run, output)

    direction = torch.randn(24, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    wanted = engine.central_difference(run, output, {"weights": direction})
    assert float(found["weights"] @ direction) == pytest.approx(wanted, rel=1e-5)


def test_examples_that_are_coupled_at_one_step_are_refused_in_micro_batches():
    """The first step that is reversed does not couple them."""
    drawn = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(24, generator=drawn)[:8] for _ in range(20)])
    columns = (*(column[:24] for column in data()), torch.arange(24))

    def own(model, batch):
        losses = loss(model, batch[:2])
        is_due = len(batch) == 3 and torch.equal(batch[2], order[7])
        return losses * losses.mean() if is_due else losses

    run = routine(examples=columns, loss=own, order=order, num_steps=20, learning_rate=0.1)

    with pytest.raises(ConfigurationError, match=r"parts of step 7 lead to other"):
        engine.metagradient(run, output, micro_batch=4)
