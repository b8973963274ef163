"""What is shown of a run: lines with times, a picture, and what a function is handed."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

import engine
from engine.progress import displays
from engine.progress.board import Board, Course
from engine.progress.displays import PlainLines, showing
from engine.progress.drawing import html
from engine.progress.meter import Meter, heard_by
from engine.progress.view import Picture, draw
from tests.helpers.runs.watched_run import WORKS, Clock, scores
from tests.helpers.trainings import routines


@pytest.fixture
def plain():
    """Lines on a clock of our own, with the board and the meter that they look at."""
    time, meter, printed = Clock(), Meter(), []
    lines = PlainLines(meter, printed.append, time, lambda: f"{time.now:.0f}")
    return lines, time, meter, printed


def test_lines_say_what_is_at_work_then_scores_and_now_and_then_the_rest(plain):
    """A log file that is silent for an hour, or has a line a step, helps nobody."""
    lines, time, meter, printed = plain
    meter.words = ["reading the data"]
    for _ in range(9):
        lines.look()
        time.now += 0.5
    meter.words = []
    board = Board(Course("a run", WORKS, in_seconds=True), meter, time)
    board.begin("train[0] 0-60", "train")
    for _ in range(200):
        time.now += 0.5
        lines.look()
    board.end("train[0] 0-60")
    board.scored(0, scores(0.5))
    lines.look()
    lines.look()
    board.finish()
    lines.look()

    assert printed[0] == "[0] Reading the data"
    assert printed[1].startswith("[5] 0 %: Training steps 0 to 60 of outer step 0, about")
    assert printed[-1].startswith("[104] Outer step 0 of 1: validation loss 0.5000")
    # A line in 5 s, as long as a twentieth of the time gone is less.
    assert [float(line[1 : line.index("]")]) for line in printed] == [*range(0, 105, 5), 104]


def test_the_log_of_a_long_run_has_a_line_a_minute(plain):
    """A line in 5 s is 17,000 a day; the longest silence grows with the time gone."""
    lines, time, meter, printed = plain
    Board(Course("a run", WORKS, in_seconds=True), meter, time)
    for _ in range(2 * 3600):
        time.now += 0.5
        lines.look()

    at = [float(line[1 : line.index("]")]) for line in printed]
    silences = [later - one for one, later in zip([0.0, *at], at, strict=False)]
    assert silences[0] == 5
    assert max(silences) == 60
    assert silences == sorted(silences)
    assert len(at) < 130


def test_long_preparation_is_not_silent(plain):
    """Reading a large data set takes minutes."""
    lines, time, meter, printed = plain
    meter.words = ["reading the data"]
    for _ in range(30):
        lines.look()
        time.now += 0.5

    assert printed == [f"[{at}] Reading the data" for at in (0, 5, 10)]


def test_lines_of_several_runs_say_whose_they_are(plain):
    """Three seeds, or the routines of a search, looked as if they were one run."""
    lines, time, meter, printed = plain
    first = Board(Course("flowers-1a: training.seed=0", WORKS), meter, time)
    first.scored(0, scores(0.5))
    lines.look()
    first.finish()
    second = Board(Course("flowers-2b: training.seed=1", WORKS), meter, time)
    second.scored(0, scores(0.4))
    lines.look()
    time.now += 12
    lines.look()

    assert [line.partition("] ")[2].partition(":")[0] for line in printed] == [
        "Outer step 0 of 1",
        *["flowers-2b"] * 2,
    ]


def test_a_line_beside_a_picture_leaves_the_time_to_it():
    """It made each of them too long for a terminal of 120 columns."""
    time, meter, printed = Clock(), Meter(), []
    board = Board(Course("a run", WORKS, in_seconds=True), meter, time)
    time.now += 5
    board.scored(0, scores(0.5))
    displays.Scores(meter, printed.append, lambda: 120).look()

    (line,) = printed
    assert line.startswith("Outer step 0 of 1: validation loss 0.5000")
    assert "gone" not in line
    assert "left" not in line


def picture(board, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(draw([board.snapshot()]))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_picture_says_where_the_run_stands(width):
    """Bars for run and stage, outer steps, best so far, time gone and left, memory."""
    time, meter = Clock(), Meter()
    board = Board(Course("digits-12ab34cd: outer.num_steps=1", WORKS, in_seconds=True), meter, time)
    board.begin("train[0] 0-60", "train")
    time.now = 10.0
    board.end("train[0] 0-60", cached=True)
    board.scored(0, scores(0.5, accuracy=0.9))
    board.begin("reverse[0] 0-60", "reverse")
    for step in range(100):
        meter.ran(step, 60)
    for step in range(15):
        meter.pulled(59 - step, 60)
    time.now = 20.0

    text = picture(board, width)

    for words in (
        *("digits-12ab34cd", "0:20 gone, about", "left"),
        *("Reversing steps 0 to 60 of outer step 0", "step 45 of 60, reversed"),
        *(
            "Validation loss 0.5000, accuracy 90.0 %; best 0.5000",
            "1 of 6 stages, 1 of them already",
        ),
    ):
        assert words in text
    assert "MB" in text or "GB" in text
    assert all(len(line) <= width for line in text.splitlines())


def test_picture_before_the_first_stage_names_what_is_at_work():
    """From the first second."""
    meter = Meter()
    meter.words = ["reading the data"]
    console = Console(file=io.StringIO(), width=80)

    console.print(Picture(meter, lambda: 3.0, str))

    assert "Reading the data  0:03" in console.file.getvalue()


def test_notebook_gets_html_without_markup_of_ours():
    """A title may have brackets, and what Rich thinks of them must not be seen."""
    meter = Meter()
    Board(Course("data[old]/[/b]", WORKS, in_seconds=True), meter)

    text = html(meter, 1.0)._repr_html_()

    assert text.startswith("<pre")
    assert "data[old]/[/b]" in text


CELL = """
import time
from engine.progress.board import Board, Course
from engine.progress.displays import showing
from tests.helpers.runs.watched_run import WORKS

with showing(True) as meter:
    board = Board(Course("a run", WORKS, in_seconds=True), meter)
    time.sleep(1.2)
    board.finish()
"""


@pytest.mark.slow
def test_a_cell_of_a_notebook_has_one_picture(tmp_path, monkeypatch):
    """In a kernel of Jupyter, each look at the meter added one below: 133 in a run of a minute."""
    nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat")
    nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient")
    pytest.importorskip("ipykernel", reason="notebooks need ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])

    place = {"metadata": {"path": str(tmp_path)}}  # where nothing is called like the engine
    nbclient.NotebookClient(made, timeout=120, kernel_name="python3", resources=place).execute()

    (shown,) = made.cells[0].outputs
    assert "100 %" in shown.data["text/html"]
    assert "Finished" in shown.data["text/plain"]  # for those who are shown no HTML


def test_picture_of_a_finished_run_stays():
    """In a notebook it is the last thing that is drawn."""
    meter = Meter()
    board = Board(Course("a run", WORKS, in_seconds=True), meter)
    board.scored(0, scores(0.5))
    board.finish()

    text = html(meter, 1.0)._repr_html_()

    assert "100 %" in text
    assert "Finished" in text


@pytest.mark.parametrize("call", ["metagradient", "metagradients"])
def test_function_is_handed_what_is_seen_of_a_metagradient(call, monkeypatch):
    """A notebook's 396 s were silent."""
    monkeypatch.setattr(displays, "_LOOK_SECONDS", 0.001)
    seen, routine = [], routines.routine()
    output = routines.output if call == "metagradient" else [routines.output]

    found = getattr(engine, call)(routine, output, progress=seen.append)
    silent = getattr(engine, call)(routine, output)

    one, other = (each if call == "metagradient" else each[0] for each in (found, silent))
    assert torch.equal(one["weights"], other["weights"])
    assert seen[-1].is_finished
    assert seen[-1].share == 1.0
    assert seen[-1].title == call


WAITED_FOR = {
    "train": lambda routine, **more: engine.train(routine, **more),
    "check": lambda routine, **more: engine.check(
        routine, routines.output, num_directions=1, **more
    ),
    "whole-run gradient": lambda routine, **more: engine.whole_run_gradient(
        routine, routines.output, **more
    ),
    "central difference": lambda routine, **more: engine.central_difference(
        routine, routines.output, {"weights": torch.ones(routines.NUM_EXAMPLES).double()}, **more
    ),
}


class Told(Meter):
    """Keeps what was at work at every step: no clock decides whether somebody looked then."""

    def __init__(self):
        super().__init__()
        self.works = set()

    def ran(self, *given):
        """Note a step, and what it belongs to."""
        super().ran(*given)
        self.works.add(self.work)


@pytest.mark.parametrize("title", WAITED_FOR)
def test_function_is_handed_what_is_seen_of_everything_that_is_waited_for(title, monkeypatch):
    """A check of minutes showed nothing, and refused the option that other calls have."""
    monkeypatch.setattr(displays, "_LOOK_SECONDS", 0.001)
    seen, routine = [], routines.routine()

    found = WAITED_FOR[title](routine, progress=seen.append)
    with heard_by(meter := Told()):
        silent = WAITED_FOR[title](routine)

    assert {each.title for each in seen} == {title}
    assert seen[-1].is_finished
    assert seen[-1].share == 1.0
    if title == "check":
        assert any("check of " in work for work in meter.works)
    else:
        trainings = 2 if title == "central difference" else 1
        assert meter.forward == trainings * routines.NUM_STEPS
    if title == "central difference":
        assert found == silent


def test_descent_shows_its_outer_steps(capsys):
    """Without a terminal they are lines on standard error."""
    routine = routines.routine()

    found = engine.descend(
        routine,
        routines.output,
        outer={"num_steps": 2, "update": "sign", "step_size": 0.1},
        check=False,
        progress=True,
    )
    silent = engine.descend(
        routine,
        routines.output,
        outer={"num_steps": 2, "update": "sign", "step_size": 0.1},
        check=False,
    )

    printed = capsys.readouterr()
    assert torch.equal(found.value, silent.value)
    assert "Outer step 2 of 2: objective loss" in printed.err
    assert printed.out == ""


def test_nothing_is_shown_unless_it_is_asked_for(capsys):
    """A library is silent."""
    with showing(False):
        pass

    assert capsys.readouterr().err == ""
