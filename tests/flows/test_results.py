"""Prefect's own records of stages, as an earlier version or an attacker may have left them.

Both records of the attack ran code: one by naming the serializer ``pickle`` in its metadata, one by
a dotted name in its JSON, which Prefect's decoder imports and calls.
"""

import base64
import json
import pickle
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from prefect._internal.result_records import ResultRecord
from prefect.client.orchestration import get_client

from engine.storage.records import read_record
from flows.descent import descent
from tests.faults import chain
from tests.helpers.runs.tiny_recipe import COARSE, small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        """Say what makes it: ``os.system``."""
        import os

        return os.system, (self.command,)


def by_json(canary):
    """A result that Prefect's JSON serializer makes by calling a function."""
    content = {"__class__": "subprocess.getoutput", "data": {"cmd": f"touch {canary}"}}
    return "json", json.dumps(content)


def by_pickle(canary):
    """A result whose record asks for another serializer than the task's."""
    return "pickle", base64.encodebytes(pickle.dumps(Command(f"touch {canary}"))).decode()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prefect_server):
    """One finished run, whose store each test copies."""
    store = tmp_path_factory.mktemp("finished")
    return store, descent(small(*COARSE), str(store))


@pytest.fixture
def store(finished, tmp_path):
    intact, _ = finished
    return shutil.copytree(intact, tmp_path / "store")


def plant(store, made, canary):
    """Put a record in the place where Prefect would look for each stage's."""
    serializer, result = made(canary)
    names = [f"{path.parts[-3]}-{path.parts[-2]}" for path in store.glob("stages/*/*/record.json")]
    for name in names:
        path = store / "results" / name
        path.parent.mkdir(exist_ok=True)
        metadata = {
            "storage_key": str(path),
            "expiration": None,
            "serializer": {"type": serializer},
            "prefect_version": "3.8.8",
            "storage_block_id": None,
        }
        path.write_text(json.dumps({"metadata": metadata, "result": result}))
    return names


@pytest.mark.parametrize("lost", [False, True], ids=["all-cached", "one-lost"])
@pytest.mark.parametrize("made", [by_json, by_pickle])
def test_record_that_runs_code_is_never_read(made, lost, finished, store, tmp_path):
    """Whoever can write to a store would otherwise own the machine that resumes a run."""
    _, expected = finished
    canary = tmp_path / "canary"
    assert len(plant(store, made, canary)) >= expected.stages.total
    if lost:
        shutil.rmtree(next(store.glob("stages/evaluate/*")))

    with chain.counted() as computed:
        again = descent(small(*COARSE), str(store))

    assert not canary.exists()
    assert len(computed) == lost
    assert again.digest == expected.digest
    assert again.stages.cached == again.stages.total - lost


@pytest.mark.parametrize("made", [by_json, by_pickle])
def test_planted_records_would_run_code_if_prefect_read_them(made, tmp_path):
    """The test above shows something only if its records are as bad as they look."""
    canary, key = tmp_path / "canary", "train-" + "0" * 32
    (tmp_path / "stages" / "train" / ("0" * 32)).mkdir(parents=True)
    (tmp_path / "stages" / "train" / ("0" * 32) / "record.json").touch()
    plant(tmp_path, made, canary)

    content = (tmp_path / "results" / key).read_bytes()
    with suppress(Exception):  # what the command returns is no result; it has run all the same
        ResultRecord.deserialize(content)

    assert canary.exists()


def test_store_holds_nothing_of_prefect(finished):
    """What is not there need not be believed."""
    store, _ = finished

    assert sorted(path.name for path in store.iterdir()) == ["runs", "stages", "store.json"]


def test_state_cached_means_that_nothing_was_computed(finished, store):
    """Who looks at the UI has to see what a start has cost."""
    _, first = finished
    shutil.rmtree(next(store.glob("stages/evaluate/*")))

    descent(small(*COARSE, "workers.lookahead=0"), str(store))

    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(limit=1, sort="START_TIME_DESC")
        states = {
            each.name: each.state_name
            for each in client.read_task_runs()
            if each.flow_run_id == run.id
        }
    assert list(states.values()).count("Cached") == first.stages.total - 1
    assert {name: state for name, state in states.items() if name.startswith("evaluate")} in (
        {"evaluate[0]": "Completed", "evaluate[1]": "Cached"},
        {"evaluate[0]": "Cached", "evaluate[1]": "Completed"},
    )


def test_claim_says_whether_the_stage_was_there(finished, store):
    """`mgd show` tells people what the last start has computed."""
    gone = next(store.glob("stages/evaluate/*"))
    shutil.rmtree(gone)

    record = descent(small(*COARSE), str(store))

    claims = [
        read_record(str(path)) for path in Path(store, "runs", record.run, "stages").glob("*.json")
    ]
    assert {each["key"] for each in claims if not each["cached"]} == {gone.name}
