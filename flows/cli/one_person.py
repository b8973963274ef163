"""Prefect's UI for one person: a server, a worker and deployments that end with the command.

The server is the command's own and asks for its secret, as any does that a command starts (see
``flows.cli.server.local_server``). A browser is let in by a page of the server's, which puts the
secret where Prefect's UI looks for it; it comes there behind the ``#`` of an address, which no
browser sends, from a file that only the user can read. In no list of arguments, which all users can
read, is more than the name of that file.
"""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import ConfigurationError
from engine.secret_urls import without_login
from engine.storage.location import absolute
from engine.storage.readable import check_readable
from flows.cli.deploying import DeployRequest, check, put
from flows.cli.options import PoolOptions
from flows.cli.server.at_work import (
    Served,
    announce,
    children,
    end_all,
    is_alone,
    noted,
    other,
    turn,
)
from flows.cli.server.local_server import (
    LocalServer,
    RunningServer,
    connected,
    end_with_parent,
    server_if_needed,
)
from flows.cli.server.surroundings import SAFE_PATH, prefect_settings
from flows.cli.server.working_folder import left_out
from flows.cli.terminal.screen import say, tell
from flows.cli.terminal.signals import says

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient

POOL = "mgd-process"
"""The pool of ``deployments/pools.py`` for processes, made here where there is none."""

SECONDS_TO_END = 30.0
"""Longest wait for a worker and its runs, whose stages at work get 20 s to finish."""

SECONDS_TO_BEGIN = 120.0
"""Longest wait for the first words of a run's report."""

_LET_IN = """<!doctype html><meta charset="utf-8"><title>mgd</title><script>
const [secret, path] = location.hash.slice(1).split("&").map(decodeURIComponent);
if (secret) localStorage.setItem("prefect-password", btoa(secret));
location.replace(location.origin + (path && path.startsWith("/") ? path : "/"));
</script>"""
"""Page of the server's; both of Prefect's UIs read the secret there."""

_GO = """<!doctype html><meta charset="utf-8"><title>mgd</title>
<script>location.replace("{address}")</script>"""


class BrowserPage(NamedTuple):
    """Where a browser goes.

    Attributes:
        address: Address of the UI's page, which asks for the secret where nobody has been let in.
        secret: What it asks for; None on a server of the user's own.
        file: Opens the page without being asked; None on a server of the user's own.
    """

    address: str
    secret: str | None
    file: Path | None


def serve(
    names: Sequence[str], store: str, *, start: bool = False, browser: bool, debug: bool
) -> None:
    """Serve until a signal comes; what is finished is kept, and the same command goes on.

    Where another ``mgd ui`` of this user is at work, what is asked for is put there, and nothing
    is waited for.

    Args:
        names: Recipes by name or path, and flows without a recipe.
        store: Where the runs keep checkpoints, results and reports.
        start: Start a run of the first one at once, and show its report in place of the form.
        browser: Open one.
        debug: Show the logs of the server and of the worker.

    Raises:
        ConfigurationError: If something cannot be started.
    """
    request = DeployRequest(list(names))
    check(request)  # before anything is started
    check_readable(absolute(store))
    with ExitStack() as stack:
        starting = None if prefect_settings().api.url else stack.enter_context(turn())
        there = other() if starting else None
        if starting and there:
            starting.release()
            _join(there, request, store, start=start, browser=browser)
            return
        says("Server, worker and runs end now. Finished stages are kept; the same command goes on.")
        tell("Prefect's server starts; its very first start takes the longest.")
        if not_obeyed := left_out():
            tell(not_obeyed)
        stack.enter_context(noted())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mgd-ui-")))
        server = server_if_needed(show_log=debug, ui=folder / "ui")
        if server is not None:
            stack.callback(server.stop)
        stack.enter_context(connected(server))
        if server and starting:
            announce(Served(os.getpid(), server.api_url, server.secret, str(folder)))
            starting.release()
        tell("The server answers; deployments are made.")
        first = _deploy(request, store, is_own=server is not None)
        worker = stack.enter_context(_worker(server, folder, debug))
        path = _path(first, start=start, is_there=lambda: worker.poll() is None)
        _tell(_page(server, folder, path), browser)
        tell("Ctrl-C, or mgd ui --stop, ends server, worker and runs; what is finished is kept.")
        code = worker.wait()
        raise ConfigurationError(
            f"The worker ended (exit code {code}), so no runs would be carried out. Run the "
            "same command with --debug to see its log."
        )


def _join(there: Served, request: DeployRequest, store: str, *, start: bool, browser: bool) -> None:
    """Put deployments to the server of another ``mgd ui``, and open a page of it.

    Two servers on one database of Prefect's would keep each other from writing.

    Raises:
        ConfigurationError: If that server does not answer, as one that ends.
    """
    tell(f"mgd ui is at work already, as process {there.process}: what you ask for is put there.")
    import httpx

    server = RunningServer(there.api_url, there.secret)
    try:
        with connected(server):
            first = _deploy(request, store, is_own=False)
            path = _path(first, start=start, is_there=Path(there.folder).exists)
    except httpx.TransportError as error:
        raise ConfigurationError(
            f"The server of process {there.process} does not answer ({error}). If it ends just "
            "now, run the same command again; otherwise `mgd ui --stop` ends it."
        ) from None
    _tell(_page(server, Path(there.folder), path), browser)
    tell("mgd ui --stop ends it, with its worker and runs; what is finished is kept.")


def _path(first: "UUID", *, start: bool, is_there: Callable[[], bool]) -> str:
    """Return the path of the page that is opened: a form, or the report of a run that is started.

    Args:
        first: The deployment that it is about.
        start: Whether a run is started.
        is_there: Says whether the worker is.
    """
    return _started(first, is_there) if start else f"/v2/deployments/deployment/{first}/run"


def _deploy(request: DeployRequest, store: str, *, is_own: bool) -> "UUID":
    """Make the pool and the deployments; return the first one's id.

    Args:
        request: What to deploy.
        store: Where the runs keep what they make.
        is_own: Whether the server is this command's own, which no other worker is connected to.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        _make_pool(client)
        if is_own and is_alone():
            for name in close_lost(client):
                tell(f"Run {name} was left behind by an earlier mgd ui; Retry lets it go on.")
        made = put(request, PoolOptions(pool=POOL, store=store), client)
        for each in made:
            say(f"Deployed: {each.full_name}")
        return client.read_deployment_by_name(made[0].full_name).id


def _started(deployment: "UUID", is_there: Callable[[], bool]) -> str:
    """Start a run with the settings of its deployment; return the path of its report.

    From the page of a run it takes two clicks to its report, so its beginning is awaited; where
    there is none, the path is that of the run.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment).id
        tell("A run is started; its report opens when it has begun.")
        until = time.monotonic() + SECONDS_TO_BEGIN
        while time.monotonic() < until and is_there():
            found = _report(client, run)
            if found is not None:
                return f"/v2/artifacts/artifact/{found}"
            state = client.read_flow_run(run).state
            if state is not None and state.is_final():
                break
            time.sleep(1)
    return f"/v2/runs/flow-run/{run}?tab=Artifacts"


def _report(client: "SyncPrefectClient", run: "UUID") -> "UUID | None":
    """Return the artifact that is the report of a run, if there is one yet."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    found = client.read_artifacts(artifact_filter=of_run)
    return next((each.id for each in found if (each.key or "").startswith("report-")), None)


def close_lost(client: "SyncPrefectClient") -> list[str]:
    """Close runs whose process has ended without a word, as where the power failed.

    Prefect would count them as running for ever, and the pool would take no other.

    Returns:
        Their names.
    """
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Cancelled, Crashed

    open_ones = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    found = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=open_ones))
        ),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
    )
    message = "Its process has ended with the mgd ui that had started it."
    for each in found:
        ended = Cancelled if each.state_type is StateType.CANCELLING else Crashed
        client.set_flow_run_state(each.id, ended(message=message), force=True)
    return [each.name for each in found]


def _make_pool(client: "SyncPrefectClient") -> None:
    """Make a pool of processes, one run at a time; one that is there stays as it is."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(
                name=POOL, type="process", base_job_template=template, concurrency_limit=1
            )
        )


@contextmanager
def _worker(
    server: LocalServer | None, folder: Path, debug: bool
) -> Iterator[subprocess.Popen[bytes]]:
    """Have a worker inside the block, in a process group that its runs belong to as well."""
    own = {
        "PREFECT_HOME": str(prefect_settings().home.absolute()),  # which may be relative
        # Each look writes, and SQLite takes one writer at a time.
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
    }
    if server is not None:
        own |= {"PREFECT_API_URL": server.api_url, "PREFECT_API_AUTH_STRING": server.secret}
    output = None if debug else subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "prefect", "worker", "start", "--pool", POOL],
        # Prefect's own command, which obeys files of its working folder.
        cwd=folder,
        env=dict(os.environ) | SAFE_PATH | own,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,  # Ctrl-C is for this command, which then ends it
        preexec_fn=end_with_parent if sys.platform == "linux" else None,
    )
    try:
        yield process
    finally:
        _end_worker(process)


def _end_worker(worker: "subprocess.Popen[bytes]") -> None:
    """End a worker, after its runs: those finish a stage, and say that they have stopped.

    A worker that is asked to end kills its runs at once. Each of them leads a group of its own.
    """
    until = time.monotonic() + SECONDS_TO_END
    for run in children(worker.pid):
        with suppress(ProcessLookupError):
            os.kill(run, signal.SIGTERM)
    while children(worker.pid) and time.monotonic() < until:
        time.sleep(0.1)
    for run in children(worker.pid):  # it would outlive the server, and wait for it
        with suppress(ProcessLookupError):
            os.kill(run, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        worker.wait(SECONDS_TO_END)
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def _page(server: LocalServer | RunningServer | None, folder: Path, path: str) -> BrowserPage:
    if server is None:
        url = prefect_settings().ui_url or (prefect_settings().api.url or "").removesuffix("/api")
        url = without_login(url).rstrip("/").removesuffix("/v2")
        return BrowserPage(f"{url}{path}", None, None)
    from urllib.parse import quote

    root = server.api_url.removesuffix("/api")
    (folder / "ui" / "v2" / "mgd.html").write_text(_LET_IN, encoding="utf-8")
    address = f"{root}/v2/mgd.html#{quote(server.secret, safe='')}&{quote(path, safe='')}"
    file = folder / f"open-{os.getpid()}.html"
    file.touch(mode=0o600)
    file.write_text(_GO.format(address=address), encoding="utf-8")
    return BrowserPage(f"{root}{path}", server.secret, file)


def _tell(page: BrowserPage, browser: bool) -> None:
    say(f"UI: {page.address}")
    if page.secret and _others_read_output():
        say("It asks for a secret, which is not written into a file that others may read.")
    elif page.secret:
        say(f"It asks for: {page.secret}")
    if page.file:
        say(f"Without being asked: {page.file.as_uri()}")
    opened = browser and webbrowser.open(page.file.as_uri() if page.file else page.address)
    if browser and not opened:
        tell("No browser could be opened here; open the address above.")


def _others_read_output() -> bool:
    """Say whether what is printed goes to a file that other users may read, as logs of jobs are.

    Whoever knows the secret can end a run with a result of their own, which is unpickled.
    """
    try:
        found = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):  # a notebook's, or none
        return False
    return stat.S_ISREG(found.st_mode) and bool(found.st_mode & (stat.S_IRGRP | stat.S_IROTH))


def stop() -> None:
    """End every ``mgd ui`` of this user, with all that it has started; say which.

    Raises:
        ConfigurationError: If there is none, or one does not end.
    """
    ended = end_all()
    if not ended:
        raise ConfigurationError("No mgd ui of yours is at work here. Start one with: mgd ui")
    stuck = [str(process) for process, is_over in ended.items() if not is_over]
    if stuck:
        raise ConfigurationError(
            f"mgd ui was asked to end, and is still there: process {', '.join(stuck)}. End it "
            f"with: kill -9 {' '.join(stuck)}"
        )
    for process in ended:
        tell(f"Ended: mgd ui, process {process}, with its server, worker and runs.")
