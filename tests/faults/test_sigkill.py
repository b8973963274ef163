"""Bounded samples of the fault rows "SIGKILL of the flow process" and "of a worker"."""

import pytest

from tests.faults import sigkill_flow, sigkill_worker

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]


def test_killed_flow_goes_on_with_the_same_bits(tmp_path):
    """Nothing that was committed is computed again, whatever the process did when it died."""
    done = list(sigkill_flow.trials(tmp_path, 2, seed=1))

    assert len(done) == 2
    assert sum(trial.kills for trial in done) >= 2
    assert all(trial.holds for trial in done), done


@pytest.mark.parametrize(("runner", "package"), [("dask", "prefect_dask"), ("ray", "prefect_ray")])
def test_run_completes_when_a_busy_worker_is_killed(runner, package, tmp_path):
    """A worker is lost with its machine; the cluster has others, and the bits are the same."""
    pytest.importorskip(package)

    done = list(sigkill_worker.trials(tmp_path, 1, runner, seed=1))

    assert len(done) == 1
    assert all(trial.holds for trial in done), done
