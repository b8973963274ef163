"""A Prefect server for one command, where the user has none.

Prefect would start one by itself when the flow is called, but imports the whole server into the
caller first and only then begins. Started as a process of its own at the beginning of the command,
it is ready about when the data are read and checked.

Whoever reaches a Prefect server can read all parameters and end a run with a result of their own,
which the client would unpickle. Every user of a machine reaches its loopback address, so the server
asks for a secret that is drawn for it. It is in the environments of two processes, which other
users cannot read, and in no list of arguments.
"""

import atexit
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING

from engine.errors import ConfigurationError
from flows.cli.surroundings import (
    SAFE_PATH,
    brief,
    pass_by_proxies,
    prefect_settings,
    without_proxies,
)

if TYPE_CHECKING:
    from prefect.settings import Settings

START_SECONDS = 180.0
"""Longest wait; the very first start migrates the database."""

_STARTS = 2
"""Times that a server is started that ends before it answers: its port may just have been taken."""


_NOT_OF_ONE_RUN = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "TRIGGERS")
"""Services of a server that are about deployments, work pools and automations: there are none."""

_FIRST_START = (
    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START",
)
"""What the first server on a database has done for all others."""


class LocalServer:
    """A Prefect server on a free port of this machine, as a child process.

    Args:
        show_log: Whether its log goes to standard error.
        migrated: Whether its database is known to be up to date, so that it need not look.

    Attributes:
        api_url: Of its API.
        secret: What its clients have to say, ``PREFECT_API_AUTH_STRING``.
        was_used: Whether a client was let in.
    """

    def __init__(self, *, show_log: bool = False, migrated: bool = False) -> None:
        self.secret = f"mgd:{secrets.token_urlsafe(32)}"
        self._migrated = migrated
        self._show_log, self._starts, self._ready = show_log, 0, False
        self.was_used = False
        self._start()
        atexit.register(self.stop)

    def _start(self) -> None:
        self._starts += 1
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.api_url = f"http://127.0.0.1:{port}/api"
        self._log = None if self._show_log else _log_file()
        output = None if self._show_log else self._log or subprocess.DEVNULL
        own = {
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_BASE_PATH": "/api",
            "PREFECT_SERVER_API_AUTH_STRING": self.secret,
        }
        self._process = subprocess.Popen(
            # -P: the working folder may hold a random.py, or a folder prefect.
            [sys.executable, "-P", "-m", "prefect", "server", "start", "--port", str(port)]
            + ["--no-ui"],
            env=without_proxies(dict(os.environ)) | SAFE_PATH | own | self._spared(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the run, which then stops the server
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )

    def _spared(self) -> dict[str, str]:
        """Return settings that leave out what a server of one run has no use for.

        Measured together, a quarter of the computing time of its start. What the user has set
        stays.
        """
        wanted = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _NOT_OF_ONE_RUN}
        if self._migrated:
            wanted |= dict.fromkeys(_FIRST_START, "false")
        return {name: value for name, value in wanted.items() if name not in os.environ}

    def wait(self) -> None:
        """Return when the server answers.

        Raises:
            ConfigurationError: If it ends, or does not answer in time.
        """
        limit = time.monotonic() + START_SECONDS
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while not self._ready and time.monotonic() < limit:
            if self._process.poll() is not None:
                if self._starts == _STARTS:
                    break
                self._start()
            with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                direct.open(f"{self.api_url}/health", timeout=5).close()
                self._ready = self._process.poll() is None
            time.sleep(0 if self._ready else 0.1)
        if not self._ready:
            code = self._process.poll()
            ended = "it does not answer" if code is None else f"exit code {code}"
            raise ConfigurationError(
                f"Prefect's own server did not start ({ended}{self._last_words()}). Run the same "
                "command with --debug to see its log, or start one with `prefect server start` and "
                "set PREFECT_API_URL."
            )

    def _last_words(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip()]
        errors = [line for line in said if "Error" in line and not line.startswith("File ")]
        return f"; its log says: {brief(Exception((errors or said)[-1]))}" if said else ""

    def stop(self) -> None:
        """End the server; does nothing the second time."""
        atexit.unregister(self.stop)
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _log_file() -> IO[bytes] | None:
    """Open a file without a name for what a server says, if there is a place for it."""
    with suppress(OSError):
        return tempfile.TemporaryFile()
    return None


def _end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends: a SIGKILL leaves nobody else."""
    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


@contextmanager
def connected(server: LocalServer | None) -> Iterator[None]:
    """Let Prefect's client talk to ``server`` inside the block; to the user's own if it is None.

    Raises:
        ConfigurationError: If nobody answers.
    """
    pass_by_proxies()
    if server is None:
        _ask_the_users()
        yield
        return
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_UI_ENABLED,
        temporary_settings,
    )

    server.wait()
    server.was_used = True
    # This server ends with the run, so nobody would miss a heartbeat; and the thread that sends
    # them is waited for, a second at the end of every flow run.
    with temporary_settings(
        {
            PREFECT_API_URL: server.api_url,
            PREFECT_API_AUTH_STRING: server.secret,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            PREFECT_UI_ENABLED: False,  # so that no link is shown that nobody could open
        }
    ):
        yield


def _ask_the_users() -> None:
    """Refuse a run, in one message, whose server is not there or does not let it in."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    url = prefect_settings().api.url
    try:
        # Patience is for a server that was there and is restarted, not for a wrong address.
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True) as client,
        ):
            client.api_version()
    except Exception as error:  # whatever a network, a proxy or another program answers
        reason = brief(error.__cause__ or error)
        remedy = (
            "It asks for a log-in: set PREFECT_API_AUTH_STRING to what its "
            "PREFECT_SERVER_API_AUTH_STRING is."
            if "401" in reason
            else "Start it with `prefect server start`, correct the address, or unset it (also in "
            "the active profile): mgd then starts a server of its own."
        )
        raise ConfigurationError(
            f"PREFECT_API_URL is {url}, but no Prefect server lets this run in there: {reason}. "
            f"{remedy}"
        ) from error


def server_if_needed(*, show_log: bool = False) -> LocalServer | None:
    """Start a server if neither the environment nor the active profile names one.

    Raises:
        ConfigurationError: If Prefect's settings or its home cannot be used.
    """
    settings = prefect_settings()
    if settings.api.url:
        return None
    url = settings.server.database.connection_url
    on_sqlite = url is None or url.get_secret_value().startswith("sqlite")
    with _one_migration(settings) as first:
        # Another kind of database may have been replaced since; a file that went is seen.
        server = LocalServer(show_log=show_log, migrated=on_sqlite and not first)
        if first:
            server.wait()
    return server


@contextmanager
def server_of_a_command(*, show_log: bool = False) -> Iterator[LocalServer | None]:
    """Have a server inside the block, as ``server_if_needed`` starts it.

    One that nobody has used ends with the block, as where a command is refused. One that was used
    ends with the process, after Prefect has sent it the last logs and events.
    """
    server = server_if_needed(show_log=show_log)
    try:
        yield server
    finally:
        if server is not None and not server.was_used:
            server.stop()


@contextmanager
def _one_migration(settings: "Settings") -> Iterator[bool]:
    """Let one process at a time start a server that has to make or migrate its database.

    Several that migrate one file at once spoil each other's work. Yields whether this is the one;
    a file says that the database has been migrated by this version of Prefect.
    """
    import filelock
    import prefect

    url = settings.server.database.connection_url
    address = url.get_secret_value() if url else ""
    # Without a user and a password, which do not belong into a digest either.
    words = f"{prefect.__version__} {address.rpartition('@')[2]}"
    home = settings.home
    mark = home / f"mgd-migrated-{sha256(words.encode()).hexdigest()[:12]}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if _is_migrated(mark, address, home):
            yield False
            return
        with filelock.FileLock(home / "mgd-first-start.lock", timeout=START_SECONDS):
            if _is_migrated(mark, address, home):
                yield False
                return
            mark.unlink(missing_ok=True)
            yield True
            mark.touch()
    except filelock.Timeout as error:
        raise ConfigurationError(
            f"Another command has been starting Prefect's server in {home} for {START_SECONDS:g} "
            "s. Look for it, end it if it hangs, and run the same command again."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"Prefect keeps its database in {home}, which cannot be used: {brief(error)}. Set "
            "PREFECT_HOME to a folder that you may write to."
        ) from error


def _is_migrated(mark: Path, address: str, home: Path) -> bool:
    """Say whether a database is there and was migrated."""
    if not os.access(home, os.W_OK):
        raise PermissionError(f"{home} cannot be written")
    if address and not address.startswith("sqlite"):
        return mark.exists()
    path = address.partition(":///")[2].partition("?")[0]
    return mark.exists() and Path(path or home / "prefect.db").exists()
