"""No password that a library puts into what it raises gets into Prefect's database."""

import logging

import pytest
from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client

from tasks.running.sentences import say_one_sentence

SECRET = "S3CRETword"


def fail():
    raise ConnectionError(f"at https://alice:{SECRET}@host/data")


@task
def connect():
    try:
        fail()
    except ConnectionError as error:
        raise ValueError(f"no log-in as alice:{SECRET}@db.example.org") from error


ended = []


@flow
def connecting():
    get_run_logger().warning("alice:%s@host is away", SECRET)
    ended.append(connect(return_state=True))
    return ended[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_neither_lines_nor_states_have_a_password(monkeypatch, caplog, capsys):
    """Whoever may look at the UI reads both, for as long as the server keeps them."""
    sent = []
    monkeypatch.setattr("prefect.logging.handlers._api_log_sink", sent.append)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        caplog.set_level(logging.INFO, logger=name)
    say_one_sentence()

    state = connecting(return_state=True)

    with get_client(sync_client=True) as client:
        kept = client.read_flow_run(state.state_details.flow_run_id).state
    lines = [each["message"] for each in sent]
    assert ended[0].message.endswith("ValueError: no log-in as alice:***@db.example.org")
    assert any("alice:***@db.example.org" in each for each in lines)
    assert any("https://alice:***@host/data" in each and "Traceback" in each for each in lines)
    assert any("alice:***@host is away" in each for each in lines)
    assert SECRET not in str([kept.message, ended[0].message, *lines, *capsys.readouterr()])
