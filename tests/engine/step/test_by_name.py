"""Every way to reverse a step, against autograd of the whole step as one piece."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from engine.errors import ConfigurationError, UndifferentiableError
from engine.preflight.oracle import whole_run_gradient
from engine.replay.metagradient import metagradient, metagradients
from engine.routine.optimizers import adamw
from engine.step import products
from engine.step.by_name import make_vjp
from engine.step.compiled import CompiledVjp
from engine.step.programs import captured
from engine.step.reference import step_vjp
from engine.step.step import StepGraph, plain_step
from tests.engine.step.one_step import STEP, autograd_vjp, setting, worst_error
from tests.helpers.trainings import problems

EAGER = [
    ("reverse-over-reverse", 2),
    ("forward-over-reverse", None),
    ("forward-over-reverse", 2),
]


PAIRS = [
    *((optimizer, "all") for optimizer in problems.OPTIMIZERS),
    *(("adamw", kind) for kind in problems.kinds() if kind != "all"),
]


def without_dropout(routine):
    """The same routine without noise, which pieces of a batch could not share."""
    model = problems.model()
    model[2] = nn.Dropout(0.0)
    return replace(routine, model=model)


def shares_of_steps(shares, routine):
    """Without the kinds that shape only the start, which have no share in a step."""
    return {
        name: share
        for name, share in shares.items()
        if not routine.metaparameters[name].shapes_start
    }


@pytest.mark.parametrize(("mode", "micro_batch"), EAGER)
@pytest.mark.parametrize(("optimizer", "kind"), PAIRS)
def test_eager_ways_equal_autograd_of_the_whole_step(optimizer, kind, mode, micro_batch):
    """Batches of 5 are cut into 2, 2, 1: a denominator of the piece instead of the batch shows.

    1e-12: float64 sums of under a hundred terms in another order.
    """
    routine, state, z, cotangent = setting(optimizer, kind, shift=0.3)
    routine = routine if micro_batch is None else without_dropout(routine)
    expected_adjoint, expected_shares = autograd_vjp(routine, state, z, STEP, cotangent)
    expected_shares = shares_of_steps(expected_shares, routine)
    way = make_vjp(mode, micro_batch=micro_batch)

    adjoint, shares = way(routine, state, z, STEP, cotangent)

    assert shares.keys() == expected_shares.keys()
    assert worst_error(adjoint, expected_adjoint) < 1e-12
    assert not shares or worst_error(shares, expected_shares) < 1e-12


@pytest.mark.parametrize(
    ("optimizer", "mode", "micro_batch"),
    [
        ("nesterov", "forward-over-reverse", None),
        ("adamw", "forward-over-reverse", None),
        ("adamw", "forward-over-reverse", 3),
        ("adamw", "reverse-over-reverse", 3),
    ],
)
def test_metagradient_of_every_way_equals_autograd_of_the_whole_run(optimizer, mode, micro_batch):
    """Guesses from neighbouring states come into play only where steps follow one another."""
    routine = problems.routine(optimizer, "all")
    routine = routine if micro_batch is None else without_dropout(routine)
    _, expected = whole_run_gradient(routine, problems.output)

    found = metagradient(routine, problems.output, vjp=mode, micro_batch=micro_batch)

    assert worst_error(found.gradient, expected) < 1e-11


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "mode"),
    [("all", "reverse-over-reverse"), ("weights", "forward-over-reverse"), ("all", "batched")],
)
def test_outputs_in_one_sweep_equal_outputs_one_by_one(kind, mode, caplog):
    """Several adjoints share a graph; none may see another's."""
    routine = problems.routine("adamw", kind)
    outputs = [
        problems.output,
        lambda model: -3 * problems.loss(model, problems.examples(4, seed=2)).sum(),
        lambda model: problems.loss(model, problems.examples(3, seed=3)).max(),
    ]

    together = metagradients(routine, outputs, vjp=mode)

    for found, output in zip(together, outputs, strict=True):
        alone = metagradient(routine, output, vjp=mode)
        assert found.output == alone.output
        if mode == "reverse-over-reverse":
            assert all(torch.equal(found[name], alone[name]) for name in alone.gradient)
        assert worst_error(found.gradient, alone.gradient) < 1e-12
    assert "one after the other" not in caplog.text


def test_outputs_that_cannot_be_pulled_together_are_pulled_one_by_one(monkeypatch, caplog):
    """Whatever torch has no batching rule for; nobody gets another number for it."""
    routine = problems.routine("momentum", "weights")
    pulls = products.pulls

    def ruleless(*given, together=False):
        if together:
            raise RuntimeError("Batching rule not implemented for aten::something.")
        return pulls(*given)

    monkeypatch.setattr(products, "pulls", ruleless)
    outputs = [problems.output, lambda model: problems.output(model) ** 2]

    found = metagradients(routine, outputs, vjp="batched")

    assert "one after the other" in caplog.text
    for one, output in zip(found, outputs, strict=True):
        expected = metagradient(routine, output)
        assert torch.equal(one["weights"], expected["weights"])


def test_a_batched_product_that_differs_is_not_used(monkeypatch, caplog):
    """The first two are compared with the reference, so that none is believed unseen."""
    routine = problems.routine("momentum", "weights")
    outputs = [problems.output, lambda model: problems.output(model) ** 2]
    right = products.pulls

    def swapped(*given, together=False):
        rows = right(*given, together=together)
        return rows[::-1] if together else rows

    monkeypatch.setattr(products, "pulls", swapped)

    found = metagradients(routine, outputs, vjp="batched")

    assert "is off by" in caplog.text
    assert torch.equal(found[0]["weights"], metagradient(routine, outputs[0])["weights"])


def test_a_metaparameter_that_enters_later_steps_only_is_compared_there(monkeypatch, caplog):
    """Those steps have another graph than the two that were compared first."""
    routine = problems.routine("momentum", "counts")
    outputs = [problems.output, lambda model: problems.output(model) ** 2]
    right, asked = StepGraph.pull, []

    def swapped(graph, cotangent, *, together=False, **asked_of):
        found = right(graph, cotangent, together=together, **asked_of)
        if together:
            asked.append(len(graph.leaves))
        if not (together and graph.leaves):
            return found
        return found[0], {name: rows.flip(0) for name, rows in found[1].items()}

    monkeypatch.setattr(StepGraph, "pull", swapped)

    found = metagradients(routine, outputs, vjp="batched")

    assert asked[:3] == [0, 0, 0]  # compared twice, and believed, before one enters
    assert asked[-1] == 1
    assert "'counts' is off by" in caplog.text
    expected = metagradients(routine, outputs)
    for one, other in zip(found, expected, strict=True):
        assert worst_error(one.gradient, other.gradient) < 1e-12


def test_no_outputs_are_refused():
    """An empty list is a filter that matched nothing."""
    with pytest.raises(ConfigurationError, match="no outputs"):
        metagradients(problems.routine(), [])


class Counted:
    """A loss that counts how often it is evaluated."""

    def __init__(self):
        self.calls = 0

    def __call__(self, model, batch):
        """Count, and return the shared loss."""
        self.calls += 1
        return problems.loss(model, batch)


@pytest.mark.parametrize(
    ("optimizer", "expected"), [("momentum", 1), ("nesterov", 1), ("adamw", 1), ("custom", 2)]
)
def test_gradient_is_guessed_where_the_optimizer_lets_it_be(optimizer, expected):
    """One evaluation of the loss a step if the guess holds, two where there is none."""
    made = adamw() if optimizer == "custom" else problems.OPTIMIZERS[optimizer]
    loss = Counted()
    made = replace(made, recover=None) if optimizer == "custom" else made
    routine = replace(problems.routine("sgd"), optimizer=made, loss=loss)
    z, states = routine.point(), [routine.initial_state()]
    for step in range(5):
        states.append(plain_step(routine, states[-1], z, step)[0])
    way = make_vjp("forward-over-reverse")
    adjoint, _ = way(
        routine, states[4], z, 4, {n: torch.ones_like(r) for n, r in states[4].items()}
    )
    loss.calls = 0

    way(routine, states[3], z, 3, adjoint)

    assert loss.calls == expected


def test_wrong_guess_costs_a_pass_and_no_digit():
    """A state of another run may stand at the next step's place; its gradient is not this one's."""
    routine, state, z, cotangent = setting("adamw", "weights")
    expected, expected_shares = autograd_vjp(routine, state, z, STEP, cotangent)
    way = make_vjp("forward-over-reverse")
    way(routine, {name: 3 * row for name, row in state.items()}, z, STEP + 1, cotangent)

    adjoint, shares = way(routine, state, z, STEP, cotangent)

    assert worst_error(adjoint, expected) < 1e-12
    assert worst_error(shares, expected_shares) < 1e-12


def test_micro_batches_with_dropout_are_refused():
    """The masks of pieces are not those of the step that was trained."""
    routine, state, z, cotangent = setting("sgd", "weights")

    with pytest.raises(ConfigurationError, match=r"micro_batch is 2.*'2' \(Dropout\)"):
        make_vjp("reverse-over-reverse", micro_batch=2)(routine, state, z, STEP, cotangent)


def test_micro_batches_of_a_loss_that_couples_examples_are_refused():
    """A contrastive loss of two examples is not that of five."""

    def loss(model, batch):
        logits = model(batch[0])
        return (logits - logits.mean(dim=0)).square().sum(dim=1)

    routine, state, z, cotangent = setting("sgd", "weights")
    coupled = replace(without_dropout(routine), loss=loss)

    with pytest.raises(ConfigurationError, match="depends on the rest of the batch"):
        make_vjp("forward-over-reverse", micro_batch=2)(coupled, state, z, STEP, cotangent)


class NoForward(torch.autograd.Function):
    """An operation with derivatives in reverse only."""

    @staticmethod
    def forward(ctx, x):
        """Square."""
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        """Differentiable once more."""
        (x,) = ctx.saved_tensors
        return 2 * x * grad


def test_operation_without_a_forward_derivative_is_refused_by_name():
    """Fused attention kernels have none, and the way out is another mode."""
    routine, state, z, cotangent = setting("sgd", "weights")
    custom = replace(routine, loss=lambda model, b: NoForward.apply(problems.loss(model, b)))

    with pytest.raises(UndifferentiableError, match="Use vjp=reverse-over-reverse"):
        make_vjp("forward-over-reverse")(custom, state, z, STEP, cotangent)


@pytest.mark.parametrize(
    ("mode", "micro_batch", "message"),
    [
        ("fastest", None, "no vjp 'fastest'. Use one of reverse-over-reverse"),
        ("compiled", 2, "micro_batch is 2, but vjp=compiled"),
        ("auto", 2, "micro_batch is 2, but vjp=auto"),
        ("forward-over-reverse", 0, "Use 1 example or more"),
    ],
)
def test_impossible_settings_are_refused(mode, micro_batch, message):
    """Before anything is trained."""
    with pytest.raises(ConfigurationError, match=message):
        make_vjp(mode, micro_batch=micro_batch)


def test_auto_declines_to_compile_a_short_run(caplog):
    """Compiling for tens of seconds to save milliseconds, and the log says so."""
    caplog.set_level("INFO", logger="engine")
    routine = problems.routine("adamw", "weights")
    _, expected = whole_run_gradient(routine, problems.output)

    found = metagradient(routine, problems.output, vjp="auto")

    assert worst_error(found.gradient, expected) < 1e-11
    assert "is not compiled: 9 products" in caplog.text
    assert "Steps are reversed by" in caplog.text


def test_compiler_that_fails_leaves_the_reference_and_a_warning(caplog, monkeypatch):
    """A machine without a C++ compiler still gets its metagradient."""

    def broken(*_args, **_kwargs):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda *_args, **_kwargs: broken)
    routine, state, z, cotangent = setting("adamw", "weights")
    expected, _ = step_vjp(routine, state, z, STEP, cotangent)

    adjoint, _ = CompiledVjp()(routine, state, z, STEP, cotangent)

    assert all(torch.equal(adjoint[name], expected[name]) for name in expected)
    assert "No working C++ compiler found" in caplog.text


@pytest.mark.slow
def test_program_that_built_in_its_batch_is_caught_at_the_second_step(caplog, monkeypatch):
    """A stale batch agrees where it was compiled, and nowhere else."""
    first = []

    def stale(whole, _tensors, _options, *, is_kept):
        def frozen(*given):
            first.append(given)
            pairs = zip(whole.inputs, given, first[0], strict=True)
            return whole(*(old if name.startswith("column") else now for name, now, old in pairs))

        return frozen

    monkeypatch.setattr(captured, "_compiled", stale)
    routine, state, z, cotangent = setting("adamw", "weights")
    way = CompiledVjp()
    way(routine, state, z, STEP, cotangent)
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]
    expected, _ = step_vjp(routine, state, z, STEP - 1, cotangent)

    adjoint, _ = way(routine, state, z, STEP - 1, cotangent)

    assert all(torch.equal(adjoint[name], expected[name]) for name in expected)
    assert "is off by" in caplog.text
