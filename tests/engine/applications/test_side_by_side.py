"""Runs beside each other, and sent to trackers: what is said and sent is what the records have."""

import json
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import engine
from engine.applications.descent.record import RunRecord
from engine.applications.open_run import OpenRun
from engine.applications.side_by_side import page_of, side_by_side
from engine.applications.trackers import PROJECT, TRACKERS, send
from engine.errors import ConfigurationError
from engine.problems.own_training import RATE_SETTINGS
from engine.recipes.names import run_name
from engine.reports.page import as_html
from engine.runs.run import begin_run
from engine.storage.places import RUN, run_file
from engine.storage.records import write_record
from flows.cli.app import app
from tests.helpers.runs.made_records import make_record

runner = CliRunner()
OF_THE_PROBLEM = ["optimizer", *(f"training.{name}" for name in RATE_SETTINGS)]
OTHER = [(0.9, 0.95, 0.97), (0.7, 0.75, 0.76)]


def write(store, record):
    """Leave a run in a store that nobody ran; return its name."""
    name = run_name(record.recipe)
    begin_run(record.recipe, store)
    content = record.model_copy(update={"run": name}).model_dump(mode="json")
    write_record(run_file(store, name, RUN), content)
    return name


@pytest.fixture
def two(tmp_path):
    """A store with two finished descents that differ in the learning rate and in their losses."""
    store = str(tmp_path / "store")
    one = make_record()
    training = {"num_steps": 8, "learning_rate": 0.02}
    other = make_record(OTHER, training=training)
    return store, [write(store, one), write(store, other)]


@pytest.fixture
def runs(two):
    store, names = two
    return [engine.open_run(store, name) for name in names]


def test_only_what_differs_is_a_row(runs):
    """Of a hundred settings, those that a reader has to know."""
    found = side_by_side(runs)

    (row,) = found.settings
    first, second = found.names
    assert row["setting"] == "training.learning_rate"
    assert (row[first], row[second]) == ("0.1", "0.02")
    assert "differ in 1 setting: training.learning_rate" in found.headline
    assert repr(found) == f"SideBySide({first}, {second}: {found.headline})"
    assert found._repr_html_().count("training.learning_rate") == 2


def test_settings_that_nothing_read_are_compared_with_nothing(tmp_path):
    """A problem with an optimizer and rates of its own was shown with the defaults of recipes."""
    store = str(tmp_path / "store")
    one = make_record(
        training={"num_steps": 8, "learning_rate": 0.02, "rate_schedule": "one-cycle"}
    )
    own = make_record(OTHER).model_copy(update={"unread": OF_THE_PROBLEM})
    found = side_by_side([engine.open_run(store, write(store, each)) for each in (one, own)])

    first, second = found.names
    rows = {row["setting"]: (row[first], row[second]) for row in found.settings}
    assert rows == {
        "optimizer.name": ("sgd", "the problem's own"),
        "training.learning_rate": ("0.02", "the problem's own"),
    }


def test_settings_that_two_runs_read_are_compared_beside_a_third(tmp_path):
    """What differs among those that read it stays a row, and the third has nothing there."""
    store = str(tmp_path / "store")
    training = {"num_steps": 8, "learning_rate": 0.02}
    records = [
        make_record(training=training),
        make_record(OTHER, training=training | {"rate_schedule": "one-cycle"}),
        make_record().model_copy(update={"unread": OF_THE_PROBLEM}),
    ]
    found = side_by_side([engine.open_run(store, write(store, each)) for each in records])

    (row,) = [each for each in found.settings if each["setting"] == "training.rate_schedule"]
    assert [row[name] for name in found.names] == ["flat", "one-cycle", "(not there)"]


def test_quantities_and_curves_are_those_of_the_records(runs):
    """A number that a run has not is none."""
    found = side_by_side(runs)
    first, second = found.names

    rows = {row["quantity"]: row for row in found.quantities}
    assert rows["test.after.loss"][first] == 0.45
    assert rows["test.after.loss"][second] == 0.76
    curves = found.curves()["validation loss"]
    assert list(curves[second].points) == [(0.0, 0.95), (1.0, 0.75)]
    assert len(curves[first].points) == 3


def test_the_page_has_a_figure_for_each_curve_with_words_for_it(runs):
    """Both runs are named in each, with where they end."""
    page = page_of(side_by_side(runs))
    (curves,) = [each for each in page.sections if each.title == "Curves"]

    assert len(curves.figures) == 6
    assert "ends at 0.75" in "".join(each.alt for each in curves.figures)
    html = as_html(page)
    assert all(run.name in html for run in runs)


def test_a_run_that_has_not_finished_is_compared_and_warned_of(runs, two):
    """Its settings differ all the same."""
    store, _ = two
    recipe = make_record(outer={"num_steps": 3}).recipe
    begin_run(recipe, store)
    found = side_by_side([runs[0], engine.open_run(store, run_name(recipe))])

    assert "outer.num_steps" in found.headline
    assert any("has not finished" in line for line in page_of(found).warnings)


def test_one_run_or_the_same_twice_is_refused(runs):
    """There is nothing to compare."""
    for some in (runs[:1], [runs[0], runs[0]], []):
        with pytest.raises(ConfigurationError, match="mgd show"):
            side_by_side(some)


def test_the_command_prints_writes_and_answers_programs(two, tmp_path, monkeypatch):
    """A table on the screen, a page in the working folder; with --json neither."""
    store, names = two
    monkeypatch.chdir(tmp_path)
    shown = runner.invoke(app, ["compare", *names, "--store", store], env={"COLUMNS": "160"})
    asked = runner.invoke(app, ["compare", *names, "--store", store, "--json"])

    assert shown.exit_code == asked.exit_code == 0, shown.output + asked.output
    assert "training.learning_rate" in shown.stdout
    assert (tmp_path / "mgd-compare.html").read_text().startswith("<!doctype html>")
    content = json.loads(asked.stdout)
    assert content["curves"]["test loss"][names[1]]["points"] == [[0.0, 0.97], [1.0, 0.76]]
    assert runner.invoke(app, ["compare", names[0], "--store", store]).exit_code == 2


@pytest.mark.parametrize("columns", [80, 200])
def test_the_names_of_runs_are_whole_at_any_width(columns, two, tmp_path):
    """Where they do not fit at the heads of columns, numbers stand for them."""
    store, names = two
    page = str(tmp_path / "page.html")
    shown = runner.invoke(
        app, ["compare", *names, "--store", store, "--page", page], env={"COLUMNS": str(columns)}
    )

    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    tables = [line for line in lines if line[:1] in "│┃"]
    assert all(len(line) <= columns for line in tables)
    assert "training.learning_rate" in "".join(tables)
    heads = [line for line in tables if "setting" in line or "number" in line]
    fits = 3 * 3 + len("training.learning_rate") + sum(map(len, names)) < columns
    for number, name in enumerate(names, 1):
        assert all((name if fits else f"run {number}") in line for line in heads)
        assert any(line.startswith(f"{'' if fits else f'{number}. '}{name}:") for line in lines)


class Heard:
    """A stand-in for a package: it notes every call."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_wandb_and_trackio_are_given_a_run_in_rising_steps(package, runs, monkeypatch):
    """Both refuse a step that is lower than the last.

    The package's own ``log`` and ``finish`` are not there: trackio has a current run for each
    thread, and a run that is followed is begun in another one than it is ended in.
    """
    heard = Heard()

    def init(**names):
        heard.init(**names)
        return heard

    monkeypatch.setitem(sys.modules, package, SimpleNamespace(init=init))

    number = send(runs[0], f"{package}:mine")

    begin, *logged, end = heard.calls
    assert begin[0] == "init"
    assert begin[2]["project"] == "mine"
    assert begin[2]["name"] == runs[0].name
    assert begin[2]["config"]["problem"] == "digits"
    assert [call[2]["step"] for call in logged] == [0, 1, 2]
    assert logged[1][1][0]["validation loss"] == 0.7
    assert logged[2][1][0]["result/test.after.loss"] == 0.45
    assert number == sum(len(call[1][0]) for call in logged)
    assert end[0] == "finish"


def test_mlflow_is_given_names_that_it_takes(runs, monkeypatch):
    """Letters, digits and a few signs; the run is ended."""

    class Client(Heard):
        def __init__(self, tracking_uri):
            super().__init__()
            self.uri = tracking_uri
            made.append(self)

        def get_experiment_by_name(self, name):
            return None

        def create_run(self, experiment, tags):
            return SimpleNamespace(info=SimpleNamespace(run_id="7"))

    made = []
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mlflow.tracking", SimpleNamespace(MlflowClient=Client))

    send(runs[0], "mlflow:http://127.0.0.1:5000")

    (client,) = made
    assert client.uri == "http://127.0.0.1:5000"
    assert ("create_experiment", (PROJECT,), {}) in client.calls
    assert ("log_metric", ("7", "validation loss", 0.7), {"step": 1}) in client.calls
    assert client.calls[-1][0] == "set_terminated"


@pytest.mark.slow
def test_tensorboard_reads_what_was_sent(runs, tmp_path):
    """By its own reader of event files."""
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    send(runs[0], f"tensorboard:{tmp_path / 'events'}")

    found = EventAccumulator(str(tmp_path / "events" / runs[0].name)).Reload()
    scalars = [(each.step, each.value) for each in found.Scalars("validation loss")]
    assert scalars == [(0, pytest.approx(0.9)), (1, pytest.approx(0.7)), (2, pytest.approx(0.5))]
    assert found.Scalars("result/test.after.loss")[0].value == pytest.approx(0.45)
    (text,) = found.Tensors("settings/text_summary")
    assert b"training.num_steps" in text.tensor_proto.string_val[0]


@pytest.mark.slow
def test_a_run_sent_again_to_tensorboard_is_there_once(runs, tmp_path):
    """A run that was killed and resumed had 14 points where it has five."""
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(3):
        send(runs[0], f"tensorboard:{tmp_path / 'events'}")

    found = EventAccumulator(str(tmp_path / "events" / runs[0].name)).Reload()
    assert [each.step for each in found.Scalars("validation loss")] == [0, 1, 2]
    assert len(found.Scalars("result/test.after.loss")) == 1


def test_an_unknown_tracker_is_refused_before_anything_is_trained(two):
    """With those that there are."""
    store, names = two
    for command in (
        ["run", "--log-to", "paper:DIR", "--store", store],
        ["send", names[0], "--to", "paper:DIR", "--store", store],
    ):
        result = runner.invoke(app, command)
        assert result.exit_code == 2
        assert all(name in result.stderr for name in TRACKERS)


def test_what_fails_while_it_is_sent_is_closed_and_changes_no_run(runs, two, monkeypatch):
    """A tracker that is away is no reason to lose a run."""
    store, names = two
    before = engine.open_run(store, names[0]).record

    class Away(Heard):
        def log(self, values, step):
            raise OSError("away")

    away = Away()
    monkeypatch.setitem(TRACKERS, "away", lambda place, run: away)
    result = runner.invoke(app, ["send", names[0], "--to", "away", "--store", store])

    assert result.exit_code == 2
    assert all(word in result.stderr for word in ("OSError: away", "mgd send", names[0]))
    assert away.calls[-1][0] == "close"
    assert engine.open_run(store, names[0]).record == before
    assert isinstance(before, RunRecord)
    assert isinstance(runs[0], OpenRun)
