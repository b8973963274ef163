"""The preflight: routines broken on purpose are found with the right cause, sound ones pass."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from engine.errors import ConfigurationError
from engine.preflight.checkup import check
from engine.preflight.verdict import Verdict
from engine.routine.optimizers import adam
from tests.helpers.trainings.broken_routines import BROKEN
from tests.helpers.trainings.routines import examples, mlp, output, routine
from tests.helpers.trainings.sound_routines import SOUND
from tests.strangers.sound_more import Graph

FEW = 1  # directions; the checks are the same ones, in a fraction of the time

LONG = {  # found by trainings, not in the first step; one of each kind is always tried
    "eval() dropout",
    "bfloat16 autocast",
    "zero-filled gradients",
    "wrong denominator",
    "half-detached moment",
    "wrong custom backward",
    "eps_root 0",
}


def always_or_exhaustive(names, always):
    marks = {name: () if name in always else pytest.mark.exhaustive for name in names}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


@pytest.fixture(scope="module")
def relu():
    """What the preflight says of a sound network with kinks."""
    return check(routine(model=mlp(nn.ReLU)), output, num_directions=FEW)


class Moved(nn.Module):
    """A model in float32 with a buffer in float64 that its forward pass moves."""

    def __init__(self):
        super().__init__()
        self.net = mlp(dtype=torch.float32)
        self.register_buffer("sums", torch.zeros(3, dtype=torch.float64))

    def forward(self, inputs):
        """Return three logits, and add them up."""
        found = self.net(inputs)
        if self.training:
            self.sums += found.detach().sum(0)
        return found


def in_float32(model, **changes):
    """A run of a model in float32, and an output that is."""
    inputs, labels = examples()
    run = routine(model=model, examples=(inputs.float(), labels), **changes)
    return run, lambda net: run.loss(net, (inputs.float(), labels)).mean()


def test_what_no_state_can_hold_is_reported_like_any_other_refusal():
    """It was an error where a report was asked for."""
    report = check(*in_float32(Moved()), num_directions=FEW)

    assert report.verdict is Verdict.REFUSE
    assert [each.name for each in report.checks] == ["first-step"]
    assert "'sums' of torch.float64" in report.checks[0].cause


def test_a_loss_that_fails_is_told_with_its_line():
    """Examples in another format than the model, as in everybody's first attempt."""
    run, output = in_float32(mlp(dtype=torch.float64))

    with pytest.raises(ConfigurationError, match=r"different number formats: convert one of them"):
        check(run, output, num_directions=FEW)


def test_a_graph_of_messages_is_checked_in_float64():
    """A sparse matrix has no storage, and what a step keeps for its backward pass is counted."""
    inputs, labels = examples()
    inputs, graph = inputs.float()[:, :6], Graph(torch.sparse_coo).float()
    run = routine(model=graph, examples=(inputs, labels), learning_rate=1.0)

    report = check(run, lambda net: run.loss(net, (inputs, labels)).mean(), num_directions=FEW)

    assert report.verdict is not Verdict.REFUSE, report.sentences()


def test_there_are_at_least_twenty_of_each():
    """The counts that are asked for are shares of twenty."""
    assert len(BROKEN) >= 20
    assert len(SOUND) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", always_or_exhaustive(BROKEN, BROKEN.keys() - LONG))
def test_a_broken_routine_is_found_with_its_cause(name):
    """It trains and gives numbers; the right check says what is wrong with them."""
    broken = BROKEN[name]

    report = check(broken.make(), output, num_directions=FEW)

    found = broken.found_by(report)
    assert found is not None, report.sentences()
    assert report.verdict is not Verdict.PASS
    assert found.remedy


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", always_or_exhaustive(SOUND, {"dropout, float32", "a log of all losses"})
)
def test_a_sound_routine_passes(name):
    """A check that warns of everything is switched off by its users."""
    report = check(SOUND[name](), output, num_directions=FEW)

    assert report.verdict is Verdict.PASS, report.sentences()
    assert all(each.verdict is Verdict.PASS for each in report.checks)


def test_a_check_says_on_which_side_of_its_limit_it_passes(relu):
    """A metasmoothness of 1 beside a limit of 0.414 looked as if it had gone too far."""
    others = check(routine(optimizer=adam()), output, num_directions=FEW)
    found = [each for report in (relu, others) for each in report.checks if each.bound()]

    assert {each.bound()[0] for each in found} == {"≤", "≥"}
    for each in found:
        is_low = each.bound() == f"≥ {each.limit:.3g}"
        inside = each.value >= each.limit if is_low else each.value <= each.limit
        assert inside is (each.verdict is Verdict.PASS), each


def test_kinks_are_explained_and_raise_no_alarm(relu):
    """Differences of a ReLU network may fail without a bug; a user is told before it happens."""
    assert relu.verdict is Verdict.PASS, relu.sentences()
    assert "ReLU has kinks, where the run jumps" in relu["central-differences"].cause


def test_differences_that_jump_at_kinks_are_explained_and_not_refused():
    """Many hidden units and a high rate cross a kink at every distance, and no term is missing."""
    wide = replace(routine(learning_rate=0.3), model=mlp(lambda: nn.Hardtanh(-0.01, 0.01), nn.ReLU))

    found = check(wide, output, num_directions=FEW)["central-differences"]

    assert found.verdict is Verdict.PASS
    assert "kinks" in found.cause


def test_a_report_names_what_it_measured(relu):
    """Each check has a figure and a limit, or its cause says why there is none."""
    names = [each.name for each in relu.checks]

    assert names == [
        "first-step",
        "second-derivatives",
        "dropout",
        "replay",
        "witness",
        "whole-run-autograd",
        "central-differences",
        "number-format",
        "training",
        "adjoint",
        "metasmoothness",
        "output",
    ]
    assert relu["whole-run-autograd"].value < relu["whole-run-autograd"].limit
    assert 0 <= relu["training"].value < 1
    assert all(each.cause.endswith(".") for each in relu.checks)


def test_an_output_that_takes_derivatives_of_its_own_passes():
    """How steep the objective is where training ends, as sharpness is measured."""

    def steepness(model):
        with torch.enable_grad():
            slopes = torch.autograd.grad(output(model), list(model.parameters()), create_graph=True)
        return sum(slope.square().sum() for slope in slopes)

    report = check(routine(), steepness, num_directions=FEW)

    assert report.verdict is not Verdict.REFUSE, report.sentences()


def test_an_output_that_reads_what_training_left_behind_is_refused():
    """The preflight of a flow stands for the comparison that a call makes after its run."""
    kept = []

    run = routine()

    def noted(model, batch):
        losses = run.loss(model, batch)
        kept.append(losses.detach().mean())
        return losses

    found = check(
        replace(run, loss=noted), lambda m: output(m) * torch.stack(kept).min(), num_directions=1
    )

    assert found.verdict is Verdict.REFUSE
    assert "after it, at the same parameters" in found["output"].cause
    assert "Routine(state=, advance=)" in found["output"].remedy


@pytest.mark.parametrize(
    ("root", "eps", "verdict"),
    [
        (0.0, 1e-8, Verdict.WARN),
        (1e-12, 1e-8, Verdict.WARN),
        (1e-8, 1e-8, Verdict.PASS),
        (0.0, 1e-3, Verdict.PASS),
    ],
)
def test_eps_root_is_judged_by_what_the_smallest_step_is_divided_by(root, eps, verdict):
    """Torch's own Adam has a derivative; with its eps of 1e-8 one that nobody can use."""
    run = routine(optimizer=adam(eps=eps, eps_root=root), learning_rate=0.01, num_steps=2)

    found = check(run, output, num_directions=1)["eps-root"]

    assert found.verdict is verdict
    assert found.value == pytest.approx(root**0.5 + eps)
    assert ("eps_root=1e-8" in found.remedy) == (verdict is not Verdict.PASS)
