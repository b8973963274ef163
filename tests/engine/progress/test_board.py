"""Where a run stands, in numbers and in sentences, on a clock of our own."""

import threading

import pytest

from engine.progress.board import Board, Course
from engine.progress.meter import Meter
from engine.progress.names import about, clock, in_words
from engine.progress.time_left import Work
from engine.recipes.descent import OuterSettings
from tests.helpers.runs.watched_run import WORKS, Clock, scores


@pytest.fixture
def clocked():
    """A board of one outer step, with its clock and its meter."""
    time, meter = Clock(), Meter()
    return Board(Course("a run", WORKS, in_seconds=True), meter, time), time, meter


def test_stage_at_work_is_named_and_its_part_counts(clocked):
    """The meter says how far it is."""
    board, time, meter = clocked
    board.begin("train[0] 0-60", "train")
    for step in range(30):
        meter.ran(step, 60)
    time.now = 5.0

    seen = board.snapshot()

    (stage,) = seen.running
    assert stage.name == seen.work == "training steps 0 to 60 of outer step 0"
    assert stage.share == pytest.approx(0.5)
    assert (stage.step, stage.num_steps, stage.is_reversed) == (29, 60, False)
    assert seen.left == pytest.approx(50.0)
    assert seen.share == pytest.approx(5 / 55)
    assert (seen.done, seen.total, seen.cached) == (0, 6, 0)
    assert seen.sentence() == "Training steps 0 to 60 of outer step 0, about 50 s left."


def test_scores_are_told_when_they_are_there_with_the_best_so_far(clocked):
    """The sweep of a large run takes an hour, in which one would like to know."""
    board, time, _ = clocked
    time.now = 61.0
    assert board.scored(0, scores(0.5, accuracy=0.912)) == 0
    first = board.snapshot()
    board.scored(1, scores(0.6))
    worse = board.snapshot()

    assert first.outer_sentence(0) == (
        "outer step 0 of 1: validation loss 0.5000, accuracy 91.2 %, objective 1.0000; "
        "1 min 1 s gone, about 55 s left"
    )
    assert worse.best == 0
    assert "(best: outer step 0)" in worse.outer_sentence(1)
    assert "best validation loss 0.5000" in worse.sentence()


def test_metrics_of_ones_own_are_told_beside_the_loss(clocked):
    """Only accuracy was; of many those that a line has room for, a measure of 0 among them."""
    board, _, _ = clocked
    board.scored(0, scores(0.5, IoU=0.0, precision=0.25, recall=0.75))

    assert (
        "loss 0.5000, IoU 0.0000, precision 0.2500, objective" in board.snapshot().outer_sentence(0)
    )


def test_of_outer_steps_told_at_once_each_says_what_was_best_until_then(clocked):
    """A run that went on said "best: outer step 3" of the first of the steps that were there."""
    board, _, _ = clocked
    for number, loss in enumerate((0.9, 0.8, 0.85, 0.7)):
        board.scored(number, scores(loss))

    seen = board.snapshot()

    told = [seen.outer_sentence(place).partition(";")[0] for place in range(4)]
    assert [each.partition("(")[2] for each in told] == [
        *("", "best so far)", "best: outer step 1)", "best so far)"),
    ]
    assert seen.best == 3


@pytest.mark.parametrize(
    ("room", "told"),
    [
        (None, ", accuracy 90.0 %, recall 0.5000, objective 1.2000 (best: outer step 10)"),
        (100, ", accuracy 90.0 %, objective 1.2000 (best: outer step 10)"),
        (90, ", accuracy 90.0 %, objective 1.2000 (best: 10)"),
        (80, ", accuracy 90.0 % (best: 10)"),
        (40, " (best: 10)"),
    ],
)
def test_a_line_says_what_it_has_room_for(room, told):
    """In a terminal of 80 columns "(best so far)" stood on a second line of its own."""
    board = Board(Course("a run", [Work("update", 1.0)] * 12), Meter(), Clock())
    for number in range(13):
        loss = 0.5 if number == 10 else 0.6
        board.scored(number, scores(loss, accuracy=0.9, recall=0.5))

    words = board.snapshot().outer_sentence(12, timed=False, room=room)

    assert words == f"outer step 12 of 12: validation loss 0.6000{told}"


def test_sweep_after_the_scores_belongs_to_the_same_outer_step(clocked):
    """The number of scored models is not the number of the outer step at work."""
    board, _, _ = clocked
    board.scored(0, scores(0.5))
    board.begin("reverse[0] 0-60", "reverse")

    sentence = board.snapshot().sentence()

    assert sentence.startswith("Reversing steps 0 to 60 of outer step 0, ")


def test_uphill_the_best_is_the_highest():
    """A poison makes the loss larger."""
    board = Board(Course("uphill", outer=OuterSettings(maximize=True)), Meter(), Clock())
    for number, loss in enumerate((0.5, 0.9, 0.7)):
        board.scored(number, scores(loss))

    assert board.snapshot().best == 1


def test_best_is_what_the_run_will_choose_by():
    """A terminal that said "best" of the lowest loss would name another step than the report."""
    outer = OuterSettings(choose_by="recall", choose="highest")
    board = Board(Course("by recall", outer=outer), Meter(), Clock())
    for number, (loss, recall) in enumerate([(0.5, 0.1), (0.9, 0.3), (0.7, 0.2)]):
        board.scored(number, scores(loss, recall=recall))

    seen = board.snapshot()

    assert seen.best == 1
    assert "best validation recall 0.3000" in seen.sentence()


def test_bar_never_goes_back_and_is_full_at_the_end_alone(clocked):
    """What is left may turn out to be more, and a run may do more than was expected."""
    board, time, _ = clocked
    shares = []
    for number, (kind, seconds) in enumerate(
        [("train", 40.0), ("evaluate", 1.0), ("reverse", 5.0), ("update", 1.0), ("train", 80.0)]
        + [("unheard-of", 3.0)] * 4
    ):
        board.begin(str(number), kind)
        time.now += seconds
        board.end(str(number))
        shares.append(board.snapshot().share)
    before = board.snapshot()
    board.finish()
    time.now += 100
    after = board.snapshot()

    assert shares == sorted(shares)
    assert before.share < 1.0
    assert after.share == 1.0
    assert after.left is None  # nothing is said of time that is left
    assert after.elapsed == before.elapsed == 139.0
    assert after.sentence() == "Finished: 9 stages in 2 min 19 s."


def test_what_was_there_is_said(clocked):
    """A run that goes on, and one that had finished."""
    board, time, _ = clocked
    for number, work in enumerate(WORKS[:-1]):
        board.begin(str(number), work.kind)
        time.now += 0.1
        board.end(str(number), cached=True)
    seen = board.snapshot()
    board.finish()

    assert seen.cached == seen.done == 6
    assert seen.share > 0.9
    assert "6 of them already there" in board.snapshot().sentence()


def test_stages_of_other_processes_have_meters_of_their_own(clocked):
    """Two workers are at two stages."""
    board, time, _ = clocked
    far, near = Meter(), Meter()
    board.begin("train[0] 0-60", "train", meter=far)
    board.begin("train[1] 0-60", "train", meter=near)
    far.forward, near.forward = 30, 6
    time.now = 5.0

    seen = board.snapshot()

    assert [stage.share for stage in seen.running] == [pytest.approx(0.5), pytest.approx(0.1)]
    assert seen.work == "training steps 0 to 60 of outer step 0 and 1 more"


def test_any_thread_may_look():
    """A display, the UI and a reader of the store do."""
    board = Board(Course("a run", WORKS * 50, in_seconds=True), Meter())
    over, failed = threading.Event(), []

    def look():
        while not over.is_set():
            try:
                board.snapshot()
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(300):
        board.begin(str(number), WORKS[number % 6].kind)
        board.end(str(number))
    over.set()
    for thread in threads:
        thread.join()

    assert failed == []
    assert board.snapshot().done == 300


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train[3] 0-60", "training steps 0 to 60 of outer step 3"),
        ("train 0-60", "training steps 0 to 60"),
        ("train[low-loss] 60-200", "training steps 60 to 200 of low-loss"),
        ("reverse[0] 60-120", "reversing steps 60 to 120 of outer step 0"),
        ("seed[2]", "differentiating the output of outer step 2"),
        ("evaluate", "scoring the model"),
        ("train without 5 % [0-16)", "training without 5 %, subsets 0 to 16"),
        ("move[1]", "optimizing the canaries of outer step 1"),
        ("train[2] +0.1 v 0-100", "training steps 0 to 100, moved by +0.1 along direction 2"),
        ("perturb[0] -0.05 v", "moving the metaparameters by -0.05 along direction 0"),
        ("compare[1]", "comparing trainings along direction 1"),
        ("output +0.3 v", "the output, moved by +0.3 along direction 0"),
        ("audit mislabelled", "auditing the mislabelled canaries"),
        ("preflight", "preflight"),
    ],
)
def test_names_of_stages_are_words(name, words):
    """`seed[0]` stood in the terminal for half a minute."""
    assert in_words(name) == words


def test_stage_of_a_run_without_outer_steps_is_of_none():
    """An attribution trains once, and its bar spoke of outer step 0."""
    assert in_words("train[0] 0-60", has_outer_steps=False) == "training steps 0 to 60"
    assert in_words("train[final]", has_outer_steps=False) == "training of final"


def test_times_are_as_exact_as_they_are_known():
    """An estimate in seconds of an hour would be a lie."""
    assert [about(seconds) for seconds in (3.0, 42.0, 100.0, 3500.0, 5000.0, 80000.0)] == [
        *("a few seconds", "about 40 s", "about 2 min", "about 58 min"),
        *("about 1 h 23 min", "about 22 h"),
    ]
    assert [clock(seconds) for seconds in (5.9, 65.0, 3665.0)] == ["0:05", "1:05", "1:01:05"]
