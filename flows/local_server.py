"""A Prefect server for one command, where the user has none.

Prefect would start one by itself when the flow is called, but imports the whole server into the
caller first and only then begins. Started as a process of its own at the beginning of the command,
it is ready about when the data are read and checked.
"""

import atexit
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

START_SECONDS = 180.0
"""Longest wait; the very first start migrates the database."""


class LocalServer:
    """A Prefect server on a free port of this machine, as a child process.

    Args:
        show_log: Whether its log goes to standard error.
    """

    def __init__(self, *, show_log: bool = False) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.api_url = f"http://127.0.0.1:{port}/api"
        output = None if show_log else subprocess.DEVNULL
        self._process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"],
            env={**os.environ, "PREFECT_SERVER_API_HOST": "127.0.0.1"},
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the run, which then stops the server
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        atexit.register(self.stop)

    def wait(self) -> None:
        """Return when the server answers.

        Raises:
            RuntimeError: If it ends, or does not answer in time.
        """
        limit = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < limit:
            with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(f"{self.api_url}/health", timeout=5)
                return
            time.sleep(0.1)
        raise RuntimeError(
            f"Prefect's own server did not start (exit code {self._process.poll()}). Run the same "
            "command with --debug to see its log, or start one with `prefect server start` and "
            "set PREFECT_API_URL."
        )

    def stop(self) -> None:
        """End the server; does nothing the second time."""
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends: a SIGKILL leaves nobody else."""
    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


@contextmanager
def connected(server: LocalServer | None) -> Iterator[None]:
    """Let Prefect's client talk to ``server`` inside the block; to the user's own if it is None."""
    if server is None:
        yield
        return
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    server.wait()
    # This server ends with the run, so nobody would miss a heartbeat; and the thread that sends
    # them is waited for, a second at the end of every flow run.
    with temporary_settings(
        {PREFECT_API_URL: server.api_url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    ):
        yield


def server_if_needed(*, show_log: bool = False) -> LocalServer | None:
    """Start a server if neither the environment nor the active profile names one."""
    from prefect.settings import get_current_settings

    return None if get_current_settings().api.url else LocalServer(show_log=show_log)
