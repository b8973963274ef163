"""Where people see what a run shows in Prefect's UI."""

import logging

import pytest
from prefect import flow, settings, task
from prefect.runtime import flow_run
from prefect.settings import temporary_settings

from tasks.running import artifacts
from tasks.running.artifacts import ui_address

API, UI = settings.PREFECT_API_URL, settings.PREFECT_UI_URL
CLOUD = "accounts/1/workspaces/2"


@pytest.mark.parametrize(
    ("given", "address"),
    [
        # A link is kept in Prefect's database and seen by all who may look at the run.
        ({API: "https://alice:S3CRETPW@host:8/a@b/api"}, "https://host:8/a@b/v2/x"),
        ({API: "http://h/api", UI: "https://t%40ken@host"}, "https://host/v2/x"),
        ({API: "http://127.0.0.1:4200/api"}, "http://127.0.0.1:4200/v2/x"),
        ({API: "http://server:4200/api", UI: "http://127.0.0.1:4"}, "http://127.0.0.1:4/v2/x"),
        ({API: "http://server:4200/api", UI: "https://here/v2/"}, "https://here/v2/x"),
        (
            {API: f"https://api.prefect.cloud/api/{CLOUD}", UI: "https://app.prefect.cloud/a"},
            "https://app.prefect.cloud/a/x",
        ),
        ({settings.PREFECT_SERVER_UI_ENABLED: False, API: "http://127.0.0.1:4200/api"}, None),
    ],
)
def test_page_of_the_ui_that_people_reach(given, address):
    """Containers reach the server by another name; Prefect's own has one UI; ours may have none."""
    with temporary_settings(given):
        assert ui_address("/x") == address


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_what_came_of_a_task_is_in_the_log_of_its_run():
    """The log of a task run shows warnings alone, and a check ended with Completed and no word."""
    said = []

    class Heard(logging.Handler):
        def emit(self, record):
            said.append((record.getMessage(), record.flow_run_id))

    @task
    def judge():
        artifacts.say_in_ui("digits-selection: pass")

    @flow
    def check():
        judge()
        return str(flow_run.id)

    handler = Heard()
    levels = {"flow_runs": logging.INFO, "task_runs": logging.WARNING}
    loggers = {logging.getLogger(f"prefect.{each}"): level for each, level in levels.items()}
    before = {each: each.level for each in loggers}
    for logger, level in loggers.items():
        logger.addHandler(handler)
        logger.setLevel(level)
    try:
        run = check()
    finally:
        for logger, level in before.items():
            logger.removeHandler(handler)
            logger.setLevel(level)

    assert ("digits-selection: pass", run) in said
