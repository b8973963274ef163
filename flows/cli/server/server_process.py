"""A Prefect server as a process of its own, which says through a pipe when it answers.

``prefect server start`` does the same with half as much work again: it loads Prefect's command
line, and every collection of blocks that is installed (Dask, Kubernetes and clouds) in order to
see that they are known. This process reads Prefect's settings, starts what is needed by Prefect's
own means, and takes a port that nobody else can take in between.

``flows.cli.server.local_server`` starts it with the secret that its clients have to say in the
environment, ``PREFECT_SERVER_API_AUTH_STRING``.
"""

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigurationError
from flows.cli.server.surroundings import brief, prefect_settings
from flows.loading import loaded, loading

if TYPE_CHECKING:
    from prefect.settings import Settings

START_SECONDS = 180.0
"""Longest wait; the very first start migrates the database."""

HOST = "127.0.0.1"

_LOOPBACK = (HOST, "localhost")
"""What a person may have typed for it."""

_NOT_OF_ONE_RUN = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "TRIGGERS")
"""Services of a server that are about deployments, work pools and automations: there are none."""

_FIRST_START = (
    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION",  # loads all blocks, also to register none
)
"""What the first server on a database has done for all others."""


def serve(pipe: int, ui: str | None) -> int:
    """Serve until a signal comes; return the exit code.

    Args:
        pipe: File descriptor that one JSON object is written to: ``api_url``, ``users`` where the
            user has a server, or ``refused`` with the reason and the remedy.
        ui: Folder for the files of Prefect's UI, for a server that has one.
    """
    with loading(), ExitStack() as first_start:
        try:
            settings = prefect_settings()
            if settings.api.url:
                _tell(pipe, users=True)
                return 0
            listening = socket.create_server((HOST, 0))
            url = f"http://{HOST}:{listening.getsockname()[1]}/api"
            address = settings.server.database.connection_url
            on_sqlite = address is None or address.get_secret_value().startswith("sqlite")
            is_first = first_start.enter_context(_one_migration(settings))
            # Another kind of database may have been replaced since; a file that went is seen.
            wanted = _server_settings(url, ui, migrated=on_sqlite and not is_first)
        except ConfigurationError as error:
            _tell(pipe, refused=str(error))
            return 2

        def begun() -> None:
            first_start.close()
            loaded()
            _tell(pipe, api_url=url)

        code = _run(wanted, listening, begun)
        if code:  # what was begun is not noted as done
            raise SystemExit(code)
        return 0


def _server_settings(url: str, ui: str | None, *, migrated: bool) -> dict[str, str]:
    """Return settings for this use of a server, some of which leave out what it has no use for.

    What the user has set stays, but for the addresses.
    """
    wanted = dict.fromkeys(_FIRST_START, "false") if migrated else {}
    if ui is None:
        services = (f"PREFECT_SERVER_SERVICES_{name}_ENABLED" for name in _NOT_OF_ONE_RUN)
        wanted |= dict.fromkeys(services, "false")
    wanted = {name: value for name, value in wanted.items() if name not in os.environ}
    own = {"PREFECT_SERVER_API_BASE_PATH": "/api", "PREFECT_SERVER_UI_ENABLED": "false"}
    if ui is not None:
        own |= {
            "PREFECT_SERVER_UI_ENABLED": "true",
            "PREFECT_UI_STATIC_DIRECTORY": ui,
            "PREFECT_UI_API_URL": url,  # browsers would ask port 4200
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        }
    return wanted | own


def _run(wanted: dict[str, str], listening: socket.socket, begun: Callable[[], None]) -> int:
    """Run Prefect's server on a socket; call ``begun`` when it answers."""
    import prefect.settings
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                begun()

    changes = {getattr(prefect.settings, name): value for name, value in wanted.items()}
    with prefect.settings.temporary_settings(changes):
        from prefect.server.api.server import create_app

        let_writers_wait()
        settings = prefect.settings.get_current_settings().server
        app = create_app(final=True)
        server = Server(
            uvicorn.Config(
                _asking_nobody_else(app, listening.getsockname()[1])
                if settings.ui.enabled
                else app,
                timeout_keep_alive=settings.api.keepalive_timeout,
                log_level=settings.logging_level.lower(),
            )
        )
        server.run(sockets=[listening])
    return 0 if server.started else 3


def let_writers_wait() -> None:
    """Let a request that writes to SQLite wait for others from its beginning on.

    Prefect begins most of them as transactions that may only read. One that has read, and writes
    after another one did, is refused by SQLite however long it would wait, and the server answers
    503: its own clients send again then, but a form in a browser does not.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin: Callable[..., Any] = AioSqliteConfiguration.begin_transaction

    def begin_transaction(
        self: AioSqliteConfiguration,
        session: Any,  # noqa: ANN401 (of a library)
        with_for_update: bool = True,
    ) -> Any:  # noqa: ANN401 (of a library)
        del with_for_update
        return begin(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin_transaction


def _asking_nobody_else(app: Callable[..., Any], port: int) -> Callable[..., Any]:
    """Return an ASGI application whose pages may ask this server, and be shown in no other's page.

    Prefect's second UI asks a service on the internet for the settings of its statistics, also
    where ``PREFECT_SERVER_ANALYTICS_ENABLED`` is false, which only keeps them from being sent.
    """
    own = " ".join(f"{how}://{host}:{port}" for how in ("http", "ws") for host in _LOOPBACK)
    rules = f"connect-src 'self' {own}; frame-ancestors 'self'"
    policy = (b"content-security-policy", rules.encode())

    async def answer(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 (of ASGI)
        async def with_policy(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message.get("headers", ()), policy]}
            await send(message)

        await app(scope, receive, with_policy)

    return answer


def _tell(pipe: int, **content: object) -> None:
    with os.fdopen(pipe, "w", encoding="utf-8") as file:
        json.dump(content, file)


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


if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
