"""A state of the run in the handed-in module, while other threads work with the same routine."""

import threading

import torch

from engine.numerics.determinism import deterministic
from engine.witness.compared_point import moved_state
from engine.witness.in_place import in_place
from tests.strangers.witnessed import routine


def test_another_thread_sees_the_start_of_the_run_and_not_the_witnesss():
    """Where nobody else holds the module, the witness works in the run's own."""
    run = routine()
    start = run.initial_state()
    assert run.given is run.model
    seen = {}

    def look():
        seen["params"] = run.initial_state()["params"]
        seen["model"] = run.model_at(start)

    other = threading.Thread(target=look)
    with deterministic(), in_place(run.given, run, moved_state(run, start)):
        assert not torch.equal(run.model[0].weight.flatten(), start["params"][:60])
        other.start()
        other.join(0.3)  # long enough to read what it should not, if nothing makes it wait
    other.join()

    assert torch.equal(seen["params"], start["params"])
