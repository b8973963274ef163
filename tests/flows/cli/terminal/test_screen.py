"""What reaches a terminal: text, and nothing that a terminal or Rich would obey."""

import io
import logging
import os

import pytest
import typer
from rich.table import Table

from engine.storage.location import store_errors
from flows.cli.terminal.screen import Screen, at_words, plain, say, tell, text
from flows.cli.terminal.watching import LineHandler, _line

EVIL = (
    "\x1b]0;title\x07\x1b]52;c;cm0=\x1b\\\x1b[2J\x1b[31m\x9b31m\x90q\x9c[/red][link=https://e]x[/link]"
    " pip install 'a[parquet]' \u202eabc\u2066 \ud800 :smile: \x08\r\x00é漢"
)
SHOWN = "[/red][link=https://e]x[/link] pip install 'a[parquet]' abc  :smile: é漢"


def test_text_keeps_what_people_read_and_loses_what_terminals_obey():
    """A claim's name wrote to the clipboard of whoever looked at the run."""
    assert plain(EVIL) == SHOWN
    assert plain("two\nlines\tand a tab") == "two\nlines\tand a tab"
    assert plain("\x1b]52;c;never ended") == ""


@pytest.mark.parametrize("length", range(1, 40, 3))
def test_no_escape_survives_wherever_a_text_is_cut(length):
    """A table cuts texts, and a cut sequence may join what follows it."""
    shown = plain(EVIL[:length]) + plain(EVIL[length:])

    assert not any(each in shown for each in "\x1b\x9b\x9d\x90\x07\x00\x08\r")


def test_everything_that_is_printed_goes_through_it(capsys):
    """Lines, cells, headings, captions and the plain way past Rich."""
    table = Table("run[old]", EVIL, title=EVIL, caption=EVIL)
    table.add_row(EVIL, text(EVIL))
    screen = Screen()

    screen.print(table)
    screen.print(EVIL, highlight=False, soft_wrap=True)
    say(EVIL)
    say(EVIL, err=True)
    tell(EVIL)
    screen.tell(EVIL, "bold")

    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert printed.out.count(SHOWN) >= 2
    assert SHOWN in printed.err
    assert "run[old]" in printed.out
    assert "[parquet]" in printed.out


def test_a_terminal_without_a_size_is_written_to(capsys, monkeypatch):
    """COLUMNS=0, as some containers set it: tables were empty, and the exit code was 0."""
    monkeypatch.setenv("COLUMNS", "0")
    table = Table("run")
    table.add_row("digits")

    Screen().print(table)
    tell("a sentence")

    assert {"digits", "sentence"} <= set(capsys.readouterr().out.split())


def test_warning_with_brackets_is_a_line(capsys):
    """`[/...]` in a path raised inside of the log handler, and the warning was lost."""
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s in data[old]/[/b]", (EVIL,), None)
    for write in (Screen(stderr=True).print, _line):
        LineHandler(write, logging.WARNING, set()).emit(record)

    printed = " ".join(capsys.readouterr().err.split())
    assert printed.count("in data[old]/[/b]") == 2
    assert "\x1b" not in printed


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        """Say so."""
        return True


SAID = (
    "Validation loss fell by 64 %, from 1.0695 to 0.3829 in 12.5 s. The report is at "
    "/a/path/that/is/longer/than/any/line/of/such/a/narrow/terminal.html (`mgd open some-run`)."
)


@pytest.mark.parametrize("width", [20, 30, 44, 80])
def test_a_terminal_gets_sentences_that_break_between_words(width, monkeypatch):
    """It breaks a line at its edge itself, in the middle of a word, and of what people copy."""
    monkeypatch.setenv("COLUMNS", str(width))

    lines = at_words(SAID, Terminal()).split("\n")

    whole = ["64 %,", "12.5 s.", "(`mgd open some-run`)."]
    assert " ".join(lines) == SAID
    assert all(any(each in line for line in lines) for each in whole)
    assert all(len(line) <= width or " " not in line or line in whole for line in lines)
    for one, other in zip(lines, lines[1:], strict=False):
        first = next((each for each in whole if other.startswith(each)), other.split()[0])
        assert len(f"{one} {first}") > width


def test_a_file_gets_a_sentence_as_one_line(monkeypatch, capsys):
    """Whoever searches it finds words that stand beside one another."""
    monkeypatch.setenv("COLUMNS", "20")

    tell(SAID)
    tell(SAID, err=True)

    assert at_words(SAID, None) == at_words(SAID, io.StringIO()) == SAID
    assert capsys.readouterr() == (f"{SAID}\n", f"{SAID}\n")


def test_wide_letters_count_as_the_two_columns_that_they_take(monkeypatch):
    """As those of Chinese do."""
    monkeypatch.setenv("COLUMNS", "9")

    assert at_words("漢字 漢字 漢字", Terminal()) == "漢字 漢字\n漢字"


ROWS = [
    {"routine": "gelu, norm_position before", "nominal validation": "0.1356", "Pareto": "yes"},
    {"routine": "baseline", "nominal validation": "-", "Pareto": ""},
]


@pytest.mark.parametrize("columns", [26, 30, 34, 40, 60, 200])
def test_a_table_cuts_no_word_at_any_width(columns, monkeypatch, capsys):
    """Eleven columns of a search in 100 were heads of five letters: "nomin…", "valid…"."""
    monkeypatch.setenv("COLUMNS", str(columns))

    Screen().table(ROWS)

    shown = capsys.readouterr().out
    words = {word for row in ROWS for pair in row.items() for text in pair for word in text.split()}
    assert words <= {*shown.replace("│", " ").replace("┃", " ").split()}
    assert max(map(len, shown.splitlines())) <= columns


@pytest.mark.parametrize("columns", [30, 40, 60])
def test_no_figure_of_a_table_is_parted_from_its_unit(columns, monkeypatch, capsys):
    """`2.8` stood in one line, and `MB` in the next."""
    monkeypatch.setenv("COLUMNS", str(columns))
    why = "it was active last a long time ago, and others since"

    Screen().table([{"run": "digits-4f80449e", "size": "2.8 MB", "why": why}])

    assert "2.8 MB" in capsys.readouterr().out


def test_figures_of_a_table_stand_at_the_right(monkeypatch, capsys):
    """People compare them by their last digits; what stands for one is no word."""
    monkeypatch.setenv("COLUMNS", "80")

    Screen().table(ROWS)

    figure, none = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert figure.index("6 │") == none.index("- │")


@pytest.mark.parametrize("write", [say, tell, Screen().tell, lambda _: Screen().table(ROWS)])
def test_a_reader_that_has_gone_is_no_error_of_the_store(write, tmp_path, monkeypatch):
    """`mgd show | head -1` said that the store did not answer, which has broken pipes too."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as gone:
        monkeypatch.setattr("sys.stdout", gone)

        with pytest.raises(typer.Exit) as ended, store_errors(str(tmp_path)):
            write("seen by nobody\n")

    assert ended.value.exit_code == 1
