"""Objects as a notebook shows them: a heading, pairs in a table, curves as small drawings.

It needs no template engine and no plotting package: the library alone has neither. Whatever an
object says is text there, and never markup.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

_SHORT = 12
"""Letters of a figure with its sign or unit, which no browser breaks."""

_NUMBER = re.compile(r"[-+≤≥ ]*\.?\d")

_WIDTH, _HEIGHT, _MARGIN = 240, 48, 3


def pairs_html(title: str, pairs: Mapping[str, object], notes: Iterable[str] = ()) -> str:
    """Return a heading, a name and a value in each row, and sentences below.

    Args:
        title: What it is.
        pairs: Name to value; a ``Markup`` value is a drawing, any other is written.
        notes: Sentences.
    """
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{_cell(value)}</td></tr>'
        for name, value in pairs.items()
    )
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<div><b>{escape(title)}</b><table>{rows}</table>{below}</div>"


def rows_html(rows: Sequence[Mapping[str, object]], most: int = 12) -> str:
    """Return rows of the same columns as a table; of more than ``most``, the first ones."""
    if not rows:
        return ""
    # Notebooks put every cell to the right, which is right for numbers, and hard to read in words.
    sides = {
        name: "left" if any(_is_word(row.get(name, "")) for row in rows[:most]) else "right"
        for name in rows[0]
    }
    heads = "".join(
        f'<th style="text-align:{side}">{escape(str(name))}</th>' for name, side in sides.items()
    )
    lines = "".join(
        f"<tr>{''.join(_in_table(_figure(row.get(n, '')), side) for n, side in sides.items())}</tr>"
        for row in rows[:most]
    )
    more = f"<p>... and {len(rows) - most} rows more.</p>" if len(rows) > most else ""
    return f"<table><tr>{heads}</tr>{lines}</table>{more}"


class Markup(str):
    """Markup that this module made, which is shown as it is."""

    __slots__ = ()


def curve(values: Sequence[float], label: str) -> Markup:
    """Return numbers as a small line, with the first and the last one beside it.

    Args:
        values: Values in order; what is not finite is left out.
        label: What they are, for whoever cannot see the line.
    """
    found = [(place, value) for place, value in enumerate(values) if math.isfinite(value)]
    if len(found) < 2:
        return Markup(escape(", ".join(f"{value:.4g}" for _, value in found) or "none"))
    step = max(len(found) // _WIDTH, 1)  # more points than pixels say nothing more
    found = [*found[:-1:step], found[-1]]
    low, high = min(v for _, v in found), max(v for _, v in found)
    across, up = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    points = " ".join(
        f"{_MARGIN + across * place / found[-1][0]:.1f},"
        f"{_MARGIN + up * (1 - (value - low) / ((high - low) or 1)):.1f}"
        for place, value in found
    )
    first, last = (f"{found[place][1]:.4g}" for place in (0, -1))
    return Markup(
        f'{first} <svg role="img" aria-label="{escape(label)}, from {first} to {last}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'style="vertical-align:middle"><polyline fill="none" stroke="currentColor" '
        f'stroke-width="1.5" points="{points}"/></svg> {last}'
    )


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value) and not _NUMBER.match(value)


def _in_table(cell: str, side: str) -> str:
    """Return a cell of a table; beside a sentence, browsers break words and numbers at hyphens."""
    is_sentence = " " in cell and len(cell) > _SHORT
    whole = "" if is_sentence else ";white-space:nowrap"
    return f'<td style="text-align:{side}{whole}">{cell}</td>'


def _figure(value: object) -> str:
    """Return a cell below others, with as many digits as they have."""
    return f"{value:#.4g}".rstrip(".") if isinstance(value, float) else _cell(value)


def _cell(value: object) -> str:
    if isinstance(value, Markup):
        return value
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))
