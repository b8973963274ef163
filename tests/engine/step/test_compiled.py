"""Compiled steps and products against eager ones; run by name, because each compiles for long.

The compiler does not see through the type checks of the default test options, hence

    pytest -o addopts=--import-mode=importlib -m compiler tests/engine/step/test_compiled.py
"""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from engine.errors import ConfigurationError
from engine.metaparameters.weights import ExampleWeights
from engine.models import attention
from engine.models.attention_operations import NAMESPACE
from engine.preflight.oracle import whole_run_gradient
from engine.recipes.replay import StepPath
from engine.replay.batched import train_many
from engine.replay.metagradient import metagradient
from engine.replay.plain_training import train_unchecked
from engine.routine.optimizers import adamw
from engine.routine.routine import Routine
from engine.step.compiled import CompiledVjp
from engine.step.programs import compiling as programs
from engine.step.reference import step_vjp
from tests.engine.step.one_step import STEP, autograd_vjp, setting, worst_error
from tests.helpers.trainings import problems
from tests.helpers.trainings.attending import Causal, run_of

pytestmark = pytest.mark.compiler

PASSES = ("forward", "pull", "second_pull")


@pytest.mark.parametrize("optimizer", problems.OPTIMIZERS)
def test_compiled_product_equals_autograd_of_the_whole_step(optimizer, caplog):
    """Over four steps of one program, with dropout: masks and batches are inputs."""
    way = CompiledVjp()
    routine, state, z, cotangent = setting(optimizer, "weights", shift=0.3)

    for step in (STEP, STEP - 1, STEP - 2, STEP - 3):
        adjoint, shares = way(routine, state, z, step, cotangent)
        expected, expected_shares = autograd_vjp(routine, state, z, step, cotangent)
        assert worst_error(adjoint, expected) < 1e-12
        assert worst_error(shares, expected_shares) < 1e-12

    assert "not compiled" not in caplog.text


@pytest.mark.parametrize("kind", problems.kinds())
def test_compiled_metagradient_equals_autograd_of_the_whole_run(kind, caplog):
    """Every kind of z, among them those that enter at one step or shape the start."""
    routine = problems.routine("adamw", kind)
    _, expected = whole_run_gradient(routine, problems.output)

    found = metagradient(routine, problems.output, vjp="compiled")

    assert worst_error(found.gradient, expected) < 1e-11
    assert "not compiled" not in caplog.text


def test_program_is_compiled_once_for_all_values_of_z(caplog):
    """An outer step moves z, and with it nothing that a program has built in."""
    routine = problems.routine("adamw", "weights")
    metagradient(routine, problems.output, vjp="compiled")
    program = routine.programs["product"]
    moved = routine.with_metaparameters({"weights": 2 * routine.point()["weights"]})
    _, expected = whole_run_gradient(moved, problems.output)

    found = metagradient(moved, problems.output, vjp="compiled")

    assert moved.programs["product"] is program
    assert worst_error(found.gradient, expected) < 1e-11
    assert "not compiled" not in caplog.text


def test_compiled_gradient_serves_all_values_of_z():
    """Weights and rates are read anew at every step, by the one program that there is."""
    both = problems.kinds()["weights"] | problems.kinds()["learning-rate"]
    routine = replace(problems.routine("adamw", metaparameters=both), compile=True)
    train_unchecked(routine)
    used = routine.programs["gradient, used"]
    moved = routine.with_metaparameters({n: 1.5 * value for n, value in routine.point().items()})

    found = train_unchecked(moved)

    assert moved.programs["gradient, used"] is used
    assert worst_error(found, train_unchecked(replace(moved, compile=False))) < 1e-12
    assert worst_error(found, train_unchecked(routine)) > 1e-3


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_compiled_steps_repeat_their_bits_and_train_the_eager_run(dropout):
    """A replayed step must be the step, and the same masks are drawn as without a compiler."""
    model = problems.model()
    model[2] = nn.Dropout(dropout)
    eager = problems.routine("adamw", "weights", model=model)
    compiled = replace(eager, compile=True)

    first, again = train_unchecked(compiled), train_unchecked(compiled)

    assert "gradient" in compiled.programs
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert worst_error(first, train_unchecked(eager)) < 1e-12


def test_metagradient_of_compiled_steps_equals_autograd_of_the_whole_run():
    """Both sweeps use the compiled gradient, also where the pieces of the product do not."""
    routine = problems.routine("adamw", "all")
    _, expected = whole_run_gradient(routine, problems.output)

    found = metagradient(replace(routine, compile=True), problems.output)

    assert worst_error(found.gradient, expected) < 1e-11


@pytest.mark.parametrize(("optimizer", "kind"), [("adamw", "weights"), ("sgd", "all")])
def test_kept_graphs_of_compiled_steps_equal_autograd_of_the_whole_run(optimizer, kind):
    """One program makes the states of both sweeps, and its second half the product."""
    eager = problems.routine(optimizer, kind)
    _, expected = whole_run_gradient(eager, problems.output)
    routine = replace(eager, compile=True, path=StepPath.GRAPH)

    kept = metagradient(routine, problems.output, schedule="store-all", unroll=4)
    again = metagradient(routine, problems.output, schedule="sqrt")

    assert routine.programs["gradient, compared"] == 2
    assert worst_error(kept.gradient, expected) < 1e-11
    assert all(torch.equal(kept[name], again[name]) for name in expected)


def test_kept_graphs_of_compiled_convolutions_equal_autograd_of_the_whole_run():
    """With dropout, whose mask must not be drawn again where an activation is computed again."""
    routine = _images()
    _, expected = whole_run_gradient(routine, _images_output)

    kept = metagradient(
        replace(routine, compile=True, path=StepPath.GRAPH),
        _images_output,
        schedule="store-all",
        unroll=3,
    )

    assert worst_error(kept.gradient, expected) < 1e-4


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("is_pair", [False, True], ids=["product", "pair"])
def test_compiled_steps_have_the_fused_attention(is_pair, dropout, monkeypatch):
    """The programs call its passes, the first derivative also for the adjoint of what it reads."""
    monkeypatch.setattr(attention, "LEAST_PAIRS", 1)
    torch.manual_seed(0)
    eager, _ = run_of(Causal(dropout))
    routine = replace(eager, compile=True, path=StepPath.GRAPH) if is_pair else eager
    pull = step_vjp if is_pair else CompiledVjp()
    state, z = eager.initial_state(), eager.point()
    given = (state, z, 1, {name: row.sin() for name, row in state.items()})
    expected = step_vjp(eager, *given)
    for _ in range(2):
        pull(routine, *given)  # compared with the eager step

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        found = pull(routine, *given)

    called = {event.key: event.count for event in seen.key_averages()}
    assert [called[f"{NAMESPACE}::attention_{name}"] for name in PASSES] == [1, 2, 1]
    assert not any(name.startswith("aten::_softmax") for name in called)
    for ours, theirs in zip(found, expected, strict=True):
        assert worst_error(ours, theirs) < 1e-10


@pytest.mark.parametrize("compile_all", [False, True])
def test_code_that_keeps_tensors_is_not_compiled(compile_all, caplog):
    """Where a program is read, a list of the loss would be left others in the place of its own."""
    log = []

    def logged(model, batch):
        losses = cross_entropy(model(batch[0]), batch[1], reduction="none")
        log.append(losses.detach().mean())
        assert torch.stack(log).isfinite().all()
        return losses

    routine = problems.routine("momentum", "weights", loss=logged, compile=compile_all)
    if compile_all:
        with pytest.raises(ConfigurationError, match="keeps tensors of a call"):
            train_unchecked(routine)
        return
    _, expected = whole_run_gradient(routine, problems.output)

    found = metagradient(routine, problems.output, vjp="compiled")

    assert worst_error(found.gradient, expected) < 1e-11
    assert "not compiled, and reverse-over-reverse used: the loss" in caplog.text


def test_compiled_product_that_drops_a_second_derivative_is_refused(monkeypatch):
    """Compilers have lost them in silence, and a gradient alone does not show it."""
    routine = replace(problems.routine(), compile=True, path=StepPath.GRAPH)
    call = programs._call_gradient

    def cut(*arguments, **named):
        gradient, *others = call(*arguments, **named)
        return gradient.detach() + 0 * arguments[1], *others

    monkeypatch.setattr(programs, "_call_gradient", cut)

    with pytest.raises(ConfigurationError, match="compiled product with respect to the parameters"):
        metagradient(routine, problems.output)


def _images() -> Routine:
    """Three float32 steps of a small convolutional net with a residual part and dropout."""
    torch.manual_seed(0)

    def convolution(num_inputs: int, num_outputs: int) -> nn.Module:
        layer = nn.Conv2d(num_inputs, num_outputs, 3, padding=1, bias=False)
        return nn.Sequential(layer, nn.GroupNorm(4, num_outputs), nn.GELU())

    model = nn.Sequential(
        convolution(1, 8),
        nn.AvgPool2d(2),
        _Residual(convolution(8, 16), convolution(16, 8)),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    return Routine(
        model,
        lambda model, batch: cross_entropy(model(batch[0]), batch[1], reduction="none"),
        (torch.randn(18, 1, 12, 12), torch.randint(0, 3, (18,))),
        adamw(eps_root=1e-6),
        learning_rate=0.01,
        num_steps=3,
        batch_size=6,
        metaparameters={"weights": ExampleWeights(torch.ones(18))},
    )


def _images_output(model: nn.Module) -> torch.Tensor:
    drawn = torch.Generator().manual_seed(1)
    images = torch.randn(12, 1, 12, 12, generator=drawn)
    return cross_entropy(model(images), torch.arange(12) % 3)


class _Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images to images of the same shape."""
        return x + self.layers(x)


def test_compiled_runs_are_compiled_after_many_were_trained_together():
    """A look for tensors that are kept goes without the program, which it would spoil."""
    routine = problems.routine("momentum", "weights", compile=True)
    points = [{"weights": routine.point()["weights"] * (1 + shift)} for shift in (0.0, 0.1, 0.2)]

    together = train_many(routine, points)
    alone = [train_unchecked(routine, point) for point in points]

    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one["params"], other["params"], rtol=1e-9, atol=1e-12)
