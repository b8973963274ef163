"""Work of ``mgd open``: the report of a run in a browser, as a page that runs nothing.

A store is data, whoever wrote it. The page of a report forbids scripts and connections by itself,
but a page that another user has put in its place would not. So a copy is opened that begins with
the same rule, which counts for all that follows it.
"""

import re
import tempfile
import webbrowser
from html import unescape
from pathlib import Path

from engine.errors import ConfigurationError
from engine.reports.page import REPORT
from engine.runs.endings import renamed, told_renamed
from engine.runs.run import find_run, no_report
from engine.storage.location import absolute, store_errors
from engine.storage.places import RUN, run_file
from engine.storage.readable import check_readable
from engine.storage.records import read_bytes, read_records
from flows.cli.terminal.screen import say, tell

_RULE = (
    b'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="'
    b"default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'\">"
)
"""The encoding is said first, and so for good: in one of the page's own, bytes that we read as
other words could say ``refresh``."""

_LEADS_AWAY = re.compile(r"http-equiv\s*=\s*[\"']?\s*refresh|<\s*(?:base|link)\b", re.IGNORECASE)
"""What no rule forbids: another page by itself, and connections that a ``link`` has made ahead."""

_GROWS = re.compile(rb'<meta http-equiv="refresh" content="\d{1,4}">')
"""How a page of ours that grows is loaded again; a number alone leads nowhere else."""


def open_report(run: str, store: str) -> None:
    """Open the report of a run in the browser, and say where it is.

    Raises:
        ConfigurationError: If there is no such run or no report yet, or its page leads elsewhere.
    """
    place = absolute(store)
    check_readable(place)
    with store_errors(place):
        name = find_run(place, run)
        content = read_bytes(run_file(place, name, REPORT))
        record = run_file(place, name, RUN)
        other = renamed(name, read_records([record]).get(record))
    where = run_file(place, name, REPORT)
    if content is None:
        raise no_report(place, name)
    say(f"Report: {where}")
    if other:
        tell(told_renamed(name, other), err=True)
    content, grows = _GROWS.subn(b"", content, count=1)
    if grows:
        tell("The run goes on, and its report grows: open it again to see what is new.")
    if not webbrowser.open(guarded(content, name).as_uri()):
        tell("No browser could be opened here. Open that file in one.")


def guarded(content: bytes, run: str) -> Path:
    """Write a copy of a page that cannot run or load anything; return where it is.

    Raises:
        ConfigurationError: If the page would lead to another place by itself.
    """
    if _LEADS_AWAY.search(unescape(content.decode(errors="replace"))):
        raise ConfigurationError(
            f"The report of run {run} redirects to another place, which no report of this program "
            f"does, so the file was changed. Write it again with `mgd resume {run}`."
        )
    page = Path(tempfile.mkdtemp(prefix="mgd-report-")) / f"{run}.html"
    page.write_bytes(_RULE + content)
    return page
