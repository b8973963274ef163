"""Canvas of every figure: its width, its colours, and text that is never read as a formula.

A figure is drawn twice, for a page and for a phone (``engine.reports.vector``): what draws it asks
here how much room there is, and puts beside or below one another what ``new_figure`` gave it.
"""

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from engine.extras import load

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.axis
    import matplotlib.figure

# Okabe and Ito's palette, which people with any colour vision tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"

INK, GROUND, GRID, BAND = "#000000", "#ffffff", "#e4e4e4", "#e9f2f8"
"""Colours of what carries no meaning: texts and axes, the page, lines, and shaded parts."""

WIDTH, NARROW = 7.2, 3.7
"""Width of a figure in inches, on a page and on a phone: at 100 % its text is 10 point there."""

SMALL = 9
"""Points of the smallest text; smaller ones cannot be read on paper, where figures shrink."""

_width: ContextVar[float] = ContextVar("_width", default=WIDTH)

_LETTERS = 46
"""Letters, and the marks before them, that stand beside one another on a phone."""

_TICKS = 5
"""Most numbers below an axis on a phone."""

_HARDLY = 0.1
"""Of the greatest value: a spread below it is not seen on an axis that begins at 0."""

_MARGIN = 0.1
"""Of the spread, above and below it."""

_LOG_TICKS = {
    numbers: min(math.log10(b / a) for a, b in pairwise([*numbers, 10 * numbers[0]]))
    for numbers in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3))
}
"""Numbers of a decade that a logarithmic axis may write, to the closest two, in decades."""

_WITH_MARGINS = 1.1
"""How much longer an axis is than what is drawn along it."""

_TICK_HEIGHT = 0.22
"""Inches that a number beside an upright axis has for itself: a line of 10 points, and air."""

_GAP, _LINE = 0.12, 0.2
"""Inches between small squares beside one another, and of a line of the smallest text."""

_WORDS = re.compile(r"[^./]*[./]?")
"""Words of a name, each with the dot or slash behind it."""

_SMALL = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@contextmanager
def drawn_at(width: float) -> Iterator[None]:
    """Draw figures at a width in inches meanwhile."""
    token = _width.set(width)
    try:
        yield
    finally:
        _width.reset(token)


def is_narrow() -> bool:
    """Say whether a figure is drawn for a phone."""
    return _width.get() < WIDTH


def new_figure(
    height: float, rows: int = 1, columns: int = 1
) -> "tuple[matplotlib.figure.Figure, list[matplotlib.axes.Axes]]":
    """Return a figure as wide as there is room, and its axes, row by row.

    Args:
        height: Height in inches, on a page.
        rows: Axes below one another.
        columns: Axes beside one another; on a phone they are below one another as well.
    """
    if is_narrow():
        height, rows, columns = height * columns, rows * columns, 1
    figure = load("matplotlib.figure", "A figure of a report").Figure(
        figsize=(_width.get(), height), layout="constrained"
    )
    all_axes = [figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        if is_narrow():
            axes.locator_params(axis="x", nbins=_TICKS)
    return figure, all_axes


def small_multiples(
    number: int, lines: int
) -> "tuple[matplotlib.figure.Figure, list[matplotlib.axes.Axes]]":
    """Return a figure of small squares without ticks, and its axes, row by row.

    There is room above each for its name, below each for a line, and above all for a legend.

    Args:
        number: Number of axes; some 20 fill a page.
        lines: Number of lines of the legend.
    """
    width, columns = _width.get(), 3 if is_narrow() else 5
    side, rows = width / columns, -(-number // columns)
    row, top = side - _GAP + 2 * _LINE, (lines + 0.5) * _LINE
    height = top + rows * row
    figure = load("matplotlib.figure", "A figure of a report").Figure(figsize=(width, height))
    all_axes = []
    for place in range(number):
        left, below = place % columns * side, height - top - (place // columns + 1) * row + _LINE
        square = (side - _GAP) / width, (side - _GAP) / height
        axes = figure.add_axes((left / width, below / height, *square))
        axes.tick_params(bottom=False, left=False, labelbottom=False, labelleft=False)
        axes.spines[:].set_color(GRID)
        all_axes.append(axes)
    return figure, all_axes


def lying(axes: "matplotlib.axes.Axes") -> None:
    """Let the lines of the grid stand upright, for bars that lie."""
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)


def legend(axes: "matplotlib.axes.Axes", columns: int = 4) -> None:
    """Say above the axes what their lines are, in so many columns, or as many as a phone has."""
    if is_narrow():
        longest = max(len(label) for label in axes.get_legend_handles_labels()[1])
        columns = min(columns, max(_LETTERS // (longest + 6), 1))
    axes.legend(
        frameon=False,
        ncols=columns,
        loc="lower left",
        bbox_to_anchor=(0, 1.02),
        fontsize=SMALL,
        columnspacing=1.2,
    )


# Signs that XML, and so a drawing of a page, cannot hold; fonts cannot hold halves of a character.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@contextmanager
def no_formulas(figure: "matplotlib.figure.Figure") -> Iterator[None]:
    """Draw a figure meanwhile of which no text is read as a formula.

    Names come from outside, and a ``$`` in one is a sign like any other. Of a control character in
    one there is a sign in its place.
    """
    import matplotlib as mpl
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter

    for text in figure.findobj(Text):
        text.set_text(_writable(text.get_text()))  # pyright: ignore[reportAttributeAccessIssue]
        text.set_parse_math(False)  # pyright: ignore[reportAttributeAccessIssue] (it is a Text)
        text.set_usetex(False)  # pyright: ignore[reportAttributeAccessIssue]
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            _write_powers(axis)
            shown = axis.get_major_formatter()
            if isinstance(shown, FuncFormatter):  # as the names of ticks are
                named = partial(_named_tick, shown)
                axis.set_major_formatter(FuncFormatter(named))
    # For the labels of ticks, which are made when the figure is drawn.
    with mpl.rc_context({"text.parse_math": False, "text.usetex": False}):
        yield


def _named_tick(formatter: Callable[..., str], value: Any, place: Any) -> str:  # noqa: ANN401 (numbers of numpy)
    return _writable(formatter(value, place))


def _writable(text: str) -> str:
    return _UNWRITABLE.sub("\ufffd", text)


def png(figure: "matplotlib.figure.Figure") -> bytes:
    """Return a figure as a PNG image, sharp on screens of twice the usual resolution."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    with no_formulas(figure):
        figure.set_dpi(2 * 96)
        # As figure.savefig would, which lays everything out in a drawing of its own before: the
        # report of a short run is mostly that.
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def whole_numbers(axes: "matplotlib.axes.Axes") -> None:
    """Let the ticks of the x axis be whole numbers, and leave room around a single one."""
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_xlim()
    if high - low < 1:
        axes.set_xlim(low - 0.5, high + 0.5)
    bins = _TICKS if is_narrow() else "auto"
    # With the default of at least two ticks, those of a single number are parts of it.
    whole = MaxNLocator(bins, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    axes.xaxis.set_major_locator(whole)


def short_names(names: Sequence[str]) -> list[str]:
    """Return names that leave a figure its room: without what is common to all, if they are long.

    They may still be longer than ``name_room``: see ``cut_name``.
    """
    if max(map(len, names), default=0) <= name_room() or len(set(names)) < 2:
        return list(names)
    parts = [_WORDS.findall(name) for name in names]
    shortest = min(map(len, parts)) - 1  # a word stays of each
    before = next((n for n in range(shortest) if len({each[n] for each in parts}) > 1), shortest)
    rest = [each[before:] for each in parts]
    shortest -= before
    behind = next(
        (n for n in range(shortest) if len({each[-1 - n] for each in rest}) > 1), shortest
    )
    return ["".join(each[: len(each) - behind]).strip("./") for each in rest]


def cut_name(name: str) -> str:
    """Return a name with its middle left out, if it is longer than there is room."""
    room = name_room()
    if len(name) <= room:
        return name
    end = room // 2
    return f"{name[: room - end - 1]}\N{HORIZONTAL ELLIPSIS}{name[-end:]}"


def name_room() -> int:
    """Return how many characters of a name leave a figure most of its width."""
    return 22 if is_narrow() else 40


def scale(axes: "matplotlib.axes.Axes", values: Sequence[float], *, log: bool = False) -> None:
    """Start the y axis at 0, or make it logarithmic: if asked for, or over two powers of ten.

    Values that hardly differ beside their size fill the height: from 0 on they would be one line.
    """
    low, high = min(values), max(values)
    if not log and low > 0 and 0 < high - low < _HARDLY * high:
        margin = _MARGIN * (high - low)
        axes.set_ylim(low - margin, high + margin)
        return
    if low <= 0 or not (log or high > 100 * low):
        axes.set_ylim(bottom=0)
        return
    log_scale(axes, low, high)


def log_scale(axes: "matplotlib.axes.Axes", low: float, high: float) -> None:
    """Let the y axis be logarithmic, with as many numbers as have room above one another.

    Args:
        axes: Axes of a figure of ``new_figure``.
        low: Smallest value that is shown, above 0.
        high: Greatest one.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    decades = max(math.log10(high / low), 0.01) * _WITH_MARGINS
    figure = axes.get_figure(root=True)
    assert figure is not None  # new_figure made it
    height = axes.get_position().height * figure.get_figheight()
    most = max(int(height / _TICK_HEIGHT), 2)
    if decades < math.log10(2):  # few of the numbers below would lie in it
        axes.yaxis.set_major_locator(MaxNLocator(min(most, _TICKS)))
    else:
        for numbers, closest in _LOG_TICKS.items():
            if closest * most >= decades:
                axes.yaxis.set_major_locator(LogLocator(subs=numbers))
                break
        else:  # powers of ten, and of many some, which are written as such
            axes.yaxis.set_major_locator(LogLocator(numticks=most))
            return
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _write_powers(axis: "matplotlib.axis.Axis") -> None:
    """Let a logarithmic axis write its powers of ten as text, not as formulas."""
    from matplotlib.ticker import FuncFormatter, LogFormatter, LogFormatterMathtext

    for formatter, put in (
        (axis.get_major_formatter(), axis.set_major_formatter),
        (axis.get_minor_formatter(), axis.set_minor_formatter),
    ):
        if isinstance(formatter, LogFormatterMathtext):
            plain = LogFormatter(labelOnlyBase=formatter.labelOnlyBase)
            plain.set_axis(axis)
            put(FuncFormatter(lambda value, place, plain=plain: _power(value, plain(value, place))))


def _power(value: float, shown: str) -> str:
    """Return ``10`` with a small exponent for a power of ten that is shown; else what is shown."""
    exponent = math.log10(value) if value > 0 else math.nan
    if not shown or not exponent.is_integer():
        return shown and f"{value:g}"
    return "10" + str(int(exponent)).translate(_SMALL)
