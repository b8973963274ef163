"""A figure as SVG that stands in a page: sharp on paper, in the page's colours, wide and narrow.

Texts stay texts, so that they can be searched, copied and read at any size. The colours of
``engine.reports.canvas`` become names that the stylesheet has for light and dark; a picture of the
same figure outside of a page has the colours themselves.
"""

import hashlib
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from engine.reports.canvas import (
    BAND,
    BLUE,
    GREEN,
    GREY,
    GRID,
    GROUND,
    INK,
    NARROW,
    ORANGE,
    WIDTH,
    drawn_at,
    no_formulas,
)
from engine.reports.sections import Drawing

if TYPE_CHECKING:
    import matplotlib.figure

NAMES = {
    INK: "text",
    GROUND: "back",
    GRID: "grid",
    BAND: "band",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
    GREY: "grey",
}
"""Colour to its name in the stylesheet."""

_SPACE = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_COLOURS = {colour.lower(): f"var(--{name}, {colour.lower()})" for colour, name in NAMES.items()}
_COLOUR = re.compile("|".join(_COLOURS))
_PLACE = re.compile(r"url\(#")


def vector(draw: "Callable[[], matplotlib.figure.Figure]") -> Drawing:
    """Return a figure for a page and for a phone.

    Args:
        draw: Draws it, by ``engine.reports.canvas.new_figure``, each time for the room there is.
    """
    drawn = []
    for width in (WIDTH, NARROW):
        with drawn_at(width):
            drawn.append(_as_svg(draw()))
    return Drawing(*drawn)


def _as_svg(figure: "matplotlib.figure.Figure") -> str:
    """Return a figure as an SVG element whose names are no other figure's."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    buffer = io.BytesIO()
    with no_formulas(figure), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "figure"}):
        FigureCanvasSVG(figure).print_svg(
            buffer, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    written = buffer.getvalue()
    root = ET.fromstring(written)  # what matplotlib wrote just now, with every name escaped
    _tidy(root, f"f{hashlib.sha256(written).hexdigest()[:10]}-")
    ET.register_namespace("", _SPACE.strip("{}"))
    return ET.tostring(root, encoding="unicode")


def _tidy(root: ET.Element, own: str) -> None:
    """Leave out what a page has already, name its colours, and begin its names with one's own."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SPACE}metadata", f"{_SPACE}style"):
                parent.remove(child)
    for each in root.iter():
        for name, value in list(each.attrib.items()):
            if name == "id":
                each.set(name, own + value)
            elif name == _LINK:
                del each.attrib[name]
                each.set("href", f"#{own}{value[1:]}" if value.startswith("#") else value)
            elif name in ("style", "clip-path", "fill", "stroke"):
                coloured = _COLOUR.sub(lambda found: _COLOURS[found.group()], value)
                each.set(name, _PLACE.sub(f"url(#{own}", coloured))
        if each.tag == f"{_SPACE}text" and "fill" not in each.get("style", ""):
            each.set("fill", _COLOURS[INK])
    width, height = root.get("viewBox", "0 0 1 1").split()[2:]
    root.set("width", f"{float(width) * 4 / 3:.0f}")
    root.set("height", f"{float(height) * 4 / 3:.0f}")
    root.set(
        "style",
        f"background: {_COLOURS[GROUND]}; stroke-linejoin: round; stroke-linecap: butt",
    )
