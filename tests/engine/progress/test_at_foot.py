"""A picture at the foot of a terminal whose width changes, on a terminal that folds long lines."""

import itertools
import re
import threading
import time

import pytest
from rich.console import Console

from engine.progress.at_foot import AtFoot
from engine.progress.board import Board, Course
from engine.progress.drawing import live
from engine.progress.meter import Meter
from engine.progress.view import Picture
from tests.helpers.runs.watched_run import WORKS, scores

_PARTS = re.compile(r"\x1b\[([\d;?]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


class Folding:
    """What a terminal that folds shows: rows, and which of them go on in the next.

    Args:
        width: Columns of it.
    """

    def __init__(self, width):
        self.width, self.rows, self.row, self.column = width, [["", False]], 0, 0

    def isatty(self):
        """Say so."""
        return True

    def flush(self):
        """Nothing waits."""

    def write(self, text):
        """Obey what Rich sends: text, new lines, and to go up and erase."""
        for number, code, back, down, words in _PARTS.findall(text):
            if words:
                for letter in words:
                    self._put(letter)
            elif back:
                self.column = 0
            elif down:
                self._down()
            elif code == "A":
                self.row = max(self.row - int(number or 1), 0)
            elif code == "K":
                self.rows[self.row] = ["", False]

    def narrow(self, width):
        """Fold every line anew, with the cursor behind the last one."""
        lines, going_on = [], False
        for text, goes_on in self.rows:
            lines[-1:] = [lines[-1] + text] if going_on else [*lines[-1:], text]
            going_on = goes_on
        self.width, self.rows = width, []
        for line in lines:
            parts = [line[at : at + width] for at in range(0, len(line), width)] or [""]
            self.rows += [[part, True] for part in parts]
            self.rows[-1][1] = False
        self.row, self.column = len(self.rows) - 1, len(self.rows[-1][0])

    def shown(self):
        """Return the rows that are not empty."""
        return [text.rstrip() for text, _ in self.rows if text.strip()]

    def _put(self, letter):
        if self.column == self.width:
            self.rows[self.row][1] = True
            self._down()
        text = self.rows[self.row][0].ljust(self.column)
        self.rows[self.row][0] = text[: self.column] + letter + text[self.column + 1 :]
        self.column += 1

    def _down(self):
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.rows):
            self.rows.append(["", False])


@pytest.fixture
def board():
    """A run whose picture has lines of more than sixty columns."""
    board = Board(Course("digits-12ab34cd: " + "outer.num_steps=20, " * 4, WORKS), Meter())
    board.scored(0, scores(0.5, accuracy=0.9))
    board.begin("reverse[0] 0-60", "reverse")
    return board


@pytest.fixture
def console(monkeypatch):
    """A console on such a terminal of 120 columns, whatever this one is."""
    for name in ("COLUMNS", "XTERM_VERSION", "STY", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    terminal = Folding(120)
    return Console(file=terminal, force_terminal=True, width=120, height=50, color_system=None)


def seen_at(width, board, console):
    """Draw a picture, make the terminal as wide as that, and draw it again."""
    with live(board.meter, console) as drawn:
        console.print("above it")
        drawn.refresh()
        console.file.narrow(width)
        console.width = width
        drawn.refresh()  # it may get narrower yet
        drawn.refresh()
        console.print("and later")
        drawn.refresh()
        return console.file.shown()


def rows_at(width, board):
    """Return how many rows a picture has in a terminal that was never wider."""
    return len(Console(width=width).render_lines(Picture(board.meter, lambda: 0.0, str)))


@pytest.mark.parametrize("width", [200, 120, 100, 60, 45, 30])
def test_a_picture_stays_one_where_the_terminal_gets_narrower(width, board, console):
    """Its head stayed behind, once for each fold."""
    shown = seen_at(width, board, console)

    assert shown[:2] == ["above it", "and later"]
    assert [line.startswith("digits-12ab34cd") for line in shown[2:]].count(True) == 1
    assert shown[2].startswith("digits-12ab34cd")
    assert len(shown) == 2 + rows_at(width, board)


def test_a_terminal_that_says_late_how_wide_it_is_folds_nothing(board, console):
    """Down to 80 columns: tmux folds at once, and a picture drawn then left its head behind."""
    with live(board.meter, console) as drawn:
        drawn.refresh()
        console.file.narrow(80)
        drawn.refresh()
        console.width = 80
        drawn.refresh()
        drawn.refresh()

        assert [each[:9] for each in console.file.shown()].count("digits-12") == 1


def test_nothing_is_drawn_while_the_terminal_changes(board, console):
    """Each picture would be folded once more before it is taken away."""
    with AtFoot("a picture", console=console, auto_refresh=False) as drawn:
        before = len(console.file.rows)
        for width in range(119, 60, -1):
            console.width = width
            drawn.refresh()
        assert len(console.file.rows) == before
        assert console.file.shown() == ["a picture"]


def test_nothing_is_left_where_the_picture_ends(board, console):
    """It is transient."""
    seen_at(60, board, console)

    assert console.file.shown() == ["above it", "and later"]


@pytest.mark.parametrize(
    ("names", "folds"),
    [({}, True), ({"XTERM_VERSION": "x"}, False), ({"STY": "1"}, False),
     ({"XTERM_VERSION": "x", "TMUX": "t"}, True)],
)  # fmt: skip
def test_a_terminal_that_cuts_long_lines_keeps_what_is_above(names, folds, console, monkeypatch):
    """There a picture has as many rows as before, and more would take away lines of others."""
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    with AtFoot("x" * 100, console=console, auto_refresh=False) as drawn:
        drawn.refresh()
        console.width = 40
        console.file.rows.insert(0, ["of others", False])
        console.file.row += 1
        drawn.refresh()
        drawn.refresh()
        assert ("of others" not in console.file.shown()) is folds


def test_no_picture_is_drawn_while_a_line_is_printed(console):
    """The line comes with a picture too, and one that got lower just then left its head behind."""
    drawing, drawn_again = threading.Event(), threading.Event()
    heights = itertools.chain((7, 4), itertools.repeat(1))

    class Changing:
        def __rich__(self):
            height = next(heights)
            if height == 4:
                drawing.set()
                drawn_again.wait(0.5)  # what does not wait comes in between
            return "\n".join(f"row {number}" for number in range(height))

    with AtFoot(Changing(), console=console, auto_refresh=False) as drawn:

        def print_line():
            drawn.above(lambda: console.print("a line"))

        thread = threading.Thread(target=print_line)
        thread.start()
        drawing.wait(60)
        drawn.refresh()
        drawn_again.set()
        thread.join()
        shown = console.file.shown()

    assert shown == ["a line", "row 0"]


def test_a_picture_is_drawn_by_itself(board, console):
    """By a thread, while the program computes."""
    with live(board.meter, console):
        until = time.monotonic() + 60
        while "Reversing" not in " ".join(console.file.shown()) and time.monotonic() < until:
            time.sleep(0.05)
        assert "Reversing" in " ".join(console.file.shown())
