"""A run that is started twice at once: by the automation after a crash, and by a person."""

import pytest

from tests.deployments.site import small
from tests.servers import wait_for

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

ENDS = "Another process is at work on this flow run"


@pytest.mark.parametrize("site", ["postgresql"], indirect=True)
def test_second_process_of_one_run_ends_at_once(site):
    """The automation may set a run to AwaitingRetry that a worker has just taken up.

    What it does a minute after a crash is done here by hand, at the worst moment: while the process
    that Retry has started is at work.
    """
    run = site.killed_run(small(40, "outer.num_steps=100"))
    wait_for("the worker's last word", lambda: site.api.is_put_away(run), 300)

    site.api.retry(run)
    before = site.committed()
    wait_for("the first process at work", lambda: site.committed() > before, 300)
    first = site.api.get(f"/flow_runs/{run}")["infrastructure_pid"]
    site.api.retry(run)  # as the automation does
    wait_for(
        "a second process",
        lambda: site.api.get(f"/flow_runs/{run}")["infrastructure_pid"] != first,
        120,
    )
    wait_for("its end", lambda: any(ENDS in line for line in site.api.logs(run)), 120)
    wait_for("Completed", lambda: site.api.state(run) == "Completed", 600)

    states = site.api.states(run)
    assert states.count("Crashed") == 1, states  # the first process, killed on purpose
    assert "Failed" not in states, states
    assert len(site.api.task_runs(run, "Completed")) == len(
        set(site.api.task_runs(run, "Completed"))
    )
