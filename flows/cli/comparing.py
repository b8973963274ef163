"""Work and output of ``mgd compare``: runs side by side."""

import json
import os
from pathlib import Path
from typing import Any

from engine.applications.open_run import open_run
from engine.applications.side_by_side import page_of, side_by_side
from engine.errors import ConfigurationError
from engine.reports.page import as_html
from engine.secret_urls import refuse_secrets
from flows.cli.terminal.screen import Screen, say, tell

PAGE = "mgd-compare.html"
"""Where the page goes if nobody says so: into the working folder."""


def compare(runs: list[str], store: str, page: str | None, *, as_json: bool) -> None:
    """Compare runs of a store.

    Args:
        runs: Their names, or beginnings of them.
        store: Path or fsspec URL.
        page: File for the page; by default in the working folder, and with ``as_json`` none.
        as_json: Print one JSON object.
    """
    refuse_secrets("--page", page or "", is_place=True)
    found = side_by_side([open_run(store, run) for run in runs])
    if page is not None or not as_json:
        _write(Path(page or PAGE), as_html(page_of(found)))
    if as_json:
        say(json.dumps(found.content()))
        return
    console = Screen()
    tables = [rows for rows in (found.numbers, found.settings) if rows]
    is_narrow = not all(console.has_room(rows) for rows in tables)
    tell(found.headline)
    for number, run in enumerate(found.runs, 1):
        # Names that would be broken at the head of a column stand here alone, with numbers.
        tell(f"{f'{number}. ' if is_narrow else ''}{run.name}: {run.headline}")
    for rows in tables:
        console.table([_numbered(row) for row in rows] if is_narrow else rows)
    say(f"Page: {Path(page or PAGE).absolute()}")


def _write(file: Path, page: str) -> None:
    """Write the page in place of an older one, which stays if this one cannot be written whole."""
    content, target = page.encode(), file.resolve()
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(content)  # a pipe takes it as it comes
            return
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            part.write_bytes(content)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{file} cannot be written ({type(error).__name__}: {error}). Name another file with "
            "--page."
        ) from error


def _numbered(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row in which numbers stand for the names of the runs."""
    (first, what), *values = row.items()
    return {first: what} | {f"run {number}": value for number, (_, value) in enumerate(values, 1)}
