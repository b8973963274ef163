"""The product that is chosen by a clock: when compiling is tried, and what is noted of it.

No test waits for the clock: a product is used once, or so often that any gain pays.
"""

import pytest
import torch

from engine.recipes.replay import ReplaySettings, VjpMode
from engine.replay.seeding import seed_adjoint
from engine.replay.sweep_costs import fits_at_once
from engine.step import batched_outputs, measured
from engine.step.measured import MeasuredVjp, expected_gain, expected_wait
from engine.step.products import join, split
from engine.step.programs.compile_notes import CompileNote, keep_note, read_note
from engine.step.reference import step_vjp
from tests.engine.step.small_routine import losses, small_routine

ALWAYS = 10**15
"""Uses for which any gain pays."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


@pytest.fixture
def compiled(monkeypatch):
    """Steps that were reversed by what stands for the compiled product here."""
    steps = []

    class Stand:
        def __call__(self, routine, state, z, step, cotangent, *, to_state=True):
            steps.append(step)
            return step_vjp(routine, state, z, step, cotangent, to_state=to_state)

    monkeypatch.setattr(measured, "CompiledVjp", Stand)
    return steps


def pull(num_uses):
    routine = small_routine()
    state, z = routine.initial_state(), routine.point()
    _, cotangent = seed_adjoint(
        routine, state, lambda model: losses(model, routine.examples).mean()
    )
    MeasuredVjp(num_uses)(routine, state, z, 1, cotangent)
    return routine


def test_product_of_few_uses_is_not_compiled(compiled):
    """Once is never enough for half a minute."""
    pull(num_uses=1)

    assert not compiled
    assert read_note(small_routine()) is None


def test_product_of_many_uses_is_compiled_and_noted(compiled):
    """What was waited for and saved serves the next process."""
    pull(ALWAYS)

    note = read_note(small_routine())
    assert compiled
    assert note is not None
    assert note.times == 1


def test_note_of_a_slower_product_spares_compiling(compiled):
    """However long the run: what saved nothing on this machine saves nothing again."""
    keep_note(small_routine(), seconds=1e-9, share=1.1)

    routine = pull(ALWAYS)

    assert not compiled
    assert routine.programs["fastest"] is not VjpMode.COMPILED


def test_note_of_a_product_without_a_wait_has_it_tried(compiled):
    """One use pays where nothing is waited for."""
    keep_note(small_routine(), seconds=1e-12, share=0.5)

    pull(num_uses=1)

    assert compiled


def test_refused_product_leaves_no_note(compiled, monkeypatch):
    """A compiler that is missing today may be there tomorrow."""
    monkeypatch.setattr(measured, "is_refused", lambda routine: True)

    pull(ALWAYS)

    assert compiled
    assert read_note(small_routine()) is None


def test_expectations_follow_notes_before_rules():
    """A larger graph takes longer; a second process waits for less, and a third as the second."""
    routine, first = small_routine(), CompileNote(40.0, 0.7)

    assert expected_wait(None, 500) > expected_wait(None, 50)
    assert expected_wait(first, 500) < 40
    assert expected_wait(CompileNote(9.0, 0.7, times=2), 0) == 9
    assert expected_gain(routine, first) == pytest.approx(0.3)
    assert 0 < expected_gain(routine, None) < 0.4


class Ticks:
    """A clock on which one product takes two seconds, and all of a pass one."""

    def __init__(self):
        self.now, self.passes = 0.0, []

    def perf_counter(self):
        """Stand for the clock of the module ``time``."""
        return self.now

    def product(self, routine, state, z, step, cotangent, *, to_state=True, **how):
        """Stand for the reference, alone and with a pull of its own."""
        self.now += 1.0 if how else 2.0 * len(split(cotangent))
        self.passes += [step] if how else []
        return step_vjp(routine, state, z, step, cotangent, to_state=to_state, **how)


@pytest.fixture
def ticks(monkeypatch):
    clock = Ticks()
    monkeypatch.setattr(measured, "time", clock)
    monkeypatch.setattr(measured, "step_vjp", clock.product)
    return clock


def pull_several(number, fits):
    """Return what auto makes of the adjoints of some examples, and the run that it was for."""
    routine = small_routine()
    state, z = routine.initial_state(), routine.point()
    inputs, labels = routine.examples
    adjoints = [
        seed_adjoint(
            routine, state, lambda model, i=i: losses(model, (inputs[i : i + 1], labels[[i]])).sum()
        )[1]
        for i in range(number)
    ]
    found = MeasuredVjp(1, fits)(routine, state, z, 1, join(adjoints))
    each = [step_vjp(routine, state, z, 1, adjoint) for adjoint in adjoints]
    return routine, found, each


def test_several_outputs_are_pulled_in_one_pass_where_that_is_fastest(ticks):
    """And are those of each by itself; the product of one output stays to be measured."""
    routine, (adjoint, shares), each = pull_several(3, lambda *_: True)

    assert routine.programs["fastest of 3"] is VjpMode.BATCHED
    assert "fastest" not in routine.programs
    for row, (alone, share) in enumerate(each):
        assert torch.allclose(adjoint["params"][row], alone["params"], rtol=1e-5, atol=1e-7)
        assert torch.allclose(shares["w"][row], share["w"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("fits", [None, lambda *_: False])
def test_several_outputs_that_would_not_fit_are_never_pulled_in_one_pass(ticks, fits):
    """They hold the graphs of all, and a process that the system ends says nothing."""
    routine, _, _ = pull_several(3, fits)

    assert routine.programs["fastest of 3"] is VjpMode.REVERSE_OVER_REVERSE
    assert not ticks.passes


def test_a_pass_that_differs_from_the_reference_is_never_chosen(ticks, monkeypatch):
    """However fast: it goes the reference's way by then, and its time says nothing."""
    monkeypatch.setattr(batched_outputs, "difference", lambda *_: "its 'w' is off by 1.0e-01.")

    routine, _, _ = pull_several(3, lambda *_: True)

    assert ticks.passes
    assert routine.programs["fastest of 3"] is VjpMode.REVERSE_OVER_REVERSE


@pytest.mark.parametrize(("cap", "fit"), [(None, True), (100, False)])
def test_what_fits_at_once_is_counted_in_graphs(cap, fit):
    """A cap that was given holds for them as for the graphs that a schedule keeps."""
    routine = small_routine()
    replay = ReplaySettings(max_device_bytes=cap)

    assert fits_at_once(replay, routine, routine.initial_state(), routine.point(), 1, 3) is fit
