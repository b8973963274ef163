"""What every test runs under: nothing of the user's, repeatable arithmetic, one shared server.

The default dtype stays float32 on purpose: code that forgets to pass its dtype on fails a float64
test here, where a float64 default would hide it.
"""

import os
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest
import torch

from tests.helpers.machine.typed import check_what_has_axes

# engine.numerics.process tells this process; processes that tests start read the environment.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}

PREFECT = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # the server's end is noisy below that
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600",
    "DO_NOT_TRACK": "1",
}

check_what_has_axes()  # before any module of the engine is imported

# No deadline: a first call that imports or compiles is slow without being wrong.
hypothesis.settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
    """Set up the process before any test module, and so before Prefect, is imported."""
    home = tempfile.TemporaryDirectory(prefix="mgd-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(home.cleanup)
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]  # a PREFECT_API_URL would send the tests' runs to a real server
    os.environ |= MALLOC | PREFECT | {"PREFECT_HOME": home.name, "XDG_STATE_HOME": home.name}
    # Not use_deterministic_algorithms, which imports the compiler: three seconds in each process.
    torch.set_deterministic_debug_mode("error")
    torch.set_num_threads(1)  # toy tensors: a second thread only waits, for long on a busy machine


@pytest.fixture(scope="session", autouse=True)
def freed_memory_is_kept() -> None:
    """Without this a step of a test's training faults its memory in again, 3 to 10 times slower."""
    from engine.numerics.process import keep_freed_memory

    keep_freed_memory()


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """One temporary server for the session, by its URL; only tests that ask for it pay for it.

    A process that a test starts reaches the server by ``PREFECT_API_URL`` in its environment,
    which the test passes on itself: the server is a setting of this process alone.
    """
    from prefect import settings
    from prefect.testing.utilities import prefect_test_harness

    # Heartbeats make every flow run wait up to 1 s at its end, and no environment variable can
    # switch them off.
    without_heartbeats = {settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with (
        prefect_test_harness(server_startup_timeout=600),
        settings.temporary_settings(without_heartbeats),
    ):
        yield settings.get_current_settings().api.url


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """An S3 server of its own on a free port, found through the environment as a real one is."""
    server_module = pytest.importorskip("moto.server", reason="S3 tests need moto[server]")
    pytest.importorskip("s3fs", reason="S3 tests need s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import fsspec

        fsspec.filesystem("s3").mkdir("states")
        yield "s3://states"
    server.stop()
