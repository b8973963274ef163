"""A report written as one HTML file that needs no network, and as Markdown for Prefect."""

import base64
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.extras import load
from engine.reports.sections import Figure, Number, Page, Section, Table
from engine.reports.shown_figures import ShownFigure
from engine.secret_urls import redacted

if TYPE_CHECKING:
    from jinja2 import Environment

REPORT = "report.html"
"""File in the run's folder."""

ROWS = 20
"""Rows of a table in Markdown; the page has them all."""

_HEAD = 12
"""Letters of a line of a head in Markdown, unless a word is longer."""

_MOST_FOLDERS = 2
"""Parts of an example's name that is a path, up to which all of it is shown below a picture."""

_NO_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")

_FIGURE = re.compile(r"(\d) ([kMGT]?B|ms|s|min|h)\b")

_FENCED = re.compile(r"([\\`*_{}\[\]<>|#~])")


@lru_cache(maxsize=1)
def templates() -> "Environment":
    """Return the templates of all reports; a name that is not given is an error."""
    jinja = load("jinja2", "A report")
    made = jinja.Environment(
        loader=jinja.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja.StrictUndefined,
        finalize=_without_secrets,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["anchor"] = anchor
    made.filters["unbroken"] = unbroken
    made.filters["steps"] = steps
    made.tests["table"] = lambda value: isinstance(value, Table)
    return made


def _without_secrets(value: Any) -> Any:  # noqa: ANN401 (whatever a template shows)
    """Hide logins in a text: a person or a library has put them there, and a page is sent on."""
    is_text = type(value) is str and not value.startswith("data:")  # else markup, or a picture
    return redacted(value) if is_text else value


def as_source(image: bytes) -> str:
    """Return a PNG image as a page holds it that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(image).decode()


def anchor(title: str) -> str:
    """Return a title as the name of a place in the page."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"


def unbroken(text: str) -> str:
    """Return a text in which no line begins with the sign of percent."""
    return text.replace(" %", "\u00a0%")


def steps(name: str) -> list[str]:
    """Return the parts of an example's name, between which a line may end.

    Of a path through several folders the first and the last are left: a picture is as wide as a
    word, and the whole path would be a column of letters below it.
    """
    folders = redacted(name).split("/")
    if len(folders) > _MOST_FOLDERS:
        folders = [folders[0], "\N{HORIZONTAL ELLIPSIS}", folders[-1]]
    return re.findall(r"[^/_-]*[/_-]?", "/".join(folders))[:-1]


def as_html(page: Page) -> str:
    """Return a page as one HTML file; whatever it says is text, and never markup."""
    return _whole(templates().get_template("page.html").render(page=page))


def with_section(written: str, section: Section) -> str | None:
    """Return a page that was written before with one of its sections replaced.

    Args:
        written: The page as HTML.
        section: Has the title of the one that it replaces, and is not folded.

    Returns:
        The page; None if it has no such section, or more than one.
    """
    start = f'<section id="{anchor(section.title)}">'
    if written.count(start) != 1:
        return None
    before, _, rest = written.partition(start)
    _, end, after = rest.partition("</section>")  # no text can hold it: each "<" is escaped
    new = templates().get_template("section.html").module.section(section)  # pyright: ignore[reportAttributeAccessIssue] (a macro)
    return f"{before}{str(new).strip()}{after}" if end else None


def as_image(alt: str, image: bytes, media_type: str = "image/svg+xml") -> str:
    """Return an image as one of Markdown that needs no other file."""
    coded = base64.b64encode(image).decode()
    return f"![{_plain(alt)}](data:{media_type};base64,{coded})"


def as_markdown(page: Page) -> str:
    """Return a page as Markdown for the UI; whatever it says is no markup.

    Folded sections and examples stand in the page alone; which sections these are is said at the
    end. Figures are pictures in the text, on white ground.
    """
    parts = [f"**{_plain(page.headline)}**", _plain(page.run)]
    if page.numbers:
        # A list: the first of Prefect's UIs breaks no cell, and three did not fit on a phone.
        parts.append("\n".join(f"- {_number(each)}" for each in page.numbers))
    parts.append(_bullets(page.findings))
    # Not as quotations: Prefect's UI would put them into quotation marks and slanted letters.
    parts.extend(f"\u26a0 {_plain(line)}" for line in page.warnings)
    for section in page.sections:
        if section.folded:
            continue
        parts.append(f"### {_plain(section.title)}")
        parts.extend(_plain(note) for note in section.notes)
        parts.append(_bullets(section.lines))
        parts.extend(_picture(figure) for figure in section.figures)
        parts.extend(_table(table) for table in section.tables)
        parts.append("; ".join(_plain(f"{name}: {value}") for name, value in section.chips.items()))
        for command, meaning in section.commands.items():
            parts.append(f"{_plain(meaning)}:\n\n{_code(command)}")
    folded = [each.title for each in page.sections if each.folded]
    if folded:
        parts.append(_plain(f"Only in the report: {'; '.join(folded)}."))
    return _whole("\n\n".join(part for part in parts if part))


def figures_as_markdown(figures: Iterable[ShownFigure]) -> str:
    """Return figures of a page that was written, with their headings and how to read them."""
    parts, heading = [], ""
    for each in figures:
        if each.section != heading:
            heading = each.section
            parts.append(f"### {_plain(heading)}")
        parts.append(as_image(each.alt, each.image, each.media_type))
        parts.append(_plain(each.caption))
    return "\n\n".join(part for part in parts if part)


def _picture(figure: Figure) -> str:
    """Return a figure as an image of Markdown, with what it shows, and how to read it.

    Prefect's UI makes a picture as narrow as its page, and its letters as small: on a phone only
    the one for a phone can be read, which can be read on a screen too.
    """
    image = as_image(figure.alt, figure.drawing.narrow.encode())
    return f"{image}\n\n{_plain(figure.caption)}" if figure.caption else image


def _code(command: str) -> str:
    """Return a command as code, if it has no sign by which that could end or become markup."""
    words = redacted(" ".join(command.split()))
    return _plain(command) if re.search("[`<>|]", words) else f"```\n{words}\n```"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _number(number: Number) -> str:
    note = f" ({_plain(number.note)})" if number.note else ""
    return f"{_plain(number.label)}: **{_plain(number.value)}**{note}"


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    names = list(table.columns)
    lines = [[_head(each) for each in table.heads.values()], ["---"] * len(names)]
    shown = _rows_to_show(table)
    lines += [[_cell(str(row.get(name, ""))) for name in names] for row in shown]
    written = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    more = len(table.rows) - len(shown)
    if not more:
        return written
    rest = f"{len(shown)} of {len(table.rows)} rows." if table.marked else f"and {more} rows more."
    return f"{written}\n\n... {rest}"


def _head(words: str) -> str:
    """Return a head in lines: Prefect's first UI breaks none, and hides that a table goes on."""
    lines = textwrap.wrap(redacted(words), _HEAD, break_long_words=False, break_on_hyphens=False)
    return "<br>".join(map(_plain, lines))


def _cell(text: str) -> str:
    """Return a value of a table, which a narrow page breaks between words, but not in a figure."""
    return _FIGURE.sub("\\1\N{NO-BREAK SPACE}\\2", _plain(text))


def _rows_to_show(table: Table) -> list[Mapping[str, Any]]:
    """Return the rows that are shown: the first, or of a table with marks some over all of it."""
    last = len(table.rows) - 1
    if last < ROWS or not table.marked:
        return list(table.rows[:ROWS])
    places = {round(place * last / (ROWS - 1)) for place in range(ROWS)}
    return [table.rows[place] for place in sorted(places.union(table.marked))]


def _whole(text: str) -> str:
    """Return a text that can be written: databases and files cannot hold what is no character."""
    return _NO_CHARACTER.sub("\ufffd", text).encode(errors="backslashreplace").decode()


def _plain(text: str) -> str:
    """Return a text on one line in which no sign of Markdown or HTML means anything."""
    words = unbroken(redacted(" ".join(text.split())))
    return _FENCED.sub(r"\\\1", words).replace("\\<", "&lt;").replace("\\>", "&gt;")
