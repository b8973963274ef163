"""Stages in other processes: what they write of themselves, and what the flow makes of it."""

import json
import math
import threading
import time

import pytest

from engine.progress.board import Board, Course
from engine.progress.meter import Meter, heard_by, listening
from engine.progress.time_left import Work
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.storage.location import join, list_files
from engine.storage.names import is_run_file, label
from engine.storage.places import PROGRESS, stage_record_url
from engine.storage.records import write_record
from tasks.running import elsewhere
from tests.helpers.runs.tiny_recipe import small

KEY = "0123456789abcdef" * 2

REF = Ref(stage="train", key=KEY, content="0123456789abcdef")


def message(name, **changes):
    """What a worker tells in the middle of a stage of twelve steps, three seconds in."""
    steps = {"step": 5, "num_steps": 12, "forward": 6, "reverse": 0, "is_reversed": False}
    return {"stage": "train", "name": name, "seconds": 3.0, "words": [], **steps, **changes}


def a_board(*, clock=time.monotonic, works=2, elsewhere_in, hear=None):
    """A run of some trainings, and what hears of them."""
    board = Board(Course("a run", [Work("train", 12.0, forward=12)] * works), Meter(), clock)
    run = Run(small("workers.runner=dask"), str(elsewhere_in))
    return board, elsewhere.Elsewhere(run, board, hear)


def on_a_worker(run, begun, go_on):
    """Carry out half of a stage, then wait; a thread has no context of ours, like a process."""

    def work():
        with elsewhere.reporting_stage(run, "train", KEY, "train[0] 0-12"):
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
    until(
        seen_there.look,
        lambda: board.snapshot().running and board.snapshot().running[0].share == 0.5,
    )
    (stage,) = board.snapshot().running
    # The worker may be writing it anew, under another name until it is whole.
    (name,) = (each for each in list_files(run.file(PROGRESS)) if not each.endswith(".partial"))
    seen_there.end("train[0] 0-12", "train", REF, cached=False)
    seen_there.look()  # its file is still there
    go_on.set()
    worker.join()

    assert stage.name == "training steps 0 to 12"
    assert (stage.step, stage.num_steps) == (5, 12)
    assert is_run_file(f"{PROGRESS}/{name}")  # so it is cleaned with the run
    assert list_files(run.file(PROGRESS)) == []
    assert board.snapshot().running == ()


def test_stage_too_short_to_be_heard_of_was_not_there_already(tmp_path):
    """Nothing is known of its time, but it was computed all the same."""
    board = Board(Course("a run", [Work("evaluate", 1.0), Work("evaluate", 1.0)]), Meter())
    seen_there = elsewhere.Elsewhere(Run(small("workers.runner=dask"), str(tmp_path)), board)

    seen_there.end("evaluate[0]", "evaluate", REF, cached=False)
    seen_there.end("evaluate[1]", "evaluate", REF, cached=True)

    seen = board.snapshot()
    assert (seen.done, seen.cached) == (2, 1)


def test_stage_whose_worker_is_lost_begins_once_more(tmp_path):
    """It would take the place of the next one of its kind otherwise."""
    works = [Work("train", 12.0, forward=12), Work("train", 12.0, forward=12)]
    board = Board(Course("a run", works), Meter())
    run = Run(small("workers.runner=dask"), str(tmp_path))
    seen_there = elsewhere.Elsewhere(run, board)
    url = join(run.file(PROGRESS), f"{label('train', KEY)}.json")
    write_record(url, message("train[0] 0-12"))

    seen_there.look()
    before = board.snapshot()
    seen_there.drop("train[0] 0-12")
    without = board.snapshot()
    seen_there.look()
    after = board.snapshot()

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
    assert board.snapshot().running == ()


def test_stage_in_the_process_of_the_flow_writes_nothing(tmp_path):
    """It is heard directly; a file every two seconds would be for nobody."""
    here, there = Run(small(), str(tmp_path)), Run(small("workers.runner=dask"), str(tmp_path))
    meter = Meter()

    with elsewhere.reporting_stage(here, "train", KEY, "train"):
        assert listening() is None
    with heard_by(meter), elsewhere.reporting_stage(there, "train", KEY, "train"):
        assert listening() is meter

    assert list_files(here.file(PROGRESS)) == []


class Heard:
    """Events that are handed on at once, as Dask does."""

    def __init__(self):
        self.topics = {}

    def hear(self, topic, heard):
        """Take who wants to hear of a topic."""
        self.topics[topic] = heard

    def log_event(self, topic, message):
        """Hand an event on, as JSON would."""
        self.topics[topic](json.loads(json.dumps(message)))


def test_steps_of_a_worker_of_dask_are_heard_as_events(tmp_path, monkeypatch):
    """Files every two seconds missed the stages that are shorter: a run seemed to do nothing."""
    distributed = pytest.importorskip("distributed")
    heard = Heard()
    monkeypatch.setattr(distributed, "get_worker", lambda: heard)
    monkeypatch.setattr(elsewhere, "EVENT_SECONDS", 0.01)
    board, there = a_board(elsewhere_in=tmp_path, hear=heard.hear)
    run = Run(small("workers.runner=dask"), str(tmp_path))
    begun, go_on = threading.Event(), threading.Event()
    there.begin("train[0] 0-12")
    before = board.snapshot()
    worker = on_a_worker(run, begun, go_on)

    begun.wait(30)
    until(
        lambda: None, lambda: board.snapshot().running and board.snapshot().running[0].share == 0.5
    )
    (stage,) = board.snapshot().running
    go_on.set()
    worker.join()
    after = board.snapshot()
    there.end("train[0] 0-12", "train", REF, cached=False)

    assert before.sentence() == "Training steps 0 to 12, handed to the workers."
    assert (stage.name, stage.step) == ("training steps 0 to 12", 5)
    assert after.done == board.snapshot().done == 1  # counted once, when the worker said so
    assert list_files(run.file(PROGRESS)) == []


def test_time_of_a_stage_is_what_its_worker_took(tmp_path):
    """It was the time between two looks, or nothing: a run of minutes had seconds left."""
    now = [0.0]
    board, there = a_board(elsewhere_in=tmp_path, clock=lambda: now[0], works=3)
    there.receive(message("train[0] 0-12", seconds=0.0))
    there.receive(message("train[0] 0-12", is_over=True, is_done=False))  # it is tried again
    without = board.snapshot().running
    there.receive(message("train[0] 0-12", seconds=0.0))

    now[0] = 100.0
    there.receive(message("train[0] 0-12", is_over=True, is_done=True))

    assert without == ()
    assert board.snapshot().left == pytest.approx(200, rel=0.1)


def test_a_stage_that_is_heard_of_late_began_earlier(tmp_path):
    """Its worker says since when it is at work."""
    board, there = a_board(elsewhere_in=tmp_path, clock=lambda: 100.0)

    there.receive(message("train[0] 0-12", seconds=3.0))

    assert [each.seconds for each in board.snapshot().running] == [3.0]


def test_time_of_a_stage_that_nobody_heard_of_is_read_in_its_record(tmp_path):
    """Without it nothing was known of stages that are shorter than the pause of two looks."""
    board, there = a_board(elsewhere_in=tmp_path, works=3)
    write_record(stage_record_url(str(tmp_path), REF.stage, REF.key), {"seconds": 100.0})

    there.end("train[0] 0-12", "train", REF, cached=False)

    assert board.snapshot().left == pytest.approx(200, rel=0.1)


def test_what_a_stage_does_inside_is_told(tmp_path):
    """A preflight of minutes was one word."""
    board, there = a_board(elsewhere_in=tmp_path)

    there.receive(message("preflight", words=["replay", "step 3"]))

    assert board.snapshot().work == "preflight: replay: step 3"


WRONG = {
    "nothing": {},
    "a part": {"name": "train"},
    "no words": message("train[0] 0-12", words=3),
    "no message": 5,
    "not a number": message("train[0] 0-12", seconds=math.nan),
    "for ever": message("train[0] 0-12", seconds=math.inf),
    "longer than the world": message("train[0] 0-12", seconds=1e300),
    "a step that no float holds": message("train[0] 0-12", forward=10**400, step=10**5000),
    "steps before the first": message("train[0] 0-12", forward=-7, num_steps=-3),
    "a command to the terminal": message("\x1b]52;c;AAAA\x07train"),
    "a line of its own": message("train\n[12:00:00] 100 %: finished"),
    "a name that fills the memory": message("n" * 100_000),
    "a kind that is none": message("train[0] 0-12", stage=["train"]),
    "words that fill the memory": message("train[0] 0-12", words=["a"] * 100_000),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_message_that_is_none_is_left_out(wrong, tmp_path):
    """Whoever reaches the scheduler may send one, and a file in the store is anybody's."""
    board, there = a_board(elsewhere_in=tmp_path)

    there.receive(wrong)
    without = board.snapshot()
    there.receive(message("train[1] 0-12"))
    seen = board.snapshot()

    assert without.running == ()
    assert [(each.share, each.step) for each in seen.running] == [(0.5, 5)]
    assert seen.share == pytest.approx(0.25)
    assert seen.total == 2


def test_what_a_stage_does_inside_is_shown_as_it_prints(tmp_path):
    """It may name what the user's data are called."""
    board, there = a_board(elsewhere_in=tmp_path)

    there.receive(message("preflight", words=["\x1b[31mreplay\n", "w" * 100_000]))

    assert board.snapshot().work == f"preflight: [31mreplay: {'w' * 200}"


@pytest.mark.parametrize("end", [{}, {"is_over": True, "is_done": True}], ids=["begun", "done"])
def test_stages_that_are_made_up_do_not_fill_the_memory(end, tmp_path, monkeypatch):
    """Each would be one more on the board, for as long as the run takes."""
    monkeypatch.setattr(elsewhere, "MOST_STAGES", 20)
    board, there = a_board(elsewhere_in=tmp_path)

    for number in range(50):
        there.receive(message(f"made up {number}", **end))
    there.end("train[0] 0-12", "train", REF, cached=False)

    assert board.snapshot().done + len(board.snapshot().running) == 21
