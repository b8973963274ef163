"""What every figure has: its width and its colours, and that none of its texts is a formula."""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.axis
    import matplotlib.figure

# Okabe and Ito's palette, which people with any colour vision tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"

WIDTH = 7.2  # inches; a figure is as wide as the page at 100 %, so its text is 10 point there

_SMALL = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def new_figure(
    height: float, rows: int = 1
) -> "tuple[matplotlib.figure.Figure, list[matplotlib.axes.Axes]]":
    """Return a figure as wide as the page, and its axes, one below the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    all_axes = [figure.add_subplot(rows, 1, row + 1) for row in range(rows)]
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, all_axes


def png(figure: "matplotlib.figure.Figure") -> bytes:
    """Return a figure as a PNG image, sharp on screens of twice the usual resolution.

    No text of it is read as a formula: names come from outside, and a ``$`` in one is a sign like
    any other.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # pyright: ignore[reportAttributeAccessIssue] (it is a Text)
        text.set_usetex(False)  # pyright: ignore[reportAttributeAccessIssue]
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            _write_powers(axis)
    buffer = io.BytesIO()
    # For the labels of ticks, which are made when the figure is drawn.
    with mpl.rc_context({"text.parse_math": False, "text.usetex": False}):
        figure.set_dpi(2 * 96)
        # As figure.savefig would, which lays everything out in a drawing of its own before: the
        # report of a short run is mostly that.
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def whole_numbers(axes: "matplotlib.axes.Axes") -> None:
    """Let the ticks of the x axis be whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def scale(axes: "matplotlib.axes.Axes", values: Sequence[float], *, log: bool = False) -> None:
    """Start the y axis at 0, or make it logarithmic: if asked for, or over two powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = min(values), max(values)
    if low <= 0 or not (log or high > 100 * low):
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    if high < 20 * low:  # powers of ten alone would leave one tick or none
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
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
