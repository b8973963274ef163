"""Pictures of a meter in a terminal and in a notebook; needs Rich."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.progress.meter import Meter
from engine.progress.view import Clean, Picture

if TYPE_CHECKING:
    import rich.console

    from engine.progress.at_foot import AtFoot

_REFRESHES = 2
"""Pictures a second; each takes some milliseconds of one core."""

_FORMAT = (
    '<pre style="font-family:monospace;line-height:1.3;margin:0">'
    '<code style="font-family:inherit">{code}</code></pre>'
)


@contextmanager
def live(
    meter: Meter, console: "rich.console.Console | None" = None, clean: Clean = str
) -> "Iterator[AtFoot]":
    """Show a picture of a meter at the foot of a terminal inside the block."""
    from rich.console import Console

    from engine.progress.at_foot import AtFoot

    began = time.monotonic()
    picture = Picture(meter, lambda: time.monotonic() - began, clean)
    console = console or Console(stderr=True, markup=False, emoji=False, highlight=False)
    with AtFoot(
        picture,
        console=console,
        refresh_per_second=_REFRESHES,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as shown:
        yield shown


class _Html:
    """What IPython shows as HTML, or as plain text where it shows none."""

    def __init__(self, text: str, plain: str) -> None:
        self._text, self._plain = text, plain

    def __repr__(self) -> str:
        return self._plain

    def _repr_html_(self) -> str:
        return self._text


def html(meter: Meter, gone: float) -> _Html:
    """Return a picture of a meter for a notebook."""
    from rich.console import Console

    # In a notebook a console of Rich's shows what it prints, whatever its file: another picture
    # twice a second, below the one that is kept up to date.
    console = Console(
        record=True, file=io.StringIO(), width=110, force_terminal=True, force_jupyter=False
    )
    console.print(Picture(meter, lambda: gone, str))
    plain = console.export_text(clear=False).rstrip()
    text = console.export_html(inline_styles=True, code_format=_FORMAT)
    return _Html(text, plain)
