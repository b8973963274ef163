"""Servers and processes beside a test, on free ports, stopped at its end."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

PATIENCE = 600
"""Seconds until what is awaited counts as what will never come; a busy machine takes minutes.

A wait ends when what it waits for is there, so that a long one costs nothing but where it fails.
"""

_POLITE = 60
"""Seconds that a process has for its end before it is killed."""

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
"""Where Debian's package has its programs, the oldest version first."""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(what, condition, seconds=PATIENCE):
    """Return the first true answer of a condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := condition():
            return answer
        time.sleep(0.2)
    pytest.fail(f"{what} did not come about in {seconds} s")


@contextmanager
def process(log, *command, **options):
    """Run a command beside the test, in a process group of its own, and stop it at the end."""
    with log.open("w") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=output, cwd="/", start_new_session=True, **options
        )
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(_POLITE)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


@contextmanager
def postgresql(folder):
    """Yield the URL of an empty database, run by another user where root would be refused."""
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    user = {"user": "postgres"} if os.getuid() == 0 else {}
    binaries, port = POSTGRES[-1], str(free_port())
    # Not below pytest's folders, which are closed to other users.
    with tempfile.TemporaryDirectory(prefix="mgd-postgresql-") as data:
        shutil.chown(data, *user.values() or [os.getuid()])
        run = {"check": True, "capture_output": True, "cwd": "/", **user}
        subprocess.run([binaries / "initdb", "-D", data, "-U", "prefect", "-A", "trust"], **run)
        command = [binaries / "postgres", "-D", data, "-p", port, "-k", data, "-c", "fsync=off"]
        with process(folder / "postgresql.log", *command, **user):
            at = ["-h", "127.0.0.1", "-p", port]
            ready = [binaries / "pg_isready", *at, "-q"]
            wait_for("PostgreSQL", lambda: not subprocess.run(ready, check=False).returncode)
            subprocess.run([binaries / "createdb", *at, "-U", "prefect", "mgd"], **run)
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/mgd"


class PrefectServer:
    """A Prefect server on one port and one database, which can be killed and started again.

    Args:
        folder: Its home and its log.
        database: URL of a database; by default SQLite in the folder.
    """

    def __init__(self, folder, database=None):
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.environment = os.environ | {
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": self.url,
            "PREFECT_LOGGING_LEVEL": "INFO",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_API_URL": self.url,  # browsers would ask port 4200
        }
        if database is not None:
            self.environment["PREFECT_API_DATABASE_CONNECTION_URL"] = database
        self.child = None

    def start(self, *, ui=False):
        """Start it, and return when it answers."""
        command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(self.port)]
        with (self.folder / "server.log").open("a") as log:
            self.child = subprocess.Popen(
                command if ui else [*command, "--no-ui"],
                stdout=log, stderr=log, env=self.environment, cwd="/", start_new_session=True,
            )  # fmt: skip
        try:
            wait_for("the server", lambda: self.is_up() or self.child.poll() is not None)
            assert self.is_up(), (self.folder / "server.log").read_text()
        except BaseException:
            self.stop()
            raise

    def is_up(self):
        """Say whether it answers."""
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            return urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200
        return False

    def stop(self, number=signal.SIGTERM):
        """End it, politely or not."""
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(number)
            try:
                self.child.wait(_POLITE)
            except subprocess.TimeoutExpired:
                os.killpg(self.child.pid, signal.SIGKILL)
                self.child.wait()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.stop()
