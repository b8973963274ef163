"""What the UI shows of a run that goes on: a percentage, and sentences instead of frames."""

import logging

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    ArtifactFilterType,
)

from engine.errors import ConfigurationError, StoreError
from engine.progress.board import Course
from engine.progress.meter import Meter, heard_by
from engine.progress.time_left import Work
from engine.recipes.names import run_name
from engine.recipes.titles import run_title
from engine.stages import training as stages
from flows.descent import descent
from tasks.running import bars, progress
from tasks.running.sentences import OneSentence, say_one_sentence
from tests.helpers.runs.tiny_recipe import small


@pytest.fixture
def shown(monkeypatch):
    """Every percentage and sentence that is sent to the UI, in order."""
    sent = []
    monkeypatch.setattr(
        bars,
        "update_progress_artifact",
        lambda artifact, percent, description: sent.append((percent, description)),
    )
    monkeypatch.setattr(progress, "UPDATE_SECONDS", 0.02)
    return sent


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_ui_is_told_in_sentences_up_to_100(shown, heard, tmp_path):
    """Baselines are stages too; a run that finds all of them done ends at 100 all the same."""
    recipe = small("outer.num_steps=1", "baselines=[random,low-loss]", "training.threads=1")
    record = descent(recipe, str(tmp_path))
    first, rows = list(shown), list(heard)
    shown.clear()
    descent(recipe, str(tmp_path))

    for told in (first, shown):
        percents = [percent for percent, _ in told]
        assert percents == sorted(percents)
        assert percents[-1] == 100.0
        assert max(percents[:-1]) <= 99.9
    assert first[0][0] < 10
    assert any(sentence.startswith("Training steps") for _, sentence in first)
    assert first[-1][1].startswith(f"Finished: {record.stages.total} stages in")
    assert f"{record.stages.total} of them already there" in shown[-1][1]
    scores = [row for row in rows if row.startswith("outer step")]
    assert len(scores) == 2
    assert any(row.startswith(f"Run {run_title(recipe)} in {tmp_path}") for row in rows)
    assert record.headline() in rows


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_run_that_fails_says_where_it_stopped(shown, monkeypatch, tmp_path):
    """A bar at 40 % for ever would look as if somebody was still at work."""

    def fail(*args, **more):
        raise ConfigurationError("nothing is moved")

    monkeypatch.setattr(stages.update, "compute", fail)
    with pytest.raises(ConfigurationError):
        descent(small("outer.num_steps=1", "training.threads=1"), str(tmp_path))

    percent, sentence = shown[-1]
    assert percent < 100
    assert sentence.startswith("Stopped at moving the metaparameters of outer step 0;")
    assert "finished stages are kept" in sentence


def followed(tmp_path):
    """The progress of a run of one stage, outside of a flow."""
    meter = Meter()
    with heard_by(meter):
        course = Course("a run", [Work("train", 12.0, forward=12)])
        return progress.Progress(small(), str(tmp_path), course), meter


def test_run_that_stops_is_looked_at_no_longer(monkeypatch, tmp_path):
    """Others of a search go on; a terminal would show its bar until the end of them."""
    told, meter = followed(tmp_path)
    shown = []
    monkeypatch.setattr(told._bar, "show", lambda percent, sentence: shown.append(sentence))
    told.begins("train[0] 0-12", "train")
    told.begins_again("train[0] 0-12")

    told.stops()
    told.look()

    assert meter.boards == []
    assert shown == [
        "Stopped at training steps 0 to 12 of outer step 0; 0 finished stages are kept."
    ]


def test_run_that_stops_while_nothing_is_at_work_says_so(monkeypatch, tmp_path):
    """A preflight that refuses a run is one stage, and it is done."""
    told, _ = followed(tmp_path)
    shown = []
    monkeypatch.setattr(told._bar, "show", lambda percent, sentence: shown.append(sentence))
    told.begins("preflight", "preflight")
    told.board.end("preflight")

    told.stops()
    told.look()

    assert shown == ["Stopped between two stages; 1 finished stage is kept."]


def test_a_store_that_is_away_hides_nothing_else(monkeypatch, tmp_path):
    """What has been said would be said again, and the rest would not be said at all."""
    told, _ = followed(tmp_path)
    shown, said = [], []
    monkeypatch.setattr(told._bar, "show", lambda percent, sentence: shown.append(sentence))

    def away():
        raise StoreError("the store does not answer")

    told.when(lambda: said.append("scores") is None)
    told.when(away)
    told.look()
    told.look()

    assert said == ["scores"]
    assert len(shown) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_artifact_of_a_finished_run_says_100(tmp_path):
    """It is what the UI shows."""
    recipe = small("outer.num_steps=1", "training.threads=1", "name=shown-to-the-end")
    descent(recipe, str(tmp_path))

    with get_client(sync_client=True) as client:
        (found,) = client.read_artifacts(
            artifact_filter=ArtifactFilter(
                key=ArtifactFilterKey(any_=[f"progress-{run_name(recipe)}"]),
                type=ArtifactFilterType(any_=["progress"]),
            )
        )

    assert found.data == 100.0
    assert found.description.startswith("Finished")


class Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        """Format a record as a console would, with its traceback."""
        self.lines.append(self.format(record))


@pytest.fixture
def heard(monkeypatch):
    """What Prefect's loggers of flow and task runs say, formatted as the UI gets it."""
    handler = Heard()
    loggers = [logging.getLogger(f"prefect.{name}") for name in ("flow_runs", "task_runs")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield handler.lines
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_setting_that_fails_is_one_sentence_in_the_ui(heard, tmp_path):
    """The sentence says what to change; two tracebacks of Prefect's own frames hide it."""
    with pytest.raises(ConfigurationError):
        descent(small("training.device=cuda:7"), str(tmp_path))

    told = [line for line in heard if "cuda:7" in line]
    assert told[0].startswith("training.device is cuda:7")
    assert len(told) == 1
    assert heard[-1] == "Finished in state Failed"
    assert all("\n" not in line for line in told)
    assert not any("Traceback" in line for line in heard)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_error_that_nobody_foresaw_keeps_its_traceback(heard):
    """Without it nobody could mend the error."""

    @flow
    def broken():
        raise KeyError("an oversight")

    with pytest.raises(KeyError):
        broken()

    assert any("Traceback" in line for line in heard)


def test_loggers_are_told_once():
    """Every module of tasks may be imported anew in a worker."""
    say_one_sentence()
    say_one_sentence()

    filters = logging.getLogger("prefect.task_runs").filters
    assert sum(isinstance(each, OneSentence) for each in filters) == 1
