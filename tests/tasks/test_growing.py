"""The report of a run that goes on: as far as the run, never after its end, and never its end."""

import logging
import threading
from pathlib import Path

import pytest

from engine.recipes.names import run_name
from engine.storage.places import run_folder
from tasks import growing
from tests.made_records import FALLING, make_record

RECORD = make_record(FALLING)
STARTED = "2026-01-01T12:00:00+00:00"


@pytest.fixture
def shown(monkeypatch):
    """What the UI was told, without one."""
    texts = []
    monkeypatch.setattr(growing, "get_run_logger", lambda: logging.getLogger("growing"))
    monkeypatch.setattr(growing, "show_markdown", lambda *args: texts.append(args[-1]))
    monkeypatch.setattr(growing, "_PAUSE", 0.0)
    return texts


def start(store):
    """Return the report of a run that goes on, and where its page will be."""
    page = growing.GrowingReport(RECORD.recipe, store, RECORD.checks, STARTED)
    return page, Path(run_folder(store, run_name(RECORD.recipe)), "report.html")


def wait(page):
    """Let it draw what waits to be drawn."""
    thread = page._thread
    if thread is not None:
        thread.join(60)


def test_page_and_artifact_say_how_far_the_run_is(tmp_path, shown):
    """With the curve so far, and loaded again by a browser that shows it."""
    page, place = start(str(tmp_path))

    page.show(RECORD.iterates[:1])
    wait(page)
    first = place.read_text()
    page.show(RECORD.iterates[:2])
    wait(page)
    second = place.read_text()

    assert "After outer step 0 of 5: The set-up that it starts from has a test loss of" in first
    assert "After outer step 1 of 5: Test loss fell by 24" in second
    assert all('http-equiv="refresh"' in each and "<svg " in each for each in (first, second))
    assert [text.partition(":")[0] for text in shown] == [
        "**After outer step 0 of 5",
        "**After outer step 1 of 5",
    ]
    assert all("](data:image/svg+xml;base64," in text for text in shown)


def test_nothing_is_drawn_after_the_end(tmp_path, shown):
    """A page that came late would take the place of the finished one."""
    page, place = start(str(tmp_path))
    begun, go_on, drawn = threading.Event(), threading.Event(), []

    def draw(iterates):
        drawn.append(len(iterates))
        begun.set()
        go_on.wait(60)
        raise ValueError("a page that is never written")

    page._page = draw
    page.show(RECORD.iterates[:1])
    begun.wait(60)
    page.show(RECORD.iterates[:2])
    threading.Timer(0.2, go_on.set).start()
    page.stop()
    assert go_on.is_set()  # it waited for the drawing that had begun
    page.show(RECORD.iterates)
    wait(page)

    assert drawn == [1]
    assert not place.exists()
    assert not shown


def test_what_cannot_be_drawn_stops_nothing(tmp_path, shown, caplog):
    """A run of hours is not lost for a picture of it."""
    page, place = start(str(tmp_path))
    page._page = lambda iterates: 1 / 0

    with caplog.at_level(logging.WARNING):
        page.show(RECORD.iterates)
        wait(page)
        page.stop()

    assert "division by zero" in caplog.text
    assert not place.exists()
