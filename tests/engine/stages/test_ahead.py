"""A stage that is made before it is asked for is the same stage, made once."""

import threading
from dataclasses import replace

import pytest

from engine.errors import StoreRefusedError
from engine.progress.meter import Meter, heard_by, listening
from engine.stages import ahead, commits
from engine.stages import training as stages
from engine.stages.ahead import made_ahead
from engine.stages.run import Run
from engine.stages.stage import Stage
from tests.helpers.runs.tiny_stages import recipe


@pytest.fixture
def store(tmp_path):
    return str(tmp_path / "store")


def of(compute):
    """The stage that commits z_0, computed by a function of a test."""
    first = stages.initial_value
    return Stage(first.declared, compute, first.cost_only, first.num_rows)


def counted(calls):
    def compute(run):
        calls.append(threading.current_thread().name)
        return stages.initial_value.compute(run)

    return of(compute)


def test_what_was_made_ahead_is_committed_and_not_made_again(store):
    """Its record says the same as that of a stage which was made when it was asked for."""
    calls: list[str] = []
    run, stage = Run(recipe(), store), counted(calls)

    with made_ahead(stage, run):
        ref = stage(run)

    assert calls == [f"{stage.name} ahead"]
    assert ref == stages.initial_value(Run(recipe(), f"{store}-other"))
    assert commits.find(stage.name, ref.key, store) == ref
    assert not ahead.is_any()


def test_store_that_may_not_be_read_is_named(store, monkeypatch):
    """It is the first thing that a start asks of the folder of stages."""

    def refuse(*asked):
        raise PermissionError(13, "Permission denied", "record.json")

    monkeypatch.setattr(Stage, "committed", refuse)

    with pytest.raises(StoreRefusedError, match=f"The store {store} refuses to be read"):
        made_ahead(counted([]), Run(recipe(), store)).__enter__()
    assert not ahead.is_any()


def test_a_committed_stage_is_not_made_ahead(store):
    """A run that is started again would train its twins for nothing."""
    calls: list[str] = []
    run, stage = Run(recipe(), store), counted(calls)
    stages.initial_value(run)

    with made_ahead(stage, run):
        stage(run)

    assert not calls


def test_another_run_finds_nothing(store):
    """Whatever shapes the result is in the key, and a key that changed is made by itself."""
    calls: list[str] = []
    run, stage = Run(recipe(), store), counted(calls)
    other = replace(run, recipe=recipe(("training", "seed", 3)))

    with made_ahead(stage, run):
        stage(other)

    assert sorted(calls) == sorted([f"{stage.name} ahead", threading.current_thread().name])


def test_what_fails_ahead_is_made_when_it_is_asked_for(store):
    """Its error belongs to the stage, and is told where that is at work."""
    here = threading.current_thread()

    def compute(run):
        if threading.current_thread() is not here:
            raise ValueError("ahead")
        return stages.initial_value.compute(run)

    run, stage = Run(recipe(), store), of(compute)
    with made_ahead(stage, run):
        assert stage(run) == stages.initial_value(run)


def test_nobody_waits_for_what_is_not_asked_for(store):
    """A start that is refused ends at once, and not after a preflight."""
    begun = threading.Event()

    def compute(run):
        meter = listening()
        assert meter is not None
        for step in iter(int, 1):
            begun.set()
            meter.ran(step, 1)

    with made_ahead(of(compute), Run(recipe(), store)):
        assert begun.wait(60)

    assert not [each for each in threading.enumerate() if each.name.endswith(" ahead")]


def test_whoever_waits_shows_how_far_it_is(store, monkeypatch):
    """Somebody looks at a run while its first stage is waited for."""
    monkeypatch.setattr(ahead, "_LOOK_SECONDS", 0.01)
    shown, seen = Meter(), threading.Event()

    def compute(run):
        meter = listening()
        assert meter is not None
        meter.words = ["check of something"]
        while not seen.wait(0.01):
            if shown.words == ["preflight", "check of something"]:
                seen.set()
        return stages.initial_value.compute(run)

    run, stage = Run(recipe(), store), of(compute)
    shown.words = ["preflight"]
    with made_ahead(stage, run), heard_by(shown):
        stage(run)

    assert shown.words == ["preflight"]
