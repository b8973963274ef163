"""What ``mgd compare`` and ``mgd send`` do: runs side by side, and runs sent to a tracker."""

import json
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from engine.applications.open_run import open_run
from engine.applications.side_by_side import SideBySide, page_of, side_by_side
from engine.applications.trackers import send
from engine.errors import ConfigurationError, EngineError
from engine.reports.page import as_html
from engine.secret_urls import redacted
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


def send_run(run: str, store: str, target: str, *, err: bool = False) -> None:
    """Send a run as it stands to a tracker, and say how much was sent.

    Args:
        run: Its name, or the beginning of it.
        store: Path or fsspec URL.
        target: ``tensorboard:DIR``, ``mlflow:URI``, ``wandb:PROJECT``, ``trackio:PROJECT``.
        err: Say it on standard error, because standard output is a program's.
    """
    opened = open_run(store, run)
    try:
        number = send(opened, target)
    except EngineError:
        raise
    except Exception as error:  # whatever a tracker's package raises
        raise ConfigurationError(
            f"Run {opened.name} could not be sent to {target} ({type(error).__name__}: "
            f"{redacted(str(error))}). "
            f"The run is kept as it is. Send it again: mgd send {opened.name} --to {target}"
        ) from error
    say(f"{number} numbers of run {opened.name} were sent to {target}.", err=err)


def _write(file: Path, found: SideBySide) -> None:
    try:
        file.write_text(as_html(page_of(found)))
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
