"""Who carries stages out: settings that would be ignored are refused, and defaults follow them."""

import pytest
from pydantic import ValidationError

from engine.recipes.execution import RunnerName, WorkersSettings


@pytest.mark.parametrize("runner", RunnerName)
def test_trajectories_are_made_ahead_where_somebody_else_makes_them(runner):
    """In one process the sweep would wait for them."""
    local = runner is RunnerName.LOCAL

    assert WorkersSettings(runner=runner).most_trajectories == (0 if local else 2)
    assert WorkersSettings(runner=runner, lookahead=3).most_trajectories == 3
    assert WorkersSettings(runner=runner, lookahead=0).most_trajectories == 0


@pytest.mark.parametrize(
    "given", [{"num_workers": 2}, {"address": "tcp://host:8786"}, {"gpus_per_stage": 1}]
)
def test_settings_of_a_cluster_are_refused_where_there_is_none(given):
    """Whoever asked for two workers would wait for one."""
    (name,) = given

    with pytest.raises(ValidationError, match=rf"workers.{name} is .*one process and would ignore"):
        WorkersSettings(**given)

    assert getattr(WorkersSettings(runner="dask", **given), name) == given[name]


def test_a_cluster_that_is_there_has_its_own_workers():
    """Their number is not ours to say."""
    with pytest.raises(ValidationError, match=r"num_workers is 2, but the cluster at tcp://host"):
        WorkersSettings(runner="dask", num_workers=2, address="tcp://host:8786")
