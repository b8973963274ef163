"""Elements of a report: a page of sections, and the content of a section.

Nothing here knows what a run is, or how a page is written: ``engine.reports.page`` does that.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MANY_COLUMNS = 5
"""A table with more columns shows a row for each value where the screen is narrow."""

LONG = 20
"""Letters of a value that is a text, or of a head that needs as much room as one: a run's name."""

LONG_KEY = 36
"""A longer name is broken anywhere; it is a digest, which nobody reads as a word."""

_WORD = re.compile(r"[a-z-]{2,}(?![\w.])")
"""The beginning of a head that is a word, and no symbol, key or name of a file."""

_NUMBER = re.compile(r"[-+]?(\d|\.\d)")
_NOTHING = ("", "-", "diverged", "not set")


@dataclass(frozen=True)
class Number:
    """A number that stands at the top of a page.

    Attributes:
        label: What it is.
        value: As people read it, with its unit.
        note: What it is to be seen beside, e.g. the value before.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure as SVG, drawn for the room that there is; see ``engine.reports.vector``.

    Attributes:
        wide: Figure for a page and for paper.
        narrow: Figure for a phone.
    """

    wide: str
    narrow: str


@dataclass(frozen=True)
class Figure:
    """A drawing with what it shows.

    Attributes:
        drawing: As a page holds it.
        alt: What it shows, in one sentence, for whoever cannot see it. It may not be empty.
        caption: How to read it.
    """

    drawing: Drawing
    alt: str
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.alt.strip():
            raise ValueError("A figure has no alternative text. Say in one sentence what it shows.")


@dataclass(frozen=True)
class Table:
    """Rows of the same columns.

    Attributes:
        rows: Name of a column to its value. Values are written as they are.
        marked: Number of a row to a word that gives it a colour: chosen, warn or refuse.
        code: Columns that hold names which users copy.
        pairs: Whether it has two columns, a name and its value, and no heads.
        named: Columns whose name somebody else gave, e.g. a run's: their heads stay as they are.
    """

    rows: Sequence[Mapping[str, Any]]
    marked: Mapping[int, str] = field(default_factory=dict)
    code: frozenset[str] = frozenset()
    pairs: bool = False
    named: frozenset[str] = frozenset()

    @property
    def heads(self) -> dict[str, str]:
        """Each column with its head, which begins with a capital letter if it is in words."""
        return {
            name: name[0].upper() + name[1:]
            if name not in self.named and _WORD.match(name)
            else name
            for name in self.columns
        }

    @property
    def columns(self) -> dict[str, str]:
        """Each column with what it holds, as the stylesheet calls it."""
        return {name: self._kind(name) for name in self.rows[0]} if self.rows else {}

    @property
    def long(self) -> set[str]:
        """The columns whose head has a word that may be broken, or a table would be too wide."""
        return {n for n in self.columns if any(len(word) > LONG for word in n.split())}

    @property
    def stacks(self) -> bool:
        """Whether a narrow screen shows a row for each value."""
        kinds = self.columns
        wide = {"text", "interval"}.intersection(kinds.values())
        is_long = wide or any(len(name) > LONG for name in kinds)
        return len(kinds) > MANY_COLUMNS or bool(len(kinds) > 2 and is_long)

    @property
    def wide(self) -> bool:
        """Whether it needs more width than text does."""
        return len(self.columns) > MANY_COLUMNS + 2

    def _kind(self, name: str) -> str:
        values = [str(row.get(name, "")) for row in self.rows]
        if name in self.code:
            return "key" if any(len(value) > LONG_KEY for value in values) else "code"
        if self.pairs:
            return "text"
        said = [value for value in values if value not in _NOTHING]
        if name != next(iter(self.rows[0])) and all(_NUMBER.match(value) for value in said):
            if any("[" in value for value in said):
                return "interval"
            if not any(len(value) > LONG for value in said):  # many numbers are read like a text
                return "number"
        return "text" if any(len(value) > LONG for value in said) else "word"


@dataclass(frozen=True)
class Card:
    """An example to look at.

    Attributes:
        images: What each picture of it is, e.g. before and after, to the picture as a page holds
            it; none if it is shown by its text alone.
        name: Where it comes from, or its number.
        text: What is read of it: its caption, its text, or a row of a table.
        note: A number of it.
        marked: Whether it is known to be wrong.
        tone: A word that gives its frame a colour, as in figures: blue, orange or none.
    """

    images: Mapping[str, str]
    name: str
    text: str = ""
    note: str = ""
    marked: bool = False
    tone: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: Heading of the section.
        notes: Paragraphs before all else.
        lines: Sentences, one to a bullet.
        figures: Images.
        tables: Tables, after the images.
        examples: Words for a group of examples, to the examples as cards, or as rows of a table.
        chips: Short names to values, which stand beside one another.
        commands: Commands that a reader may copy, each to what it does.
        folded: Whether it is closed until somebody opens it.
    """

    title: str
    notes: Sequence[str] = ()
    lines: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    examples: "Mapping[str, Sequence[Card] | Table]" = field(default_factory=dict)
    chips: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: Name of what was done, and of the recipe.
        run: Name of the run, and when it began.
        headline: What came of it, in one sentence.
        numbers: At most three numbers.
        findings: What there is to say besides, in sentences.
        warnings: What speaks against it.
        sections: The rest, in order.
        refresh: Seconds after which a browser loads it again, while it grows; 0 is never.
    """

    title: str
    run: str
    headline: str
    numbers: Sequence[Number] = ()
    findings: Sequence[str] = ()
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = ()
    refresh: int = 0
