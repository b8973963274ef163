"""A picture at the foot of a terminal, of which a terminal that gets narrower keeps nothing.

Rich takes a picture away by going up as many rows as it has lines. A terminal that is made narrower
folds lines that have become too long, and each fold is a row more.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment, SegmentLines

_WIDEST = 80
"""Columns of a picture at most: what is no wider is not folded by a terminal that is made narrower,
while nobody knows yet how wide it is, as tmux tells a quarter of a second later."""


class AtFoot(Live):
    """Rich's ``Live``, with the rows that folds have made taken away as well.

    Args:
        picture: What is drawn.
        options: Those of ``Live``.
    """

    def __init__(self, picture: RenderableType, **options: Any) -> None:  # noqa: ANN401 (Rich's)
        self._noted = _Noted(picture)
        super().__init__(self._noted, **options)
        self._width = self.console.width

    def refresh(self) -> None:
        """Draw anew, but not while the terminal is being made wider or narrower."""
        with self._lock:
            before, self._width = self._width, self.console.width
            if self.is_started and self._width != before:
                return
            super().refresh()

    def above(self, write: Callable[[], object]) -> None:
        """Print something above the picture.

        Rich notes how high a picture is while it draws it. Whoever prints at that moment from
        another thread would take away as many rows of the one before, and leave its head.

        Args:
            write: Prints it on this picture's console.
        """
        with self._lock:
            write()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Return the printed renderables, after the signs that take the live view away."""
        return [*self._folds(), *super().process_renderables(renderables)]

    def _folds(self) -> list[Control]:
        """Return the controls that go up the rows which folding added, and erase them."""
        width = max(self.console.width, 1)
        rows = sum((each - 1) // width for each in self._noted.widths if each > width)
        self._noted.widths = []
        if not rows or not _folds_lines():
            return []
        up = [(ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)] * rows
        return [Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up)]


class _Noted:
    """What is drawn as it was, with how wide its lines came out.

    Args:
        drawn: What is drawn.
    """

    def __init__(self, drawn: RenderableType) -> None:
        self._drawn = drawn
        self.widths: list[int] = []

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[ConsoleRenderable]:
        narrow = options.update(max_width=min(options.max_width, _WIDEST))
        lines = console.render_lines(self._drawn, narrow, pad=False)
        self.widths = [Segment.get_line_length(line) for line in lines]
        yield SegmentLines(lines, new_lines=True)


def _folds_lines() -> bool:
    """Say whether the terminal folds lines that are too long for it: xterm and screen cut them."""
    return "TMUX" in os.environ or not {"XTERM_VERSION", "STY"}.intersection(os.environ)
