"""The report of a run that goes on: as far as the run, never after its end, and never its end."""

import logging
import re
import threading
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from prefect.exceptions import Abort

from engine.applications.descent.growing import page_so_far
from engine.errors import ConfigurationError, EngineError, StoreUnavailableError
from engine.progress.board import Board, Course
from engine.progress.meter import Meter
from engine.recipes.names import run_name
from engine.runs.starts import begin_start, forget_starts, note_stop, read_starts
from engine.storage.places import RECIPE, run_file, run_folder
from engine.storage.records import write_record
from tasks import growing
from tests.helpers.runs.made_records import FALLING, make_record
from tests.helpers.runs.watched_run import WORKS

RECORD = make_record(FALLING)
STARTED = "2026-01-01T12:00:00+00:00"


@pytest.fixture
def shown(monkeypatch):
    """What the UI was told, without one."""
    texts = []
    monkeypatch.setattr(growing, "get_run_logger", lambda: logging.getLogger("growing"))
    monkeypatch.setattr(growing, "show_markdown", lambda *args: texts.append(args[3]))
    monkeypatch.setattr(growing, "_STOPPED", set())
    return texts


def start(store, board=None):
    """Return the report of a run that goes on, and where its page will be."""
    page = growing.GrowingReport(RECORD.recipe, store, "Metagradient descent: tiny", board)
    return page, Path(run_folder(store, run_name(RECORD.recipe)), "report.html")


def begin(store):
    """Leave what a start leaves before its first stage."""
    run = run_name(RECORD.recipe)
    begin_start(store, run, datetime.now(UTC))
    write_record(run_file(store, run, RECIPE), RECORD.recipe.model_dump(mode="json"))


def show(page, number):
    """Show the first iterates."""
    iterates = RECORD.iterates[:number]
    page.show(partial(page_so_far, RECORD.recipe, RECORD.checks, STARTED, iterates))


def test_page_and_artifact_say_how_far_the_run_is(tmp_path, shown):
    """With the curve so far, and loaded again by a browser that shows it."""
    page, place = start(str(tmp_path))

    show(page, 1)
    page.look()
    first = place.read_text()
    show(page, 2)
    page.look()
    page.look()
    second = place.read_text()

    assert "After outer step 0 of 5: The set-up that it starts from has a test loss of" in first
    assert "After outer step 1 of 5: Test loss fell by 24" in second
    assert all('http-equiv="refresh"' in each and "<svg " in each for each in (first, second))
    assert [text.partition(":")[0] for text in shown] == [
        "**After outer step 0 of 5",
        "**After outer step 1 of 5",
    ]
    assert all("](data:image/svg+xml;base64," in text for text in shown)


def test_before_there_is_a_result_the_page_says_what_is_done_and_what_was_found(tmp_path, shown):
    """Of any kind: hours of an attribution or of an audit were an empty page."""
    board = Board(Course("a run", WORKS, in_seconds=True), Meter())
    page, place = start(str(tmp_path), board)

    page.look()
    board.begin("train[0] 0-60", "train")
    board.end("train[0] 0-60")
    page.add_finding("Direction 0: Definition 2 is 0.930.")
    page.checks = RECORD.checks
    page.look()
    page.look()
    text = place.read_text()

    assert len(shown) == 2  # nothing is drawn anew that has not changed
    assert "Direction 0: Definition 2 is 0.930." in text
    assert "1 of 2" in text  # trainings
    assert "1 of 6" in text  # stages
    assert 'http-equiv="refresh"' in text
    assert "Settings of the run" in text


def test_a_run_of_runs_says_what_it_found_last(tmp_path, shown):
    """It has no stages of its own."""
    page, place = start(str(tmp_path))

    page.look()
    page.add_finding("activation=gelu: metasmoothness 0.930, validation loss 0.1000.")
    page.look()

    assert "It has begun." in shown[0]
    assert "activation=gelu: metasmoothness 0.930" in place.read_text()


def test_nothing_is_drawn_after_the_end(tmp_path, shown):
    """A page that came late would take the place of the finished one."""
    page, place = start(str(tmp_path))
    begun, go_on, drawn = threading.Event(), threading.Event(), []

    def draw():
        drawn.append(1)
        begun.set()
        go_on.wait(60)
        raise ValueError("a page that is never written")

    page.show(draw)
    thread = threading.Thread(target=page.look)
    thread.start()
    begun.wait(60)
    show(page, 2)
    threading.Timer(0.2, go_on.set).start()
    page.stop()
    assert go_on.is_set()  # it waited for the drawing that had begun
    page.look()
    thread.join(60)

    assert drawn == [1]
    assert not place.exists()
    assert not shown


def test_what_cannot_be_drawn_stops_nothing(tmp_path, shown, caplog):
    """A run of hours is not lost for a picture of it."""
    page, place = start(str(tmp_path))
    page.show(lambda: 1 / 0)

    with caplog.at_level(logging.WARNING):
        page.look()
        page.look()
        page.stop()

    assert caplog.text.count("division by zero") == 1
    assert not place.exists()


@pytest.mark.parametrize(
    ("error", "said", "told"),
    [
        (ConfigurationError("The metagradient is 0.\nLower it."), "The metagradient is 0.", 1),
        (EngineError("Lower it.", settings=["training.learning_rate"]), "In a recipe: training", 1),
        (SystemExit(130), "stopped from outside", 0),
        (ValueError("at https://me:secret@example.org"), "ValueError: at https://", 1),
    ],
)
def test_page_of_a_start_that_stopped_says_so_and_how_it_goes_on(
    tmp_path, shown, error, said, told
):
    """A browser would load for ever a page that says how many seconds are left."""
    board = Board(Course("a run", WORKS, in_seconds=True), Meter())
    place = start(str(tmp_path))[1]
    begin(str(tmp_path))

    with (
        pytest.raises(type(error)),
        growing.growing(RECORD.recipe, str(tmp_path), "Metagradient descent: tiny", board),
    ):
        raise error
    text = re.sub("</?span>", "", place.read_text())

    is_refused = isinstance(error, ConfigurationError)
    assert ("It was refused." in text) is is_refused
    assert ("It stopped before its end." in text) is not is_refused
    assert ("To go on where it stopped" in text) is not is_refused
    assert said in text
    assert "secret" not in text
    assert f"mgd resume {run_name(RECORD.recipe)} --store" in text
    assert "refresh" not in text
    assert "goes on, and this page" not in text
    assert len(shown) == told


def test_what_a_stopped_run_has_found_stays_on_its_page(tmp_path, shown):
    """Hours of outer steps are worth reading, whatever came then."""
    page, place = start(str(tmp_path))
    begin(str(tmp_path))
    show(page, 2)

    page.tell_stop(ConfigurationError("The disk is full."))
    page.look()

    assert "After outer step 1 of 5: Test loss fell by 24" in place.read_text()
    assert "The disk is full." in place.read_text()
    assert len(shown) == 1


def test_a_start_that_is_refused_before_it_has_a_page_says_so_in_the_ui(tmp_path, shown):
    """There was a state that had failed, below it frames of code, and no artifact."""
    with (
        pytest.raises(ConfigurationError),
        growing.told_if_stopped(RECORD.recipe, str(tmp_path), "Metagradient descent: tiny"),
    ):
        raise ConfigurationError("training.device is cuda, but there is no GPU.")

    (text,) = shown
    assert "It was refused." in text
    assert "there is no GPU" in text
    assert "Settings of the run" in text
    assert list(tmp_path.iterdir()) == []  # nothing has begun, so nothing would be cleaned


def test_why_a_start_stopped_before_its_first_stage_is_kept_with_the_run(tmp_path, shown):
    """The page has the command that goes on, and a list of runs has the reason."""
    store, run = str(tmp_path), run_name(RECORD.recipe)
    page = Path(run_folder(store, run), "report.html")
    begin(store)

    with (
        pytest.raises(OSError, match="away"),
        growing.told_if_stopped(RECORD.recipe, store, "Metagradient descent: tiny"),
    ):
        raise OSError("The scheduler of Dask is away:\n tcp://me:secret@example.org")

    (start,) = read_starts(store, run).values()
    assert start.stopped is not None
    assert start.cause.startswith("OSError: The scheduler of Dask is away: tcp://")
    assert f"mgd resume {run} --store" in re.sub("</?span>", "", page.read_text())
    assert all("secret" not in each for each in [start.cause, page.read_text(), *shown])


def test_an_end_is_told_once_by_whoever_hears_of_it_first(tmp_path, shown):
    """The page that has grown says more than one that begins anew."""
    store = str(tmp_path)

    begin(store)

    def find_and_fail(page):
        page.add_finding("Direction 0: Definition 2 is 0.930.")
        raise ValueError("apart")

    with (
        pytest.raises(ValueError, match="apart"),
        growing.told_if_stopped(RECORD.recipe, store, "Metagradient descent: tiny"),
        growing.growing(RECORD.recipe, store, "Metagradient descent: tiny") as page,
    ):
        find_and_fail(page)

    assert len(shown) == 1
    assert "Direction 0" in shown[0]


def test_a_process_that_leaves_a_run_to_another_one_says_nothing(tmp_path, shown):
    """The other one's page grows on; it said for a moment that the run had stopped."""
    store = str(tmp_path)
    begin(store)

    with (
        pytest.raises(Abort),
        growing.growing(RECORD.recipe, store, "Metagradient descent: tiny"),
    ):
        raise Abort("Another process is at work on this flow run.")

    assert not shown
    (start,) = read_starts(store, run_name(RECORD.recipe)).values()
    assert start.stopped is None


def test_an_end_after_that_of_the_run_begins_no_start(tmp_path):
    """A failure of the UI behind a finished run would make it one that is under way."""
    store, run = str(tmp_path), run_name(RECORD.recipe)
    begin(store)
    forget_starts(store, run, list(read_starts(store, run)))

    note_stop(store, run, "The server is away.", refused=False)

    assert read_starts(store, run) == {}


def test_store_that_failed_is_not_asked_once_more(tmp_path, shown):
    """A patient store would be waited for twice."""
    page, place = start(str(tmp_path))

    page.tell_stop(StoreUnavailableError("It does not answer."))

    assert not place.exists()
    assert not shown


def test_a_measurement_of_a_recipe_does_not_stand_where_its_report_does():
    """``mgd smoothness`` of a recipe hid the report of its runs in the list of artifacts."""
    measured = RECORD.recipe.model_copy(update={"kind": "metasmoothness"})

    assert growing.artifact_stem(RECORD.recipe) == RECORD.recipe.name
    assert growing.artifact_stem(measured) == f"metasmoothness-{RECORD.recipe.name}"
