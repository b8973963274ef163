"""The figures of a report, read back from its page: drawings as people have seen them.

A page holds every image in itself. Reading it needs neither the problem nor any code that a stored
recipe names, which drawing the figures anew would.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser

_DATA = re.compile(r"data:(image/(?:png|svg\+xml|jpeg|webp));base64,", re.ASCII)


@dataclass(frozen=True, repr=False)
class ShownFigure:
    """An image of a report, and what it shows.

    Attributes:
        section: Heading of the section in which it stands.
        image: Content of a file of that type.
        media_type: ``image/svg+xml`` or ``image/png``.
        alt: What it shows, in one sentence.
        caption: How to read it; may be empty.
    """

    section: str
    image: bytes
    media_type: str
    alt: str
    caption: str = ""

    def __repr__(self) -> str:
        return f"ShownFigure({self.section}: {self.alt})"

    def _repr_html_(self) -> str:
        """Return it with its caption, for a notebook; no script in an image is run."""
        source = f"data:{self.media_type};base64,{base64.b64encode(self.image).decode()}"
        return (
            f'<figure><img style="max-width:100%" src="{source}" alt="{escape(self.alt)}">'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )


def figures_of(html: str, *, narrow: bool = False) -> list[ShownFigure]:
    """Return the figures of a page, in its order; images of examples are none.

    Args:
        html: The page.
        narrow: Where a figure is there twice, take the one for a phone, not that for a page.
    """
    reader = _Reader(html, narrow=narrow)
    reader.feed(html)
    reader.close()
    return reader.found


class _Reader(HTMLParser):
    """Gathers the figures of a page, and the heading of the section that each stands in."""

    def __init__(self, html: str, *, narrow: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[ShownFigure] = []
        self._html, self._narrow = html, narrow
        self._lines = [0, *(each.end() for each in re.finditer("\n", html))]
        self._section, self._alt, self._text = "", "", list[str]()
        self._image: tuple[bytes, str, str] | None = None
        self._in_figure, self._drawing = False, -1

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See ``HTMLParser``."""
        given = {name: value or "" for name, value in attrs}
        if tag == "figure":
            self._in_figure, self._image, self._alt = True, None, ""
        if tag in (*_HEADINGS, "figure", "figcaption"):
            self._text = []
        if not self._in_figure or (self._image is not None and not self._narrow):
            return
        self._alt = given.get("aria-label") or self._alt
        if tag == "svg" and self._drawing < 0:
            self._drawing = self._place()
        elif tag == "img":
            content = _image(given.get("src", ""))
            if content is not None:
                self._image = (*content, given.get("alt", ""))

    def handle_endtag(self, tag: str) -> None:
        """See ``HTMLParser``."""
        text = " ".join("".join(self._text).split())
        if tag in _HEADINGS:
            self._section = text
        elif tag == "svg" and self._drawing >= 0:
            drawn = self._html[self._drawing : self._place()] + "</svg>"
            self._image, self._drawing = (drawn.encode(), "image/svg+xml", self._alt), -1
            self._text = []  # what is written inside of a drawing is no caption
        elif tag == "figure":
            if self._image is not None:
                self.found.append(ShownFigure(self._section, *self._image, text))
            self._in_figure, self._image = False, None

    def handle_data(self, data: str) -> None:
        """See ``HTMLParser``."""
        self._text.append(data)

    def _place(self) -> int:
        line, column = self.getpos()
        return self._lines[line - 1] + column


_HEADINGS = ("h1", "h2", "h3", "summary")


def _image(source: str) -> tuple[bytes, str] | None:
    """Return the image of a data URL and its type; None for any other."""
    matched = _DATA.match(source)
    if matched is None:
        return None
    try:
        return base64.b64decode(source[matched.end() :], validate=True), matched[1]
    except (binascii.Error, ValueError):
        return None
