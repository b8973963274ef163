"""Which names in a store are the engine's own."""

import pytest

from engine.storage.names import claimed_label, is_result, is_run, is_run_file, own_stage

KEY = "0123456789abcdef" * 2
HEX = "a" * 32


@pytest.mark.parametrize(
    "path",
    [
        f"train/{KEY}/record.json",
        f"seed-queries/{KEY}/leases/00000012.json",
        f"train/{KEY}/attempts/00000001-0badcafe/zarr.json",
        f"train/{KEY}/attempts/00000001-0badcafe/params/zarr.json",
        f"train/{KEY}/attempts/00000001-0badcafe/exp_avg/c/0/12",
        f"train/{KEY}/attempts/00000001-0badcafe/committed/zarr.json",
        f"train/{KEY}/attempts/00000001-0badcafe/committed/00000000/zarr.json",
        f"train/{KEY}/.record.json.{HEX}.partial",
        f"train/{KEY}/leases/.00000001.json.{HEX}.partial",
        f"train/{KEY}/attempts/00000001-0badcafe/params/c/0/0.{HEX}.partial",
    ],
)
def test_files_of_a_stage_are_known(path):
    """Also those that a killed process did not write to their end."""
    stage = path.split("/")[0]

    assert own_stage(path) == (stage, KEY)


@pytest.mark.parametrize(
    "path",
    [
        "notes.txt",
        "one/two/notes.txt",
        f"train/{KEY}",
        f"train/{KEY}/notes.txt",
        f"train/{KEY}/record.json/x",
        f"train/{KEY}/record.json\n",
        f"train/{KEY[:-1]}/record.json",
        f"train/{KEY.upper()}/record.json",
        f"mine/{KEY}/record.json",
        f"train/{KEY}/attempts/mine/zarr.json",
        f"train/{KEY}/attempts/00000001-0badcafe/notes.md",
        f"../train/{KEY}/record.json",
    ],
)
def test_other_files_below_stages_are_not(path):
    """Whoever keeps notes beside a checkpoint keeps them."""
    assert own_stage(path) is None


def test_runs_and_their_files_are_known_by_name():
    """And nothing that only looks like them."""
    assert is_run("digits-selection-0123abcd")
    assert not any(map(is_run, ["exp1", "run", "Run-0123abcd", "run-0123ABCD", "run-0123abcd-2"]))
    ours = ["recipe.json", "report.html", f"stages/seed-queries-{KEY}.json", f"starts/{HEX}.json"]
    ours += [f".run.json.{HEX}.partial", f"stages/.train-{KEY}.json.{HEX}.partial"]
    assert all(map(is_run_file, ours))
    theirs = ["notes.md", "report2.html", "figures/report.html", "stages/recipe.json"]
    theirs += [f"stages/mine-{KEY}.json", "starts/mine.json", f".notes.md.{HEX}.partial"]
    assert not any(map(is_run_file, theirs))
    assert claimed_label(f"seed-queries-{KEY}.json") == f"seed-queries-{KEY}"
    assert claimed_label("notes.json") is None
    assert is_result(f"train-at-{KEY}")
    assert not any(map(is_result, ["table.csv", f"figs/train-{KEY}", f"train-{KEY}.png"]))
