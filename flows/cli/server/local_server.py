"""A Prefect server for one command, where the user has none.

Prefect would start one by itself when the flow is called, but imports the whole server into the
caller first and only then begins. Started as a process of its own at the beginning of the command
(``flows.cli.server.server_process``), it is ready about when the data are read and checked.

Anyone who reaches a Prefect server can read all parameters and end a run with a result of their
own, which the client would unpickle. Every user of a machine reaches its loopback address, so the
server asks for a secret that is drawn for it. It is in the environments of two processes, which
other users cannot read, and in no list of arguments.
"""

import atexit
import ctypes
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from engine.errors import ConfigurationError
from engine.progress.displays import LINES
from engine.secret_urls import redacted
from flows.cli.server.server_process import START_SECONDS
from flows.cli.server.surroundings import (
    SAFE_PATH,
    brief,
    origin_of_server,
    pass_by_proxies,
    prefect_settings,
    without_proxies,
)
from flows.cli.server.working_folder import left_out


class LocalServer:
    """A Prefect server on a free port of this machine, as a child process.

    Where the user has a server, in the environment or in the active profile, the process sees it
    and ends: to look for one takes Prefect's settings, which take a second to be loaded.

    Args:
        show_log: Whether its log goes to standard error.
        ui: Folder for the files of Prefect's UI, for a server that has one.

    Attributes:
        secret: What its clients have to say, ``PREFECT_API_AUTH_STRING``.
        was_used: Whether a client was let in.
    """

    def __init__(self, *, show_log: bool = False, ui: Path | None = None) -> None:
        self.secret = f"mgd:{secrets.token_urlsafe(32)}"
        self.was_used = False
        self._said: dict[str, object] | None = None
        self._log = None if show_log else _log_file()
        output = None if show_log else self._log or subprocess.DEVNULL
        self._pipe, told = os.pipe()
        own = {"PREFECT_SERVER_API_AUTH_STRING": self.secret}
        try:
            self._process = subprocess.Popen(
                # -P: the working folder may hold a random.py, or a folder prefect.
                [sys.executable, "-P", "-m", "flows.cli.server.server_process", str(told)]
                + ([] if ui is None else [str(ui)]),
                env=without_proxies(dict(os.environ)) | SAFE_PATH | own,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[told],
                start_new_session=True,  # Ctrl-C is for the run, which then stops the server
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )
        finally:
            os.close(told)
        atexit.register(self.stop)

    @property
    def api_url(self) -> str:
        """URL of its API; waits as ``wait`` does."""
        self.wait()
        assert self._said is not None  # or it was refused
        return str(self._said["api_url"])

    def wait(self) -> bool:
        """Return when the server answers: whether it does, or the user has one of their own.

        Raises:
            ConfigurationError: If it ends, or does not answer in time.
        """
        if self._said is None:
            self._said = self._listen()
        if "refused" in self._said:
            raise ConfigurationError(str(self._said["refused"]))
        return "users" not in self._said

    def _listen(self) -> dict[str, object]:
        # It may have to wait for another one's first start, and then start itself.
        answered, _, _ = select.select([self._pipe], [], [], 2 * START_SECONDS)
        if answered:
            with os.fdopen(self._pipe, encoding="utf-8") as pipe:
                said = pipe.read()
            if said:
                return json.loads(said)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)  # it has closed the pipe, so it is ending
        code = self._process.poll()
        ended = "it does not answer" if code is None else f"exit code {code}"
        return {
            "refused": f"Prefect's own server did not start ({ended}{self._last_words()}). Run the "
            "same command with --debug to see its log, or start one with `prefect server start` "
            "and set PREFECT_API_URL."
        }

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


@dataclass
class RunningServer:
    """A server on this machine that another command of this user's has started.

    Attributes:
        api_url: URL of its API.
        secret: What its clients have to say.
        was_used: Whether a client was let in.
    """

    api_url: str
    secret: str
    was_used: bool = False

    def wait(self) -> bool:
        """Return that it answers."""
        return True


def _log_file() -> IO[bytes] | None:
    """Open a file without a name for what a server says, if there is a place for it."""
    with suppress(OSError):
        return tempfile.TemporaryFile()
    return None


def end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends: a SIGKILL leaves nobody else."""
    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


@contextmanager
def connected(server: LocalServer | RunningServer | None) -> Iterator[None]:
    """Let Prefect's client talk to ``server`` inside the block; to the user's own if it is None.

    Raises:
        ConfigurationError: If nobody answers.
    """
    pass_by_proxies()
    not_obeyed = left_out()
    if not_obeyed:
        LINES.warning(not_obeyed)
    if server is None or not server.wait():
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

    # The address may hold a password, and what is said here ends in logs of jobs.
    url, origin = redacted(str(prefect_settings().api.url)), origin_of_server()
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
            else "Start it with `prefect server start`, correct the address, or remove it: "
            "mgd then starts its own server."
        )
        raise ConfigurationError(
            f"PREFECT_API_URL is {url}, by {origin}, but no Prefect server accepts this run there: "
            f"{reason}. {remedy}"
        ) from error
    LINES.info("Prefect's server: %s, by %s", url, origin)


def server_if_needed(*, show_log: bool = False, ui: Path | None = None) -> LocalServer | None:
    """Start a server, as ``LocalServer``, if neither environment nor active profile names one.

    Raises:
        ConfigurationError: If Prefect's settings cannot be read.
    """
    return None if prefect_settings().api.url else LocalServer(show_log=show_log, ui=ui)


@contextmanager
def server_of_a_command(*, show_log: bool = False) -> Iterator[LocalServer | None]:
    """Have a server inside the block; it has seen by itself whether it is needed when it answers.

    One that nobody has used ends with the block, as where a command is refused. One that was used
    ends with the process, after Prefect has sent it the last logs and events.
    """
    server = None if os.environ.get("PREFECT_API_URL") else LocalServer(show_log=show_log)
    try:
        yield server
    finally:
        if server is not None and not server.was_used:
            server.stop()
