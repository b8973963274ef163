"""A bounded sample of the fault row "Prefect server restarted in mid-run"."""

from contextlib import ExitStack

import pytest

from tests.faults import server_restart
from tests.helpers.machine.servers import postgresql

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_run_completes_when_its_server_is_restarted(database, tmp_path):
    """A server is upgraded more often than a long run ends; the run must not notice."""
    with ExitStack() as stack:
        url = stack.enter_context(postgresql(tmp_path)) if database == "postgresql" else None
        done = list(server_restart.trials(tmp_path, 2, seed=1, database=url))

    assert len(done) == 2
    assert all(trial.holds for trial in done), done
