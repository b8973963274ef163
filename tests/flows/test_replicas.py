"""One recipe for several training seeds, as a user starts it."""

import pytest

from tests.commands import finish, mgd, run
from tests.tiny_recipe import SMALL, as_options

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]


def test_seeds_are_runs_of_their_own_with_the_bits_of_single_runs(tmp_path):
    """Replicas are for error bars: each must be the run that its seed alone would have made."""
    options = as_options(SMALL)
    both = finish(
        mgd(tmp_path / "both", "run", *options, "--seeds", "0,7",
            "--store", str(tmp_path / "store"), "--json")
    )  # fmt: skip
    alone = finish(run(tmp_path / "alone", tmp_path / "other", "training.seed=7"))

    assert both["seeds"] == [0, 7]
    first, second = both["runs"]
    assert first["run"] != second["run"]
    assert first["digest"] != second["digest"]
    assert second["digest"] == alone["digest"]
    assert second["run"] == alone["run"]
