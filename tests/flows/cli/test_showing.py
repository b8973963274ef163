"""What ``mgd plan`` prints of a long run in a narrow terminal."""

import subprocess

import pytest

from engine.planning.forecast import Forecast
from engine.recipes.replay import ScheduleName
from engine.runs.store_mark import mark_store
from engine.storage.places import RECIPE, STARTS, run_file
from engine.storage.records import write_record
from flows.cli.showing import show_plan, show_runs

PLANNED = [each for each in ScheduleName if each is not ScheduleName.AUTO]


def planned(schedule):
    """What weeks on a GPU with one schedule take."""
    names = ("step", "train", "evaluate", "seed", "reverse", "update")
    return {
        "schedule": schedule,
        "segments": 120,
        "unroll": 128,
        "forward_steps": 360_000,
        "reverse_steps": 120_000,
        "peak_bytes": {"graphs": 12 * 10**9, "device": 10**8, "host": 10**7, "store": 123 * 10**9},
        "written_bytes": 10**12,
        "seconds": dict.fromkeys(names, 1.0) | {"outer_step": 45_000.0, "run": 900_000.0},
        "settings": {"replay.schedule": schedule, "replay.steps_per_segment": 1000},
    }


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_plan_fits_into_the_terminal_with_whole_words(columns, monkeypatch, capsys):
    """Its right edge was cut off at 80 columns, and with it the time that a run takes."""
    monkeypatch.setenv("COLUMNS", str(columns))
    forecast = planned(PLANNED[0]) | {"alternatives": [planned(each) for each in PLANNED[1:]]}

    show_plan(Forecast.model_validate(forecast))

    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line[:1] in "┏┃┡│└"]
    assert {len(line) for line in table} == {len(table[0])}
    assert len(table[0]) <= columns
    words = {word for line in table for word in line.translate({ord(e): " " for e in "│┃"}).split()}
    assert {*PLANNED, "unroll", "memory", "360000", "120000", "12.1", "250"} <= words


def test_a_plan_explains_its_columns(capsys):
    """Nobody can guess what a number below unroll counts."""
    show_plan(Forecast.model_validate(planned(PLANNED[0]) | {"alternatives": []}))

    _, _, told = capsys.readouterr().out.rpartition("└")
    for head in ("parts are", "unroll the steps", "steps are", "memory is"):
        assert head in " ".join(told.split())


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_a_list_of_runs_fits_into_the_terminal_and_breaks_no_name(
    columns, tmp_path, monkeypatch, capsys
):
    """At 60 columns the right edge was cut off; at 40 nothing has room but a broken name."""
    monkeypatch.setenv("COLUMNS", str(columns))
    store, name = str(tmp_path), f"fashion-canaries-7baa-{'4' * 8}"
    mark_store(store)
    write_record(run_file(store, name, RECIPE), {"name": "fashion-canaries", "kind": "descent"})
    cause = "The loss of step 3 is not finite, and so is everything that comes after it."
    start = {"started": "2026-01-01T12:00:00Z", "stopped": "2026-01-01T12:30:00Z", "cause": cause}
    write_record(f"{run_file(store, name, STARTS)}/{'a' * 32}.json", start)

    show_runs(store, as_json=False)

    lines = capsys.readouterr().out.splitlines()
    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(lines[0]) <= columns
    assert any(name in line for line in lines) or columns == 40
    assert {*cause.split()} <= {word for line in lines for word in line.split()}


def test_what_a_plan_says_to_use_it_can_be_pasted_at_once(capsys):
    """A shell reads the lines as the options of one command."""
    forecast = planned(PLANNED[0]) | {"alternatives": []}

    show_plan(Forecast.model_validate(forecast))

    told = capsys.readouterr().out.partition("To use it:\n")[2]
    words = subprocess.check_output(["sh", "-c", f"printf '%s\n' {told}"], text=True).split()
    assert words == [
        *("--set", f"replay.schedule={PLANNED[0]}"),
        *("--set", "replay.steps_per_segment=1000"),
    ]
