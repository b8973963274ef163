"""A result that is not the one that was written is told, and never shown, compared or judged."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.applications.kinds import read_finished
from engine.applications.open_run import open_run
from engine.applications.verifying import verify_run
from engine.errors import CheckpointCorruptError
from engine.runs.endings import intact, sealed
from flows.cli.app import app
from tests.helpers.runs.finished import finish
from tests.helpers.runs.forgery import settings

cli = CliRunner()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A store with a finished run."""
    store = tmp_path_factory.mktemp("sealed")
    return store, finish(settings(), str(store)).run


@pytest.fixture
def finished(original, tmp_path):
    """A copy of it, and the record of the run."""
    store, run = original
    shutil.copytree(store, tmp_path / "store")
    return str(tmp_path / "store"), run, tmp_path / "store" / "runs" / run / "run.json"


def a_digit(record: Path) -> str:
    """Change one digit of the loss in the sentence that sums the run up; return the old text."""
    text = record.read_text()
    found = re.search(r'"loss": ?\d\.(\d)', text)
    assert found is not None
    place = found.start(1)
    record.write_text(f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}")
    return text


def said(*words, store):
    result = cli.invoke(app, [*words, "--store", store], env={"COLUMNS": "300"})
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize(
    "read", [read_finished, open_run, verify_run], ids=["read_finished", "open_run", "verify_run"]
)
def test_a_changed_digit_is_found_by_whoever_reads_the_result(read, finished):
    """It was a number like any other: nothing else in the store was asked for it."""
    store, run, record = finished
    a_digit(record)

    with pytest.raises(CheckpointCorruptError, match=f"result of run {run} is damaged.*mgd resume"):
        read(store, run)


def test_a_changed_digit_is_told_by_commands(finished):
    """The page that `open` shows was made before; the others show what the record says."""
    store, run, record = finished
    whole = a_digit(record)
    shown = {words: said(*words, store=store) for words in [("show",), ("show", run)]}
    code, compared = said("compare", run, run, store=store)
    as_json = json.loads(said("show", run, "--json", store=store)[1])

    for ended, words in shown.values():
        assert ended == 0
        assert f"result of run {run} is damaged" in words
        assert "nats" not in words
    assert code == 1
    assert "is damaged" in compared
    assert as_json["work"]["is_damaged"]
    assert "iterates" not in as_json
    record.write_text(whole)
    assert "is damaged" not in said("show", run, store=store)[1]


def test_a_damaged_result_is_written_again_by_the_next_start(finished):
    """From the stages, which have digests of their own; none of them is made again."""
    store, run, record = finished
    before = json.loads(record.read_text())
    a_digit(record)

    again = finish(settings(), store)

    after = json.loads(record.read_text())
    assert after["seal"]
    assert after["iterates"] == before["iterates"]
    assert read_finished(store, run).headline() == again.headline()


def test_a_seal_is_of_everything_else_in_a_record():
    """A record of an earlier version has none, and is read as it is."""
    record = {"run": "a", "ending": {"numbers": [1.5, float(2**53), 1e-300]}, "digest": "data's"}
    written = json.loads(json.dumps(sealed(record)))

    assert intact(written) == record
    assert intact(record) is record
    assert intact(None) is None
    for name in ("run", "ending", "digest"):
        assert intact({**written, name: "other"}) is None
        assert intact({key: value for key, value in written.items() if key != name}) is None
    assert intact({**written, "more": 1}) is None
