"""Objects of the user's after a run: as its training left them, and not what the engine tried."""

import copy
import functools
import io
import sys
import types

import pytest
import torch
from torch import nn

import engine
from engine.errors import EngineError, UntrustworthyError
from engine.witness.memory.between_steps import BetweenSteps
from engine.witness.memory.kept import KeptByFunctions
from tests.strangers.plain import loss, mlp
from tests.strangers.witnessed import Counting, output, routine

_DIRECTION = torch.randn(24, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def _run(own, **changes):
    settings = {"loss": own, "num_steps": 14, "learning_rate": 0.1, **changes}
    return routine(Counting(), **settings)


def _apart(model, teacher, batch):
    return (model.net(batch[0]) - teacher(batch[0])).square().mean(1)


def _agrees(run):
    found = engine.metagradient(run, output)["weights"] @ _DIRECTION
    wanted = engine.central_difference(run, output, {"weights": _DIRECTION})
    assert float(found) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("kept_by", [functools.cache, functools.lru_cache])
def test_a_teacher_that_was_trained_stays_in_its_cache(kept_by):
    """Cleared, it was made anew without its training, and the metagradient was 83 % off."""

    @kept_by
    def teacher():
        return mlp(nn.Tanh()).requires_grad_(False)

    trained = teacher()
    for each in trained.parameters():
        each.mul_(3)
    model = Counting()
    runs = [
        routine(model, loss=own, num_steps=12, learning_rate=0.1)
        for own in (
            lambda m, batch: loss(m, batch) + _apart(m, teacher(), batch),
            lambda m, batch: loss(m, batch) + _apart(m, trained, batch),
        )
    ]

    found, wanted = (engine.metagradient(each, output)["weights"] for each in runs)

    assert torch.equal(found, wanted)
    assert teacher() is trained


@pytest.mark.parametrize("kept_by", [functools.cache, functools.lru_cache])
def test_a_cache_that_keeps_what_a_step_made_is_refused(kept_by):
    """Without a limit, also where it held something before the run."""
    now = [0.0]

    @kept_by
    def size(step):
        return now[0] if step == 9 else 0.0

    if kept_by is functools.cache:  # one with a limit is left alone where it holds something
        size(-1)

    def own(model, batch):
        losses, step = loss(model, batch), int(model.count) - 1
        now[0] = float(losses.mean())
        if model.training and step == 9:
            size(9)
        return losses * (1 + size(9)) if model.training and step == 10 else losses

    with pytest.raises(EngineError):
        engine.metagradient(_run(own), output)


@pytest.mark.parametrize("width", [10, 1200])
def test_a_teacher_that_is_moved_to_a_device_in_the_loss_is_not_changed(width):
    """Its parameters are set to what is taken out of the graph, which the engine changes."""
    teacher = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
    teacher = nn.Sequential(teacher, nn.Linear(width, 3)).double()
    before = copy.deepcopy(teacher.state_dict())

    def own(model, batch):
        teacher.to(batch[0].dtype)
        with torch.no_grad():
            wanted = teacher(batch[0])
        return loss(model, batch) + 0.1 * (model.net(batch[0]) - wanted).square().mean(1)

    _agrees(_run(own))

    assert all(torch.equal(each, before[name]) for name, each in teacher.state_dict().items())


def test_a_teacher_whose_numbers_get_other_memory_is_noticed_and_put_back():
    """As where a script sets ``.data`` of it, and leaves the old memory as it was."""
    teacher = mlp(nn.Tanh())
    kept = KeptByFunctions(lambda: teacher)
    before = copy.deepcopy(teacher.state_dict())

    for each in teacher.parameters():
        each.data = 0.5 * each.data

    assert kept.changed()
    kept.put_back()
    assert all(torch.equal(each, before[name]) for name, each in teacher.state_dict().items())
    assert not kept.changed()


def _meta():
    with torch.device("meta"):
        held = nn.Linear(2, 2)
    return lambda losses: losses * len(held.weight) / 2


def _eighth():
    held = torch.ones(3).to(torch.float8_e4m3fn)
    return lambda losses: losses * held.to(losses.dtype)[0]


def _rotating():
    streams = [io.StringIO()]

    def change(losses):
        streams[-1].write("line")
        streams[-1].close()
        streams.append(io.StringIO())
        return losses

    return change


def _other_file():
    log = types.SimpleNamespace(file=io.StringIO())

    def change(losses):
        log.file.write("line")
        log.file.close()
        log.file = io.StringIO()
        return losses

    return change


@pytest.mark.parametrize("make", [_meta, _eighth, _rotating, _other_file])
def test_what_can_be_neither_compared_nor_put_back_is_sound(make):
    """Numbers that are not there, a format without arithmetic, a log that goes on elsewhere."""
    change = make()

    _agrees(_run(lambda model, batch: change(loss(model, batch))))


def _evaluated():
    teacher = mlp(nn.Tanh()).requires_grad_(False)

    def own(model, batch):
        teacher.eval()
        return loss(model, batch) + _apart(model, teacher, batch)

    return own


def _copied():
    return lambda model, batch: loss(model, copied(batch))


copied = copy.deepcopy


def _printed():
    counts = {}

    def own(model, batch):
        counts[len(batch)] = counts.get(len(batch), 0) + 1
        sys.stderr.write("")
        return loss(model, batch)

    return own


@pytest.mark.parametrize("make", [_evaluated, _copied, _printed])
def test_names_that_write_nowhere_cost_no_training(make, monkeypatch):
    """As ``model.eval()``, functions of packages, and ``sys.stderr``."""
    asked = []
    monkeypatch.setattr(BetweenSteps, "_run_elsewhere", lambda *args: asked.append(args))

    _agrees(_run(make()))

    assert not asked


def _logging():
    log: list[float] = []

    def own(model, batch):
        losses = loss(model, batch)
        log.append(float(losses.detach().mean()))
        return losses

    return own, log


def _noting(log):
    """Return phi, and how long the log was at each call of it: the last one ends the training."""
    lengths: list[int] = []

    def noted(model):
        lengths.append(len(log))
        return output(model)

    return noted, lengths


def test_a_log_is_there_when_a_run_is_stopped_while_it_is_reversed(monkeypatch):
    """It was taken away by then, so that steps are reversed without it."""
    own, log = _logging()
    noted, lengths = _noting(log)
    take_away, left = BetweenSteps.before, list[int]()

    def stopped(self, state, step):
        take_away(self, state, step)
        left.append(len(log))
        if step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(BetweenSteps, "before", stopped)
    with pytest.raises(KeyboardInterrupt):
        engine.metagradient(_run(own), noted)

    assert min(left) < lengths[-1] == len(log)


@pytest.mark.slow
def test_a_log_is_there_after_a_segment_that_is_refused():
    """What the loss takes out of the graph late is refused after its segment, by the descent."""
    own, log = _logging()
    noted, lengths = _noting(log)

    def late(model, batch):
        losses = own(model, batch)
        return losses * losses.detach() if model.training and int(model.count) > 10 else losses

    with pytest.raises(UntrustworthyError):
        engine.descend(_run(late), noted, outer={"num_steps": 1}, replay={"steps_per_segment": 5})

    assert len(log) >= lengths[-1]  # with the replay of the last segment
