"""What ``mgd compare`` does: runs side by side."""

import json
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from engine.applications.open_run import open_run
from engine.applications.side_by_side import SideBySide, page_of, side_by_side
from engine.errors import ConfigurationError
from engine.reports.page import as_html
from engine.secret_urls import refuse_secrets
from flows.cli.screen import Screen, say

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
    console.print(found.headline, soft_wrap=True)
    for run in found.runs:
        console.print(f"{run.name}: {run.headline}", soft_wrap=True)
    for rows in (found.numbers, found.settings):
        if rows:
            console.print(_table(rows))
    say(f"Page: {Path(page or PAGE).absolute()}")


def _write(file: Path, found: SideBySide) -> None:
    try:
        file.write_text(as_html(page_of(found)), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"{file} cannot be written ({type(error).__name__}: {error}). Name another file with "
            "--page."
        ) from error


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(*(Column(name, overflow="fold") for name in rows[0]))
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table
