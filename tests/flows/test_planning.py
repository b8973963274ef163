"""``mgd plan``, and what a run is told to cost beside what it did cost."""

import json

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.descent import descent
from tests.helpers.runs.tiny_recipe import SMALL, as_options, small

cli = CliRunner()


def options(*changes):
    return as_options([*SMALL, *changes])


def test_plan_ends_with_one_json_object_and_leaves_nothing(tmp_path):
    """Scripts that rent machines read it before anything is paid for."""
    store = tmp_path / "store"
    result = cli.invoke(app, ["plan", *options(), "--store", str(store), "--price", "2", "--json"])

    content = json.loads(result.stdout)
    assert result.exit_code == 0
    assert content["reverse_steps"] == 2  # those from the injection on
    parts = {"step", "train", "reverse", "evaluate", "seed", "update"}
    assert content["seconds"].keys() == {"outer_step", "run", *parts}
    assert content["price"] == pytest.approx(2 * content["seconds"]["run"] / 3600)
    assert all(
        each["seconds"]["run"] >= content["seconds"]["run"] for each in content["alternatives"]
    )
    assert not store.exists() or list(store.rglob("*.json")) == []


def test_plan_shows_a_table_and_the_settings_to_use():
    """People copy the last line."""
    result = cli.invoke(app, ["plan", *options()])

    assert result.exit_code == 0
    assert "store-all" in result.stdout
    assert "--set replay.schedule=" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["digits-selektion"], ["digits-selektion", "digits-selection"]),
        (["--set", "replay.max_device_bytes=10"], ["No schedule fits", "replay.max_", "is 10"]),
        (["--set", "replay.unroll=0"], ["replay.unroll is 0", "greater than or equal to 1"]),
        (["--set", "replay.num_slots=3"], ["replay.num_slots is 3", "binomial"]),
    ],
    ids=["unknown recipe", "no memory", "no graph", "slots of a tree"],
)
def test_what_cannot_be_planned_is_refused_in_one_message(arguments, words):
    """Value, reason and remedy; no traceback."""
    result = cli.invoke(app, ["plan", *arguments])

    assert result.exit_code == 2
    assert all(word in result.output for word in words)
    assert "Traceback" not in result.output


def test_negative_price_is_refused():
    """A typing error would make every plan free."""
    result = cli.invoke(app, ["plan", "--price", "-1"])

    assert result.exit_code == 2
    assert "price" in result.output  # its hyphens may be in another colour


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_show_has_predicted_beside_actual(tmp_path):
    """A forecast that nobody compares is worth nothing; its bytes are exact."""
    record = descent(small("replay.schedule=auto"), str(tmp_path))

    shown = cli.invoke(app, ["show", record.run, "--store", str(tmp_path), "--json"])
    printed = cli.invoke(app, ["show", record.run, "--store", str(tmp_path)]).stdout

    seconds, written = json.loads(shown.stdout)["work"]["forecast"]
    assert written["what"] == "bytes written"
    assert written["predicted"] == written["actual"] > 0
    assert seconds["predicted"] > 0
    assert "predicted" in printed
