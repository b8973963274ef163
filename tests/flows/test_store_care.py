"""Budgets, house-keeping and ``mgd show`` on the stores that real runs leave."""

import json
import re
import shutil

import pytest
from prefect.client.orchestration import get_client
from typer.testing import CliRunner

from engine.errors import BudgetSpentError, ConfigurationError
from engine.recipes.files import load_recipe
from engine.recipes.names import run_name
from engine.runs.budget import with_budget
from engine.runs.overview import Standing, overview
from engine.stages import commits
from flows.clean import clean
from flows.cli.app import app
from flows.cli.terminal.one_message import SPENT, one_message
from flows.descent import descent
from tests.helpers.runs.tiny_recipe import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

cli = CliRunner()


def small(*changes):
    return load_recipe("digits-selection", [*SMALL, "outer.num_steps=1", *changes])


def committed(folder):
    return sorted(path.parent.name for path in folder.glob("stages/*/*/record.json"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, prefect_server):
    """A run that stopped at its first border, and what it said."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.raises(BudgetSpentError) as caught:
        descent(small("budget.max_seconds=1e-9"), str(folder))
    return folder, str(caught.value), committed(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prefect_server):
    """A store with one finished run, and its record."""
    store = tmp_path_factory.mktemp("finished") / "store"
    return store, descent(small(), str(store))


@pytest.fixture
def own(finished, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(finished[0], tmp_path / "own"), finished[1]


@pytest.mark.slow
def test_budget_stops_after_the_commit_and_says_how_to_go_on(stopped):
    """What was computed on rented machines must be there afterwards, and be used."""
    folder, message, found = stopped
    run = run_name(small())

    assert len(found) == 1
    assert overview(str(folder), run).totals.committed == 1
    for words in (run, "budget.max_seconds is 1e-09", "1 of 13 stages", f"mgd resume {run}"):
        assert words in message


def test_run_that_has_spent_its_budget_is_failed_with_the_reason(stopped):
    """Failed is what the UI can retry; the reason is read there."""
    with get_client(sync_client=True) as client:
        states = [run.state for run in client.read_flow_runs()]

    assert any(state.name == "Failed" and "budget.max_seconds" in state.message for state in states)


@pytest.mark.slow
def test_same_budget_again_buys_the_same_again(tmp_path):
    """Retry and a nightly schedule have the same parameters, and must get on all the same."""
    recipe = small("budget.max_seconds=1e-9")
    for _ in range(2):
        with pytest.raises(BudgetSpentError):
            descent(recipe, str(tmp_path))

    assert len(committed(tmp_path)) == 2


@pytest.mark.slow
def test_larger_budget_is_the_same_run_and_goes_on(stopped):
    """A budget is no part of a run's name: finished stages are cached."""
    folder, _, before = stopped

    record = descent(with_budget(small(), max_seconds=1e6, max_bytes=10**12), str(folder))

    assert record.run == run_name(small())
    assert record.stages.cached == len(before)
    assert record.recipe.budget.max_seconds == 1e6


@pytest.mark.slow
def test_bytes_stop_a_run_until_it_may_take_more(tmp_path):
    """A second start does not make the store smaller."""
    recipe = small("budget.max_bytes=1")
    for _ in range(2):
        with pytest.raises(BudgetSpentError, match=r"budget.max_bytes is 1.*--max-bytes"):
            descent(recipe, str(tmp_path))

    assert len(committed(tmp_path)) == 2  # the preflight writes no rows


@pytest.mark.slow
def test_stages_of_another_run_cost_nothing(own):
    """What is found in the store was paid for by whoever computed it."""
    folder, first = own

    with pytest.raises(BudgetSpentError):
        descent(small("outer.num_steps=2", "budget.max_seconds=1e-9"), str(folder))

    assert len(committed(folder)) == first.stages.total + 1


def test_spent_budget_has_an_exit_code_of_its_own(capsys):
    """A script that starts runs again must tell it from a failure."""
    with pytest.raises(Exception) as ended, one_message(debug=False):  # noqa: PT011 (typer's)
        raise BudgetSpentError("The budget is spent.")

    assert ended.value.exit_code == SPENT == 4
    assert capsys.readouterr().err.strip() == "The budget is spent."


def test_wrong_limit_is_refused():
    """A budget of zero would stop every run before it has done anything."""
    with pytest.raises(ConfigurationError, match="max_seconds is 0"):
        with_budget(small(), max_seconds=0.0)


@pytest.mark.slow
def test_cleaned_run_keeps_its_result_and_can_be_repeated(own):
    """Freed states are made again, with the same bits, if somebody asks for them."""
    folder, record = own
    store = str(folder)
    before = len(committed(folder))

    looked = clean(store, intermediate=True, grace_hours=0)
    assert len(committed(folder)) == before
    freed = clean(store, intermediate=True, grace_hours=0, delete=True)

    names = {each.name for each in looked.freed}
    assert {each.name for each in freed.freed} == names
    assert len(committed(folder)) == before - sum(name.count("/") for name in names)
    for iterate in record.iterates:
        commits.read_rows(store, iterate.value)
    commits.read_rows(store, record.iterates[0].gradient)
    commits.read_rows(store, record.iterates[record.chosen].final)
    assert overview(store, record.run).standing is Standing.FINISHED
    assert descent(small(), store).digest == record.digest


@pytest.mark.slow
def test_show_tells_stages_and_what_they_took(own):
    """Who pays for GPUs wants to know what a run cost, and what was used again."""
    folder, record = own
    store = str(folder)
    descent(small(), store)

    shown = json.loads(cli.invoke(app, ["show", record.run, "--store", store, "--json"]).stdout)
    listed = json.loads(cli.invoke(app, ["show", "--store", store, "--json"]).stdout)
    printed = cli.invoke(app, ["show", record.run, "--store", store]).stdout

    work = shown["work"]
    assert shown["digest"] == record.digest
    assert [line["name"] for line in work["stages"]][:3] == [
        "preflight", "initial metaparameters", "train[0] 0-5",
    ]  # fmt: skip
    assert work["totals"]["stages"] == work["totals"]["cached"] == record.stages.total
    assert work["totals"]["seconds"] == pytest.approx(sum(s["seconds"] for s in work["stages"]))
    assert work["totals"]["bytes"] == sum(s["bytes"] for s in work["stages"]) > 0
    assert [run["run"] for run in listed] == [record.run]
    assert "train[1] 10-12" in printed
    assert "GPU-seconds" not in printed  # there was none


@pytest.mark.slow
def test_a_run_stopped_while_its_report_was_written_gets_it_at_the_next_start(own):
    """Until then nobody is sent to a page that is not there."""
    folder, record = own
    report = folder / "runs" / record.run / "report.html"
    before = re.findall("<h[123]>[^<]+", report.read_text())
    report.unlink()

    for command in ("show", "open"):
        result = cli.invoke(app, [command, record.run, "--store", str(folder)])
        assert f"`mgd resume {record.run} --store {folder}`" in result.output
        assert "report.html" not in result.output
    again = descent(small(), str(folder))

    assert again.nothing_computed
    assert (again.digest, again.seconds) == (record.digest, record.seconds)
    assert re.findall("<h[123]>[^<]+", report.read_text()) == before != []


def test_show_of_an_unfinished_run_says_how_to_go_on(tmp_path):
    """A run that was interrupted is the one that is asked about most."""
    with pytest.raises(BudgetSpentError):
        descent(small("budget.max_seconds=1e-9"), str(tmp_path))

    shown = cli.invoke(app, ["show", "digits", "--store", str(tmp_path)])

    assert shown.exit_code == 0
    assert "has not finished" in shown.stdout
    assert f"mgd resume {run_name(small())}" in shown.stdout


def test_clean_from_the_command_line_looks_first(own):
    """Nothing is deleted by a command that was only tried."""
    folder, record = own
    options = ["clean", "--store", str(folder), "--run", record.run, "--json"]

    looked = json.loads(cli.invoke(app, options).stdout)
    assert (folder / "runs" / record.run / "run.json").exists()
    deleted = json.loads(cli.invoke(app, [*options, "--yes"]).stdout)

    assert looked["bytes"] == deleted["bytes"] > 0
    assert (looked["deleted"], deleted["deleted"]) == (False, True)
    assert committed(folder) == []
    assert not (folder / "runs" / record.run).exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--older-than", "7"], ["'7'", "7d"]),
        (["--keep", "-1"], ["keep is -1"]),
        (["--store", ""], ["location", "--store"]),
    ],
)
def test_wrong_options_of_clean_are_refused_in_one_message(options, words, tmp_path):
    """A slip must not delete more than was meant."""
    result = cli.invoke(app, ["clean", "--store", str(tmp_path), *options])

    assert result.exit_code == 2
    assert all(word in result.stderr for word in words), result.stderr
