"""``mgd check`` and ``mgd verify``: what they print, their JSON, and their exit codes."""

import json
import os
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from engine.applications import verifying
from engine.errors import UntrustworthyError
from flows.cli.app import app
from flows.cli.terminal.one_message import UNTRUSTWORTHY, one_message
from tests.helpers.runs.finished import finish
from tests.helpers.runs.forgery import forge, moved, settings
from tests.helpers.runs.tiny_recipe import SMALL, as_options

pytestmark = pytest.mark.slow

cli = CliRunner()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store with one finished run, its record, and the recipe as a file."""
    folder = tmp_path_factory.mktemp("finished")
    record = finish(settings(), str(folder / "store"))
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings().model_dump(mode="json", exclude_none=True)))
    return str(folder / "store"), record, str(path)


def test_check_passes_a_sound_recipe_and_exits_with_0(finished):
    """The JSON has the fields that other programs read."""
    store, _, path = finished

    result = cli.invoke(app, ["check", path, "--store", store, "--json"])

    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["recipe"] == "tiny"
    assert content["verdict"] in ("pass", "warn")
    assert {"replay", "whole-run-autograd", "central-differences", "eps-root"} <= {
        each["name"] for each in content["checks"]
    }
    for each in content["checks"]:
        assert each.keys() == {
            *("name", "verdict", "value", "limit", "cause", "remedy", "settings")
        }
        assert each["verdict"] in ("pass", "warn", "refuse")
        assert each["cause"]
        assert each["remedy"] or each["verdict"] == "pass"


def test_check_refuses_a_run_that_diverges_and_exits_with_3(finished):
    """Its metagradient says how to disturb the training, and not how to help it."""
    store, _, path = finished
    command = ["check", path, "--store", store, "--set", "training.learning_rate=1000"]

    result = cli.invoke(app, [*command, "--json"])
    told = cli.invoke(app, command)  # the result stays in the store, so this shows the same

    assert result.exit_code == told.exit_code == UNTRUSTWORTHY == 3
    content = json.loads(result.stdout)
    assert content["verdict"] == "refuse"
    (found,) = [each for each in content["checks"] if each["name"] == "training"]
    assert found["verdict"] == "refuse"
    assert found["value"] > found["limit"]
    assert found["settings"] == ["training.learning_rate"]
    assert "training.learning_rate" in told.stdout
    assert "tiny: refuse" in told.stdout


def test_check_of_an_impossible_recipe_is_a_refusal_of_its_settings(finished):
    """Exit code 2 is for what no run could do, 3 for what no run should be believed."""
    store, _, path = finished

    result = cli.invoke(app, ["check", path, "--store", store, "--set", "replay.arity=1"])

    assert result.exit_code == 2


def test_verify_keeps_a_certificate_that_show_shows(finished):
    """The next reader of the result sees that somebody has made parts of it again."""
    store, record, _ = finished
    for file in Path(store, "runs", record.run).iterdir():
        os.utime(file, (file.stat().st_mtime - 60,) * 2)  # verified long after its end

    result = cli.invoke(app, ["verify", "tiny", "--seed", "3", "--store", store, "--json"])

    assert result.exit_code == 0, result.output
    certificate = json.loads(result.stdout)
    assert certificate["verdict"] == "pass"
    assert os.path.exists(os.path.join(store, "runs", record.run, "certificate.json"))
    shown = json.loads(cli.invoke(app, ["show", "tiny", "--store", store, "--json"]).stdout)
    assert (shown["certificate"], shown["standing"]) == (certificate, "finished")
    told = cli.invoke(app, ["show", "tiny", "--store", store])
    assert "UTC: pass" in told.stdout


def test_verify_tells_its_verdict_where_it_cannot_be_kept(finished, monkeypatch):
    """A store that may only be read is verified by whoever doubts it."""
    store, _, _ = finished

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied", "certificate.json")

    monkeypatch.setattr(verifying, "write_record", refuse)

    told = cli.invoke(app, ["verify", "tiny", "--seed", "3", "--store", store])
    result = cli.invoke(app, ["verify", "tiny", "--seed", "3", "--store", store, "--json"])

    assert (told.exit_code, result.exit_code) == (0, 0), told.output
    assert "tiny-" in told.stdout
    assert "Kept beside" not in told.output
    assert "Not kept beside the result; --seed 3 repeats it." in told.stderr
    assert "Permission denied" in told.stderr
    assert json.loads(result.stdout)["verdict"] == "pass"
    assert "Permission denied" in json.loads(result.stdout)["unkept"]


def test_verify_of_a_changed_run_exits_with_3(finished):
    """Its last state was changed, and everything about that state rewritten to agree."""
    store, record, _ = finished
    forge(store, record.iterates[0].final, moved("exp_avg", 1e-9))

    result = cli.invoke(app, ["verify", "tiny", "--seed", "3", "--store", store])

    assert result.exit_code == UNTRUSTWORTHY
    assert "refuse" in result.stdout
    shown = cli.invoke(app, ["show", "tiny", "--store", store])
    assert "UTC: refuse" in shown.stdout


def test_a_refusal_by_the_preflight_has_an_exit_code_of_its_own():
    """It is a kind of refusal too; scripts tell it from a setting that is impossible."""
    with pytest.raises(BaseException) as caught, one_message(debug=False):  # noqa: PT011
        raise UntrustworthyError("The preflight refuses this run.")

    assert caught.value.exit_code == UNTRUSTWORTHY


def test_run_that_the_preflight_refuses_exits_with_3_before_it_trains(prefect_server, tmp_path):
    """Hours of training would only make noise; one message says why, and how to go on."""
    settings_ = as_options(SMALL)
    wild = ["--set", "optimizer.name=adam", "--set", "training.learning_rate=1000"]

    done = cli.invoke(app, ["run", *settings_, *wild, "--store", str(tmp_path)])

    assert done.exit_code == UNTRUSTWORTHY, done.stderr
    assert "training: " in done.stderr
    assert "did not lower the loss of the first batch" in done.stderr
    assert "preflight=advise" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "stages").iterdir()] == ["preflight"]
