"""What a picture of a run says in terminals of any width: whole words and figures, nothing cut."""

import pytest
from rich.console import Console

from engine.progress.snapshot import OuterLine, Running, Snapshot
from engine.progress.view import draw


def seen(**changes):
    """Return a run of some hours that is nearly over."""
    line = OuterLine(12, 0.12345, 0.2345, {"accuracy": 0.987}, 7000.0, 0)
    values = {
        "title": "digits-selection-12ab34cd",
        "share": 0.97,
        "elapsed": 3 * 3600 + 65.0,
        "left": 4.0,
        "done": 123,
        "total": 184,
        "cached": 101,
        "running": (Running("reversing steps 60 to 120", 0.5, 99, 200, True, 3.0),),
        "words": (),
        "outer": (line,),
        "num_outer": 20,
        "best": 0,
        "judge": "validation",
        "is_finished": False,
    }
    return Snapshot(**values | changes)


def rows(width, *runs):
    """Return what a terminal of so many columns shows of runs."""
    console = Console(width=width, color_system="standard", force_terminal=True)
    return ["".join(each.text for each in line).rstrip() for line in
            console.render_lines(draw(runs), pad=False)]  # fmt: skip


def bars(lines):
    """Return how many columns each bar has."""
    return [sum(letter in "━╸╺" for letter in line) for line in lines if "━" in line]


@pytest.mark.parametrize("width", [40, 50, 60, 80, 120])
def test_nothing_that_a_picture_says_is_cut(width):
    """At 60 columns it said "a few seconds le…", and not at which outer step the best was."""
    lines = rows(width, seen(), seen(left=3 * 3600.0))
    said = " ".join(" ".join(lines).split())

    assert "…" not in said
    assert max(map(len, lines)) <= width
    for words in (
        "3:01:05 gone, a few seconds left",
        "3:01:05 gone, about 3 h 0 min left",
        "Validation loss 0.1235, accuracy 98.7 %; best 0.1235 at outer step 12",
        "1 of 21 models scored · 123 of 184 stages, 101 of them already there",
    ):
        assert words in said


@pytest.mark.parametrize(("width", "columns"), [(120, 24), (80, 24), (60, 18), (45, 0)])
def test_bars_give_way_to_what_stands_behind_them_all_alike(width, columns):
    """A bar of the run that is narrower than that of its stage would say something else."""
    found = bars(rows(width, seen(left=3 * 3600.0)))

    assert found == [columns] * 2 * bool(columns)


def test_a_title_is_cut_before_it_makes_the_picture_restless():
    """It may name many settings, and is said whole before the run."""
    lines = rows(60, seen(title="digits-12ab34cd: " + "outer.num_steps=20, " * 9))

    assert lines[0].startswith("digits-12ab34cd")
    assert lines[0].endswith("…")
    assert "gone" in lines[1]
