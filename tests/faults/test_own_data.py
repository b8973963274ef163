"""The row "a run on a stranger's data": one of it, and all of it where it is asked for."""

import pytest

from tests.faults.own_data import EVERY, trials
from tests.helpers.data import own_data

pytestmark = pytest.mark.timeout(7200)


def tried(asked, folder):
    """Try questions; skip data that are not here, saying so."""
    missing = {data: own_data.why_not(data) for data, _ in asked}
    there = [each for each in asked if not missing[each[0]]]
    if not there:
        pytest.skip("; ".join(filter(None, missing.values())))
    done = list(trials(folder, there, seed=1))
    assert len(done) == len(there)
    assert all(trial.holds for trial in done), done


@pytest.mark.servers
def test_poison_of_a_table_is_killed_resumed_and_run_on_dask(tmp_path):
    """The same bits three times, and a report that names the rows."""
    pytest.importorskip("prefect_dask")
    tried([("table", "poison")], tmp_path)


@pytest.mark.servers
def test_mixture_of_ones_own_script_is_killed_resumed_and_run_on_dask(tmp_path):
    """Its model, metric, optimizer, sampler, groups and carried state, read by each process."""
    pytest.importorskip("prefect_dask")
    tried([("script", "mixture")], tmp_path)


@pytest.mark.exhaustive
@pytest.mark.servers
@pytest.mark.parametrize("data", own_data.MAKERS)
def test_every_question_about_every_kind_of_data(data, tmp_path):
    """Folder of photographs, Parquet table and instruction set."""
    pytest.importorskip("prefect_dask")
    tried([each for each in EVERY if each[0] == data], tmp_path)
