"""Printing: text as it is, without terminal or Rich control codes, and without secrets.

Names, sentences and errors may come from a store, a recipe or a data set that another user has
written. An escape sequence in one would write to the clipboard or move the cursor, and brackets are
markup to Rich, which leaves them out or refuses them.
"""

import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from engine.secret_urls import redacted

if TYPE_CHECKING:
    from engine.errors import OutputError

# OSC, DCS, SOS, PM and APC with all that they hold, then CSI, then what else begins with ESC.
_SEQUENCES = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)?"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[ -/]*[0-~]?"
)

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Controls, formats such as those that turn the direction of writing, and what is no character."""

_KEPT = {"\n", "\t"}

_WHOLE = re.compile(r"[^\s`]*`[^`\n]*`\S*|\S*\d (?:%|(?:[kMGT]?B|ms|s|min|h)\b)\S*|\S+")
"""What no line is broken in: a command between backticks, which users copy, a figure with its unit,
and a word."""


_WITH_UNIT = re.compile(r"[-+]?[\d.,]+ \S+")


def plain(text: str) -> str:
    """Return a text without escape sequences, hidden characters, and the secrets of its URLs.

    What is typed wrongly is repeated in a message, and what is printed ends in logs of jobs.
    """
    text = redacted(text)
    if text.isascii() and text.isprintable():
        return text
    text = _SEQUENCES.sub("", text.replace("\r\n", "\n"))
    return "".join(
        each for each in text if each in _KEPT or unicodedata.category(each) not in _HIDDEN
    )


_NO_WIDTH = 80
"""Columns where the surroundings say that there are none."""

WIDE = 110
"""Columns of a terminal where a meaning beside its name is more than a few words wide."""


class Screen(Console):
    """A console that shows every string as it is; colours are given as styles, never as markup.

    Args:
        stderr: Write to standard error.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)
        if not self.width:  # COLUMNS=0, as where a terminal has no size: nothing would be shown
            self.width = _NO_WIDTH

    def render_str(self, text: str, **options: Any) -> Text:  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: ANN401 (Rich's)
        """Return the text for a string, wherever Rich is given one: lines, cells, headings."""
        options.update(markup=False, emoji=False)
        return super().render_str(plain(text), **options)

    def tell(self, sentence: str, style: str = "") -> None:
        """Print a sentence, in a terminal broken at words."""
        self.print(Text(at_words(sentence, self.file), style), soft_wrap=True)

    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401 (Rich's)
        """Print, as Rich does.

        Raises:
            OutputError: If it cannot be written.
        """
        try:
            super().print(*objects, **options)
        except BrokenPipeError:
            raise seen_enough(self.file) from None
        except OSError as error:
            raise cannot_write(error) from error

    def has_room(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Say whether rows of the same columns fit as a table without a word that is broken."""
        cells = [[plain(str(value)) for value in row.values()] for row in rows]
        return bool(_shared([[*rows[0]], *cells], self.width, 0))

    def table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print rows of the same columns, with whole words in heads and cells.

        Where they would be cut off they stand closer, and where that is not enough every row is
        written one field below the other.

        Args:
            rows: At least one row; columns of figures are aligned at their last digits.
        """
        names = list(rows[0])
        cells = [[plain(str(row.get(name, ""))) for name in names] for row in rows]
        figures = [all(map(_is_figure, column)) for column in zip(*cells, strict=True)]
        for padding in (1, 0):
            widths = _shared([names, *cells], self.width, padding)
            if widths:
                table = Table(padding=(0, padding))
                for name, width, is_figure in zip(names, widths, figures, strict=True):
                    table.add_column(name, width=width, justify="right" if is_figure else "left")
                for row in cells:
                    table.add_row(*row)
                self.print(table)
                return
        fields = [[*pair] for row in cells for pair in zip(names, row, strict=True)]
        words = " ".join(cell for row in cells for cell in row).split()
        name, word = (max(map(cell_len, texts)) for texts in (names, words))
        is_roomy = name + word + 7 <= self.width  # lines and blanks of two columns
        narrow = _shared(fields, self.width, 0) or [None, None]
        table = Table(padding=(0, int(is_roomy)), show_header=False)
        for width in [name, None] if is_roomy else narrow:
            table.add_column("", width=width, overflow="fold")
        for place, pair in enumerate(fields, 1):
            table.add_row(*pair, end_section=place % len(names) == 0)
        self.print(table)

    def on_broken_pipe(self) -> None:
        """End, because anyone who read what is printed has seen enough."""
        raise seen_enough(self.file)


def _shared(rows: list[list[str]], width: int, padding: int) -> list[int]:
    """Return widths of columns that have room for every word; none if there is no such room.

    Rich makes the widest columns as narrow as the others, whatever words they have.

    Args:
        rows: The texts of each, the heads among them.
        width: Width of the terminal.
        padding: Padding at both sides of a column.
    """
    columns = [[*column] for column in zip(*rows, strict=True)]
    longest = [max(map(cell_len, texts)) for texts in columns]
    least = [max(map(cell_len, _unbroken(texts))) for texts in columns]
    spare = width - sum(least) - len(columns) * (1 + 2 * padding) - 1
    if spare < 0:
        return []
    wanted = [most - few for most, few in zip(longest, least, strict=True)]
    share = min(1.0, spare / (sum(wanted) or 1))
    return [few + int(share * more) for few, more in zip(least, wanted, strict=True)]


def _unbroken(texts: Sequence[str]) -> list[str]:
    """Return the texts that a column must not break: words, and figures with their units."""
    whole = [text for text in texts if _WITH_UNIT.fullmatch(text)]
    return [*whole, *" ".join(text for text in texts if text not in whole).split(), ""]


def _is_figure(value: Any) -> bool:  # noqa: ANN401 (any JSON value)
    """Say whether a value is a number, with or without its unit, or stands for one."""
    return not str(value).strip("-") or re.match(r"[-+]?[\d.]", str(value)) is not None


def right(name: str) -> Column:
    """Return a column of figures, which people compare by their last digits."""
    return Column(name, justify="right")


def names(title: str, found: Iterable[str], width: int) -> Column:
    """Return a column of names, which users copy: whole where there is room, and never cut off.

    Args:
        title: Its head.
        found: The names.
        width: Columns of the terminal.
    """
    longest = max(map(len, found), default=0)
    # Rich narrows the widest columns first, and a least width of its own makes a table too wide.
    return Column(title, no_wrap=2 * longest <= width, overflow="fold")


def text(words: str) -> Text:
    """Return a string for where Rich would look for markup in it whatever the console says."""
    return Text(plain(words))


def at_words(sentence: str, stream: IO[str] | None) -> str:
    """Return a sentence as lines that end at words, if it goes to a terminal.

    A terminal breaks where its edge is, in the middle of a word. Elsewhere, as in a file that a
    user searches, a sentence is one line. What is longer than a line, such as a path, stays whole,
    so that it can be copied.

    Args:
        sentence: May have several lines.
        stream: Where it goes.
    """
    sentence = plain(sentence)
    if stream is None or not stream.isatty():
        return sentence
    width = Console(file=stream).width
    return "\n".join(_broken(line, width) for line in sentence.split("\n"))


def _broken(line: str, width: int) -> str:
    if cell_len(line) <= width:
        return line
    lines: list[str] = []
    for word in _WHOLE.findall(line):
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def tell(sentence: str, *, err: bool = False) -> None:
    """Print a sentence to standard output, or to standard error; in a terminal broken at words.

    Raises:
        OutputError: If it cannot be written.
    """
    say(at_words(sentence, sys.stderr if err else sys.stdout), err=err)


def say(words: str, *, err: bool = False) -> None:
    """Print a line as it is, for programs and to be copied, to standard output or standard error.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        typer.echo(plain(words), err=err)
    except BrokenPipeError:
        raise seen_enough(sys.stderr if err else sys.stdout) from None
    except OSError as error:
        raise cannot_write(error) from error


def same_place() -> bool:
    """Return whether standard output and standard error end in the same terminal, file or pipe."""
    try:
        one, other = os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # closed, or none of the system's
        return False
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def flush() -> None:
    """Write out what has been printed.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise seen_enough(sys.stdout) from None
    except (OSError, ValueError) as error:
        raise cannot_write(error) from error


def seen_enough(stream: IO[str] | None) -> typer.Exit:
    """Return the end of a command whose reader has gone, such as `head`, and give up the rest.

    It is no error of the operating system any more: anyone who looks after a store would take a
    broken
    pipe for that of the store.
    """
    _give_up(stream)
    return typer.Exit(1)


def cannot_write(error: Exception) -> "OutputError":
    """Return the error of output that cannot be written, and give up the rest of it."""
    from engine.errors import OutputError

    _give_up(sys.stdout)
    return OutputError(
        f"The output cannot be written: {error}. What the command did is done; say it again with "
        "its output elsewhere."
    )


def _give_up(stream: IO[str] | None) -> None:
    """Let the rest of what is printed go nowhere.

    Python would try again at its end, and print what it thinks of that.
    """
    if stream is not None:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
