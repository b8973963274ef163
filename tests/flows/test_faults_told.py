"""What a person is told of a fault: on the terminal, by the exit code, and in the UI's logs."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.faults import disk_full
from tests.helpers.machine.servers import PrefectServer
from tests.helpers.runs.tiny_recipe import SMALL, as_options

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of the user's own, as ``PREFECT_API_URL`` names it."""
    with PrefectServer(tmp_path_factory.mktemp("server")) as server:
        # As people have it: conftest.py silences the processes of other tests.
        server.environment.pop("PREFECT_LOGGING_LEVEL")
        yield server


def run(server, store):
    """Carry out a run by its command; return the finished process."""
    options = as_options(SMALL)
    return subprocess.run(
        [sys.executable, "-m", "flows.cli.app", "run", *options, "--store", str(store), "--json"],
        env=server.environment, cwd=Path(__file__).parents[2], capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def digest_of(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])["digest"]


def logs_of_the_last_run(server):
    """Return the lines that the UI shows of the newest flow run and its task runs."""
    with httpx.Client(base_url=server.url, timeout=300) as http:
        newest = {"sort": "EXPECTED_START_TIME_DESC", "limit": 1}
        (flow_run,) = http.post("/flow_runs/filter", json=newest).json()
        of_it = {"logs": {"flow_run_id": {"any_": [flow_run["id"]]}}, "limit": 200}
        return [line["message"] for line in http.post("/logs/filter", json=of_it).json()]


def test_reason_of_a_repair_is_on_the_terminal_and_in_the_ui(server, tmp_path):
    """A cached stage that is computed again costs money, and somebody will ask why."""
    store = tmp_path / "store"
    expected = digest_of(run(server, store))
    chunk = sorted(store.glob("stages/train/*/attempts/*/*/c/*/*"))[0]
    chunk.write_bytes(chunk.read_bytes()[:-1])
    key = chunk.relative_to(store).parts[2][:8]

    repaired = run(server, store)

    assert digest_of(repaired) == expected
    reason = f"train {key} is made again: "
    assert reason in " ".join(repaired.stderr.split())
    assert any(line.startswith(reason) for line in logs_of_the_last_run(server))


def test_full_disk_ends_the_command_with_one_message(server, tmp_path):
    """Whoever reads it must learn what to do, and that nothing is lost."""
    if reason := disk_full.why_not(tmp_path):
        pytest.skip(reason)
    expected = digest_of(run(server, tmp_path / "large"))

    with disk_full.disk(tmp_path / "small", 160):
        full = run(server, tmp_path / "small")
        disk_full.mount(tmp_path / "small", 65536, "remount")
        resumed = run(server, tmp_path / "small")

    assert full.returncode == 1, full.stderr
    assert "No space left" in full.stderr
    assert "Traceback" not in full.stderr
    assert full.stdout == ""
    assert digest_of(resumed) == expected
