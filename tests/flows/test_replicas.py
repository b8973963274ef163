"""One recipe for several training seeds, as a user starts it."""

import json

import pytest

from tests.helpers.machine.commands import finish, mgd, run
from tests.helpers.runs.tiny_recipe import SMALL, as_options

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]


def test_seeds_are_runs_of_their_own_with_the_bits_of_single_runs(tmp_path):
    """Replicas are for error bars: each must be the run that its seed alone would have made."""
    options = as_options(SMALL)
    child = mgd(tmp_path / "both", "run", *options, "--seeds", "0,7",
                "--store", str(tmp_path / "store"), "--json")  # fmt: skip
    output, errors = child.communicate(timeout=580)
    assert child.returncode == 0, errors
    both = json.loads(output.splitlines()[-1])
    alone = finish(run(tmp_path / "alone", tmp_path / "other", "training.seed=7"))

    assert both["seeds"] == [0, 7]
    first, second = both["runs"]
    assert first["run"] != second["run"]
    assert first["digest"] != second["digest"]
    assert second["digest"] == alone["digest"]
    assert second["run"] == alone["run"]

    # What came of each stands below its name, and how to see them side by side at the end.
    names = [first["run"], second["run"]]
    lines = errors.splitlines()
    places = [
        next(i for i, line in enumerate(lines) if line == f"Run: {name} in {tmp_path / 'store'}")
        for name in names
    ]
    heads = [
        max(i for i in range(place) if lines[i].startswith(f"{name}: "))
        for name, place in zip(names, places, strict=True)
    ]
    assert heads[0] < places[0] < heads[1] < places[1]
    assert f"Side by side: mgd compare {' '.join(names)} --store" in errors
