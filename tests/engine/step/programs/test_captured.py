"""Programs of captured steps: kept between processes, and never for another step than was read.

Run by name, because each compiles for long, see ``tests/engine/step/test_compiled.py``. Another
process is played by forgetting what Dynamo has read, and once it is one.
"""

import hashlib
import json
import os
import subprocess
import sys
import types

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import engine
from engine.models import attention
from engine.recipes.replay import StepPath
from engine.replay.metagradient import metagradient
from engine.step.compiled import CompiledVjp, is_refused
from engine.step.reference import step_vjp
from tests.engine.step.one_step import worst_error
from tests.helpers.trainings.attending import Causal, run_of

pytestmark = pytest.mark.compiler

HELPER = """
SCALE = {scale}

def squared(x):
    return {power} * x * x
"""

LOSS = """
import helper

def make(factor):
    def loss(model, batch, shift={shift}):
        found = model(batch[0]) * factor + shift
        return helper.squared(found - batch[1]).sum(1) * helper.SCALE {more}

    return loss
"""

PLAIN = {"factor": 0.5, "shift": 0.25, "scale": 1.5, "power": 1.0, "more": "", "slope": 0.1}

CHANGES = {
    "a number in a closure": {"factor": 0.75},
    "a default argument": {"shift": -0.25},
    "the source of the loss": {"more": "+ 0.1 * found.sum(1)"},
    "a number of a helper's module": {"scale": 2.5},
    "the source of a helper": {"power": 2.0},
    "a number of the model": {"slope": 0.3},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache of this test's own, and nothing that others have read."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "programs"))
    forget()
    yield tmp_path / "programs"
    forget()


def forget():
    torch._dynamo.reset()
    counters.clear()


def kept():
    """How many programs were found in the folder, and how many were not."""
    found = counters["aot_autograd"]
    return found["autograd_cache_hit"], found["autograd_cache_miss"]


class Sloped(nn.Module):
    """Layers with a number that no tensor holds."""

    def __init__(self, slope):
        super().__init__()
        self.layers, self.slope = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), slope

    def forward(self, x):
        """Map rows."""
        first, second = self.layers
        inner = first(x)
        return second(torch.where(inner > 0, inner.sin(), self.slope * inner))


def run(monkeypatch, **changes):
    """A run whose loss is read from source, as in a process of its own."""
    said = PLAIN | changes
    helper, module = types.ModuleType("helper"), types.ModuleType("problem")
    exec(HELPER.format_map(said), helper.__dict__)
    for each in (helper, module):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    exec(LOSS.format_map(said), module.__dict__)
    drawn = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Sloped(said["slope"]).double()
    rows = torch.randn(8, 5, generator=drawn, dtype=torch.float64)
    return engine.Routine(
        model,
        module.make(said["factor"]),
        (rows[:, :3], rows[:, 3:]),
        engine.adamw(eps_root=1e-6),
        learning_rate=0.1,
        num_steps=4,
        batch_size=4,
        metaparameters={"w": engine.ExampleWeights(torch.ones(8, dtype=torch.float64))},
    )


def output(model):
    return model(torch.linspace(-1, 1, 3, dtype=torch.float64)).square().sum()


def by_reference(routine):
    return metagradient(routine, output, vjp="reverse-over-reverse", witness=False).gradient["w"]


def compiled(routine):
    return metagradient(routine, output, vjp="compiled", witness=False).gradient["w"]


@pytest.mark.parametrize("changed", CHANGES)
def test_program_is_found_again_for_the_same_step_alone(changed, monkeypatch, caplog):
    """What Python holds beside tensors is built into a program; it is in what one is found by."""
    first = compiled(run(monkeypatch))
    assert kept() == (0, 1)
    forget()
    again = compiled(run(monkeypatch))
    assert kept() == (1, 0)
    forget()
    routine = run(monkeypatch, **CHANGES[changed])
    expected = by_reference(routine)
    assert (expected - first).norm() > 1e-6 * expected.norm()  # else it is no change

    found = compiled(routine)

    assert kept() == (0, 1)
    assert torch.equal(again, first)
    assert (found - expected).norm() < 1e-11 * expected.norm()
    assert "not compiled" not in caplog.text


def test_step_that_changes_during_the_run_is_read_again(monkeypatch, caplog):
    """A number of the model moves after the programs were compared; the next step has it."""
    routine = run(monkeypatch)
    way, state, z = CompiledVjp(), routine.initial_state(), routine.point()
    cotangent = {name: row + 0.1 for name, row in state.items()}
    for step in (3, 2, 1):
        way(routine, state, z, step, cotangent)
    routine.model.slope = 0.4

    found = way(routine, state, z, 1, cotangent)

    other = run(monkeypatch, slope=0.4)
    expected = step_vjp(other, state, z, 1, cotangent)
    for ours, theirs in zip(found, expected, strict=True):
        assert worst_error(ours, theirs) < 1e-11
    assert not is_refused(routine)


def test_second_process_finds_the_programs_of_the_first(folder):
    """Product, gradient and pair; with the same bits."""
    made = [_process(folder) for _ in range(2)]

    (_, missing), (found, _) = kept = [each.pop("kept") for each in made]
    assert kept == [[0, missing], [found, 0]]
    assert missing == found >= 3
    assert made[0] == made[1]


def test_fused_attention_is_kept(monkeypatch):
    """It stands in the graph by its name, and its source is in what the program is found by."""
    monkeypatch.setattr(attention, "LEAST_PAIRS", 1)
    expected, found = None, []
    for _ in range(2):
        forget()
        torch.manual_seed(0)
        routine, of = run_of(Causal())
        found.append(metagradient(routine, of, vjp="compiled").gradient)
        expected = metagradient(routine, of, vjp="reverse-over-reverse").gradient

    assert kept() == (1, 0)
    for each in found:
        assert worst_error(each, expected) < 1e-10


@torch.library.custom_op("tests_of_captures::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


twice.register_fake(lambda x: torch.empty_like(x))
twice.register_autograd(lambda _, cotangent: 2 * cotangent)


def test_program_with_an_operation_of_somebody_is_not_kept(monkeypatch):
    """Its derivative is code that no graph shows."""
    routine = run(monkeypatch)
    plain = routine.loss
    changed = engine.Routine(
        routine.model,
        lambda model, batch: twice(plain(model, batch)),
        routine.examples,
        engine.sgd(0.9),
        learning_rate=0.1,
        num_steps=3,
        batch_size=4,
        metaparameters=routine.metaparameters,
    )

    found = compiled(changed)

    assert kept() == (0, 0)
    assert worst_error({"w": found}, {"w": by_reference(changed)}) < 1e-11


class Remembering(Sloped):
    """Keeps what it computed last."""

    def forward(self, x):
        """Map rows."""
        self.last = found = super().forward(x)
        return found


def test_step_that_keeps_tensors_elsewhere_is_refused(monkeypatch, caplog):
    """A graph that is not run would leave something else there."""
    routine = run(monkeypatch)
    remembering = Remembering(0.1).double()
    remembering.load_state_dict(routine.model.state_dict())
    routine = engine.Routine(
        remembering,
        routine.loss,
        routine.examples,
        routine.optimizer,
        learning_rate=0.1,
        num_steps=4,
        batch_size=4,
        metaparameters=routine.metaparameters,
    )

    found = compiled(routine)

    assert "keeps tensors of a call for itself" in caplog.text
    assert torch.equal(found, by_reference(routine))


def _process(folder):
    code = "from tests.engine.step.programs import test_captured as t; t.main()"
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Print what a process finds, and the bits that it makes."""
    from dataclasses import replace

    routine = run(pytest.MonkeyPatch())
    ways = {
        "product": (routine, "compiled"),
        "gradient": (replace(routine, compile=True), "reverse-over-reverse"),
        "pair": (
            replace(routine, compile=True, path=StepPath.GRAPH),
            "reverse-over-reverse",
        ),
    }
    bits = {}
    for name, (each, vjp) in ways.items():
        found = metagradient(each, output, vjp=vjp, witness=False).gradient["w"]
        bits[name] = hashlib.sha256(found.numpy().tobytes()).hexdigest()
    sys.stdout.write(json.dumps({"kept": kept(), **bits}) + "\n")
