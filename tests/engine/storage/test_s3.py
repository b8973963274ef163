"""S3 that falls silent, or whose bucket is gone: every request ends, with the right error."""

import socket
import threading
from contextlib import suppress

import pytest

from engine.errors import CheckpointMissingError, StoreError
from engine.runs import inventory, run, store_mark
from engine.stages import commits
from engine.storage import readable, records, s3
from engine.storage.location import filesystem, store_errors
from engine.storage.transient_errors import is_transient


@pytest.fixture
def silent(monkeypatch):
    """A server that reads so many bytes of each connection and never answers."""
    core = pytest.importorskip("s3fs.core", reason="S3 tests need s3fs")
    listener, connections = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        with suppress(OSError):  # closed
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                connection.recv(65536)

    threading.Thread(target=serve, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key")
    monkeypatch.setattr(core.S3FileSystem, "retries", 1)
    core.S3FileSystem.clear_instance_cache()
    yield
    core.S3FileSystem.clear_instance_cache()
    for each in (listener, *connections):
        each.close()


def put(content):
    """Write an object with a driver that is given half a second."""
    impatient = {"read_timeout": 0.5, "retries": {"max_attempts": 0}}
    s3.use_patient_session()
    impatient |= s3.fsspec.config.conf["s3"]["config_kwargs"]
    file_system, path = filesystem("s3://bucket/object", {"config_kwargs": impatient})
    with store_errors("s3://bucket"):
        file_system.pipe_file(path, content)


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("silent")
def test_server_that_does_not_say_continue_is_given_up():
    """Asked whether it may send, the driver would wait for ever: a run hung on it for minutes."""
    with pytest.raises(StoreError, match="does not answer") as raised:
        put(b"small")

    assert type(raised.value) is StoreError  # which tasks try again


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("silent")
def test_server_that_takes_no_more_bytes_is_given_up(monkeypatch):
    """The driver's time-outs begin when all is sent, and all never is."""
    monkeypatch.setattr(s3, "ANSWER_SECONDS", 0.5)

    with pytest.raises(StoreError, match="does not answer"):
        put(bytes(64 << 20))


@pytest.mark.usefixtures("silent")
def test_session_of_the_user_stays(monkeypatch):
    """Who configures a session of their own has a reason."""
    config = {"s3": {"config_kwargs": {"http_session_cls": "mine"}}}
    monkeypatch.setattr(s3.fsspec.config, "conf", config)

    s3.use_patient_session()

    assert config["s3"]["config_kwargs"] == {"http_session_cls": "mine"}


LOOKS = {
    "list_runs": run.list_runs,
    "find_run": lambda store: run.find_run(store, "digits"),
    "stored_runs": inventory.stored_runs,
    "read_record": lambda store: records.read_record(f"{store}/runs/a-0badcafe/run.json"),
    "read_records": lambda store: records.read_records([f"{store}/runs/a-0badcafe/run.json"]),
    "check_mark": store_mark.check_mark,
    "mark_store": store_mark.mark_store,
    "check_readable": readable.check_readable,
    "find": lambda store: commits.find("train", "a" * 32, store),
    "create_record": lambda store: records.create_record(f"{store}/record.json", {}),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_gone_is_no_empty_store(look):
    """Nothing would be found in it, and a run that lost it midway would be told to begin anew."""
    store = "s3://no-such-bucket/store"

    with (
        pytest.raises(StoreError, match="s3://no-such-bucket/store") as raised,
        store_errors(store),
    ):
        look(store)

    assert "does not exist (any more)" in str(raised.value)
    assert not isinstance(raised.value, CheckpointMissingError)
    assert not is_transient(raised.value.__cause__)


@pytest.mark.usefixtures("bucket")
def test_what_is_not_in_a_bucket_that_is_there_is_absent():
    """A new store is empty, and no error."""
    assert run.list_runs("s3://states/never-written") == []
    assert commits.find("train", "a" * 32, "s3://states/never-written") is None
