"""A run that is started twice at once: by the automation after a crash, and by a person."""

import logging
from pathlib import Path

import pytest

from tests.deployments.site import small
from tests.helpers.machine.servers import wait_for

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]

ENDS = "Another process is at work on this flow run"


@pytest.mark.parametrize("site", ["postgresql"], indirect=True)
def test_older_process_of_one_run_ends_at_once(site):
    """The automation may set a run to AwaitingRetry that a worker has just taken up.

    What it does a minute after a crash is done here by hand, at the worst moment: while the process
    that Retry has started is at work. The newer process has to be the one that stays: Prefect lets
    a run crash whose process has lost its place in the limit of the deployment.
    """
    recipe = small(
        40, "outer.num_steps=150"
    )  # so long that the second process begins before its end
    run = site.killed_run(recipe)
    wait_for("the worker's last word", lambda: site.api.is_put_away(run))

    site.api.retry(run)
    before = site.committed()
    wait_for("the first process at work", lambda: site.committed() > before)
    first = site.api.get(f"/flow_runs/{run}")["infrastructure_pid"]
    site.api.retry(run)  # as the automation does
    wait_for("its end", lambda: not Path(f"/proc/{first}").exists())
    site.api.ends(run)

    assert site.api.get(f"/flow_runs/{run}")["infrastructure_pid"] != first
    assert any(ENDS in line for line in site.api.logs(run, logging.WARNING))
    states = site.api.states(run)
    assert states.count("Crashed") == 1, states  # the one that was killed on purpose
    assert "Failed" not in states, states
    assert site.record(recipe).stages.total > 0
    # Task runs reach the database some time after their flow run.
    wait_for("one report", lambda: site.api.named(run, "report") == ["Completed"])
    wait_for("an end", lambda: not site.api.task_runs(run, "Running", "Pending"))
