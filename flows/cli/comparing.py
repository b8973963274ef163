"""What ``mgd compare`` does: runs side by side."""

import json
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.table import Column, Table

from engine.applications.open_run import open_run
from engine.applications.side_by_side import SideBySide, page_of, side_by_side
from engine.errors import ConfigurationError
from engine.reports.page import as_html
from engine.secret_urls import refuse_secrets
from flows.cli.terminal.screen import Screen, names, say, tell

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
        _write(Path(page or PAGE), found)
    if as_json:
        say(json.dumps(found.content()))
        return
    console = Screen()
    tables = [rows for rows in (found.numbers, found.settings) if rows]
    is_narrow = any(_least_width(rows) > console.width for rows in tables)
    tell(found.headline)
    for number, run in enumerate(found.runs, 1):
        # Names that would be broken at the head of a column stand here alone, with numbers.
        tell(f"{f'{number}. ' if is_narrow else ''}{run.name}: {run.headline}")
    for rows in tables:
        heads = [f"run {number + 1}" for number in range(len(found.runs))] if is_narrow else None
        console.print(_table(rows, heads, console.width))
    say(f"Page: {Path(page or PAGE).absolute()}")


def _write(file: Path, found: SideBySide) -> None:
    try:
        file.write_text(as_html(page_of(found)), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"{file} cannot be written ({type(error).__name__}: {error}). Name another file with "
            "--page."
        ) from error


def _least_width(rows: list[dict[str, Any]]) -> int:
    """Return the columns of a terminal that a table needs to break no word."""
    words = ([name, *(word for row in rows for word in str(row[name]).split())] for name in rows[0])
    return sum(3 + max(map(cell_len, each)) for each in words) + 1


def _table(rows: list[dict[str, Any]], heads: list[str] | None, width: int) -> Table:
    """Return rows as a table.

    Args:
        rows: What is compared, then a value for each run by its name.
        heads: What stands for the names of the runs; by default they.
        width: Columns of the terminal.
    """
    first, *runs = rows[0]
    what = names(first, [str(row[first]) for row in rows], width)
    table = Table(what, *(Column(name, overflow="fold") for name in heads or runs))
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table
