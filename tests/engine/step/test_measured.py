"""The product that is chosen by a clock: when compiling is tried, and what is noted of it.

No test waits for the clock: a product is used once, or so often that any gain pays.
"""

import pytest

from engine.recipes.replay import VjpMode
from engine.replay.seeding import seed_adjoint
from engine.step import measured
from engine.step.compile_notes import CompileNote, keep_note, read_note
from engine.step.measured import MeasuredVjp, expected_gain, expected_wait
from engine.step.reference import step_vjp
from tests.small_routine import losses, small_routine

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
