"""A stage that is at work when its process is asked to stop."""

import os
import signal
import threading
import time

import pytest
from prefect.exceptions import TerminationSignal
from prefect.utilities.engine import capture_sigterm

from tasks.running import stopping
from tasks.running.stopping import to_its_end


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """Collect what is said, and let the signal that Prefect hands on end in nothing."""
    lines = []
    monkeypatch.setattr(stopping, "say", lambda level, sentence: lines.append(sentence))
    handlers = {signal.SIGTERM: lambda *_: None, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield lines
    for number, handler in before.items():
        signal.signal(number, handler)


def stop():
    """Send what a spot machine gets."""
    os.kill(os.getpid(), signal.SIGTERM)


def test_result_and_error_are_those_of_the_stage():
    """Nothing is different while nobody asks to stop."""

    def fail():
        raise ValueError("wrong")

    assert to_its_end("stage", threading.get_ident) != threading.get_ident()
    with pytest.raises(ValueError, match="wrong"):
        to_its_end("stage", fail)


def test_stage_is_finished_before_the_signal_takes_effect(said):
    """What a stage of minutes has computed is committed, and not done again elsewhere."""
    finished = []

    def stage():
        stop()
        for _ in range(20):
            time.sleep(0.01)
        finished.append("stage")

    with pytest.raises(TerminationSignal), capture_sigterm():
        to_its_end("train[0] 0-5", stage)

    assert finished == ["stage"]
    assert said == [
        "Asked to stop at training steps 0 to 5 of outer step 0, which gets 20 s to finish.",
        "Training steps 0 to 5 of outer step 0 is finished; stopping.",
    ]


@pytest.mark.parametrize("why", ["second-signal", "grace"])
def test_stage_that_takes_too_long_is_stopped_within(why, monkeypatch):
    """A notice is short: what hangs must not keep the run from saying that it stops."""
    reached, left = [], threading.Event()
    if why == "grace":
        monkeypatch.setattr(stopping, "GRACE_SECONDS", 0.1)

    def stage():
        try:
            stop()
            time.sleep(0.1)
            if why == "second-signal":
                stop()
            for _ in range(3000):
                time.sleep(0.01)
            reached.append("end")
        finally:
            left.set()  # as a lease is given up

    with pytest.raises(TerminationSignal), capture_sigterm():
        to_its_end("stage", stage)

    assert left.is_set()
    assert reached == []


def test_interrupt_stops_a_stage_at_once():
    """Somebody sits before the terminal and waits."""
    reached = []

    def stage():
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(3000):
            time.sleep(0.01)
        reached.append("end")

    with pytest.raises(KeyboardInterrupt):
        to_its_end("stage", stage)

    assert reached == []
