"""Stages in other processes: what they write of themselves, and what the flow makes of it."""

import threading
import time

from engine.progress.board import Board, Course
from engine.progress.meter import Meter, heard_by, listening
from engine.progress.time_left import Work
from engine.stages.run import Run
from engine.storage.location import join, list_files
from engine.storage.names import is_run_file, label
from engine.storage.places import PROGRESS
from engine.storage.records import write_record
from tasks.running import elsewhere
from tests.helpers.runs.tiny_recipe import small

KEY = "0123456789abcdef" * 2


def on_a_worker(run, begun, go_on):
    """Carry out half of a stage, then wait; a thread has no context of ours, like a process."""

    def work():
        with elsewhere.told(run, "train", KEY, "train[0] 0-12"):
            meter = listening()
            for step in range(6):
                meter.ran(step, 12)
            begun.set()
            go_on.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def until(look, condition):
    limit = time.monotonic() + 30
    while not condition() and time.monotonic() < limit:
        look()
        time.sleep(0.01)
    assert condition()


def test_flow_sees_how_far_a_worker_is(tmp_path, monkeypatch):
    """A stage of hours on a cluster looked as if nothing happened."""
    monkeypatch.setattr(elsewhere, "WRITE_SECONDS", 0.01)
    run = Run(small("workers.runner=dask"), str(tmp_path))
    board = Board(Course("a run", [Work("train", 12.0, forward=12)]), Meter())
    seen_there = elsewhere.Elsewhere(run, board)
    begun, go_on = threading.Event(), threading.Event()
    worker = on_a_worker(run, begun, go_on)

    begun.wait(30)
    until(seen_there.look, lambda: board.seen().running and board.seen().running[0].share == 0.5)
    (stage,) = board.seen().running
    # The worker may be writing it anew, under another name until it is whole.
    (name,) = (each for each in list_files(run.file(PROGRESS)) if not each.endswith(".partial"))
    seen_there.end("train[0] 0-12", "train", cached=False)
    seen_there.look()  # its file is still there
    go_on.set()
    worker.join()

    assert stage.name == "training steps 0 to 12"
    assert (stage.step, stage.num_steps) == (5, 12)
    assert is_run_file(f"{PROGRESS}/{name}")  # so it is cleaned with the run
    assert list_files(run.file(PROGRESS)) == []
    assert board.seen().running == ()


def test_stage_too_short_to_be_heard_of_was_not_there_already(tmp_path):
    """Nothing is known of its time, but it was computed all the same."""
    board = Board(Course("a run", [Work("evaluate", 1.0), Work("evaluate", 1.0)]), Meter())
    seen_there = elsewhere.Elsewhere(Run(small("workers.runner=dask"), str(tmp_path)), board)

    seen_there.end("evaluate[0]", "evaluate", cached=False)
    seen_there.end("evaluate[1]", "evaluate", cached=True)

    seen = board.seen()
    assert (seen.done, seen.cached) == (2, 1)


def test_stage_whose_worker_is_lost_begins_once_more(tmp_path):
    """It would take the place of the next one of its kind otherwise."""
    works = [Work("train", 12.0, forward=12), Work("train", 12.0, forward=12)]
    board = Board(Course("a run", works), Meter())
    run = Run(small("workers.runner=dask"), str(tmp_path))
    seen_there = elsewhere.Elsewhere(run, board)
    url = join(run.file(PROGRESS), f"{label('train', KEY)}.json")
    steps = {"step": 5, "num_steps": 12, "forward": 6, "reverse": 0, "is_reversed": False}
    write_record(url, {"stage": "train", "name": "train[0] 0-12", **steps})

    seen_there.look()
    before = board.seen()
    seen_there.drop("train[0] 0-12")
    without = board.seen()
    seen_there.look()
    after = board.seen()

    assert without.running == ()
    assert [each.share for each in (*before.running, *after.running)] == [0.5, 0.5]
    assert after.total == 2


def test_what_a_killed_process_left_is_taken_away(tmp_path, monkeypatch):
    """Nobody else would, and the next start would show a stage that nobody works on."""
    monkeypatch.setattr(elsewhere, "WRITE_SECONDS", 0.01)
    run = Run(small("workers.runner=dask"), str(tmp_path))
    begun, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(elsewhere, "remove_file", lambda url: None)  # as if it was killed
    worker = on_a_worker(run, begun, go_on)
    begun.wait(30)
    go_on.set()
    worker.join()
    monkeypatch.undo()
    assert list_files(run.file(PROGRESS))

    board = Board(Course("a run"), Meter())
    elsewhere.Elsewhere(run, board).look()

    assert list_files(run.file(PROGRESS)) == []
    assert board.seen().running == ()


def test_stage_in_the_process_of_the_flow_writes_nothing(tmp_path):
    """It is heard directly; a file every two seconds would be for nobody."""
    here, there = Run(small(), str(tmp_path)), Run(small("workers.runner=dask"), str(tmp_path))
    meter = Meter()

    with elsewhere.told(here, "train", KEY, "train"):
        assert listening() is None
    with heard_by(meter), elsewhere.told(there, "train", KEY, "train"):
        assert listening() is meter

    assert list_files(here.file(PROGRESS)) == []
