"""Progress artifacts: one for a run, also where its parts are runs of their own."""

import threading

import pytest

from engine.progress.board import Course
from engine.progress.meter import Meter, heard_by
from engine.progress.time_left import Work
from engine.recipes.names import run_name
from tasks.running import bars, progress
from tests.helpers.runs.tiny_recipe import small


@pytest.fixture
def sent(monkeypatch):
    """Every artifact that was made, and what was shown by each."""
    made = []
    monkeypatch.setattr(bars, "earlier_artifact", lambda key: None)
    monkeypatch.setattr(
        bars, "create_progress_artifact", lambda *given, key, **more: made.append((key, [])) or key
    )
    monkeypatch.setattr(
        bars,
        "update_progress_artifact",
        lambda artifact, percent, description: made[-1][1].append((percent, description)),
    )
    return made


def follow(tmp_path, *, cached=False):
    """Show a run of one stage to its end."""
    course = Course("a run", [Work("train", 12.0, forward=12)])
    with heard_by(Meter()):
        told = progress.Progress(small(), str(tmp_path), course)
        told.look()
        told.board.begin("train", "train")
        told.board.end("train", cached=cached)
        told.board.finish()
        told.look()


def parts(*weights):
    """Return where a search stands that has parts of these weights, in seconds."""
    works = [Work("score", weight) for weight in weights]
    return bars.Parts("progress-search", Course("a search", works, in_seconds=True, noun="parts"))


def test_parts_of_a_search_share_one_bar(sent, tmp_path):
    """A search of six routines left 36 of them behind, none of which said how far it was."""
    whole = parts(10.0, 20.0, 10.0)
    for name in ("gelu", "gelu, learning rate 0.1"):
        with bars.as_part(whole, name, "score"):
            follow(tmp_path, cached=True)
    left = whole.board.snapshot()
    whole.finish()

    ((key, shown),) = sent
    percents, sentences = zip(*shown, strict=True)
    assert key == "progress-search"
    assert percents == pytest.approx((0.0, 25.0, 25.0, 75.0, 100.0), abs=0.1)
    assert [each.partition(":")[0] for each in sentences[:4]] == [
        *["gelu"] * 2,
        *["gelu, learning rate 0.1"] * 2,
    ]
    assert "All parts: about 40 s left." in sentences[0]
    # What was found done says nothing of how long the third one takes.
    assert left.left == pytest.approx(10.0)
    assert (left.done, left.total, left.cached, left.noun) == (2, 3, 2, "parts")
    assert sentences[-1].startswith("Finished: 2 parts")


def test_a_part_that_fails_is_done_and_measures_nothing(sent, tmp_path):
    """A training that diverges in its first step would make all others as short."""
    whole = parts(10.0, 10.0)
    with bars.as_part(whole, "gelu", "score"), heard_by(Meter()):
        course = Course("a run", [Work("train", 12.0, forward=12)])
        progress.Progress(small(), str(tmp_path), course).stops()
    seen = whole.board.snapshot()

    assert (seen.done, seen.running) == (1, ())
    assert seen.left == pytest.approx(10.0)


def test_run_by_itself_has_a_bar_by_itself(sent, tmp_path):
    """Also after a search in the same process."""
    with bars.as_part(parts(10.0), "gelu", "score"):
        pass
    follow(tmp_path)

    ((key, shown),) = sent
    assert key == f"progress-{run_name(small())}"
    assert [percent for percent, _ in shown] == [0.0, 100.0]


def test_what_fails_is_shown_at_the_next_look(monkeypatch, sent):
    """A server that is away for a moment ends no run, and no bar."""
    bar, asked = bars.Bar("progress-run"), []

    def away(*given, **more):
        asked.append(given)
        raise OSError("the server is away")

    with monkeypatch.context() as patched:
        patched.setattr(bars, "update_progress_artifact", away)
        bar.show(10.0, "Training")
    bar.show(10.0, "Training")

    assert len(asked) == 1
    assert [shown for _, shown in sent] == [[(10.0, "Training")]]


def test_nobody_waits_for_a_server_that_is_away(monkeypatch, sent):
    """The end of a run waited for a thread that asked its server again and again, for minutes."""
    bar, asked, goes_on = bars.Bar("progress-run"), threading.Event(), threading.Event()
    show = bars.update_progress_artifact

    def slow(*given, **more):
        asked.set()
        assert goes_on.wait(60)
        show(*given, **more)

    monkeypatch.setattr(bars, "update_progress_artifact", slow)
    thread = threading.Thread(target=bar.show, args=(10.0, "Training"))
    thread.start()
    assert asked.wait(60)
    bar.show(20.0, "Reversing")
    bar.show(100.0, "Finished")
    nothing_yet = [list(shown) for _, shown in sent]
    goes_on.set()
    thread.join(60)

    assert nothing_yet == [[]]
    assert [shown for _, shown in sent] == [[(10.0, "Training"), (100.0, "Finished")]]
