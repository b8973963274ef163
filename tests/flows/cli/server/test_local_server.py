"""Prefect's own server: who may use it, and that it comes up wherever the command is started."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from engine.errors import ConfigurationError
from flows.cli.server import local_server
from tests.helpers.machine.servers import wait_for
from tests.helpers.runs.tiny_recipe import as_options

ROOT = Path(__file__).parents[4]
TINY = [
    "arguments.num_train=60", "arguments.num_objective=40", "arguments.num_validation=40",
    "arguments.num_test=50",
    "training.num_steps=6", "training.batch_size=20", "training.threads=1", "outer.num_steps=1",
    "replay.steps_per_segment=3", "baselines=[]", "metaparameters.injection_step=2",
    "preflight=advise",
]  # fmt: skip


def environment(home, **changes):
    """Return what a new user's shell has, without Prefect's settings of these tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {"PREFECT_HOME": str(home), "PYTHONPATH": str(ROOT)} | changes


def start(folder, home, **changes):
    """Run a tiny recipe as the command does that is installed, from a folder."""
    options = as_options(TINY)
    # The console script has its own folder on the path, not the working one; -P is the same.
    command = [sys.executable, "-P", "-m", "flows.cli.app", "run", "digits-selection", *options]
    return subprocess.Popen(
        [*command, "--store", str(folder / "store"), "--json"],
        env=environment(home, **changes), cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def asked(url, secret=None):
    """Return the status with which a server answers, with and without its secret."""
    import base64

    request = urllib.request.Request(url)
    if secret is not None:
        word = base64.b64encode(secret.encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def prefect_home(monkeypatch, tmp_path):
    """A home of Prefect's own for one test, in this process."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    home = tmp_path / "prefect-home"
    monkeypatch.setenv("PREFECT_HOME", str(home))
    with temporary_settings({PREFECT_HOME: home}, restore_defaults={PREFECT_API_URL}):
        yield home


@pytest.mark.servers
def test_server_asks_for_a_secret_that_no_list_of_processes_shows(prefect_home):
    """Every user of a machine reaches its loopback address, and lists its processes."""
    server = local_server.server_if_needed()
    assert server is not None
    try:
        server.wait()
        listed = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, check=True)
        paths = ["flow_runs/count", "admin/settings", "flow_runs/filter"]

        assert [asked(f"{server.api_url}/{path}") for path in paths] == [401, 401, 401]
        assert asked(f"{server.api_url}/admin/version", "mgd:guessed") == 401
        assert asked(f"{server.api_url}/admin/version", server.secret) == 200
        assert b"flows.cli.server.server_process" in listed.stdout
        assert server.secret.removeprefix("mgd:").encode() not in listed.stdout
        assert len(server.secret) > 40
    finally:
        server.stop()


def test_two_servers_have_two_secrets(monkeypatch):
    """One that is known from yesterday must not open today's."""
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **more: None)
    monkeypatch.setattr(local_server.atexit, "register", lambda stop: None)

    secrets = {local_server.LocalServer().secret for _ in range(2)}

    assert len(secrets) == 2


HOSTILE = {
    "modules of the standard library": ["random.py", "types.py", "logging.py", "ssl.py"],
    "modules of others": ["numpy.py", "uvicorn.py", "sqlalchemy.py", "pydantic.py"],
    "folders": ["prefect/__init__.py", "engine/__init__.py", "tasks/__init__.py"],
}
CALLS = """version: 1
formatters:
  theirs:
    (): subprocess.getoutput
    cmd: touch {canary}
"""
PROXIES = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]


@pytest.mark.servers
@pytest.mark.timeout(900)
def test_run_works_whatever_its_folder_holds_and_whatever_the_proxies_are(tmp_path):
    """A project folder has a random.py, an office has a proxy; neither is about this machine."""
    for name in [name for names in HOSTILE.values() for name in names]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise RuntimeError('taken from the working folder')\n")
    (tmp_path / "theirs.yml").write_text(CALLS.format(canary=tmp_path / "canary"))
    (tmp_path / ".env").write_text("PREFECT_LOGGING_SETTINGS_PATH=theirs.yml\nPREFECT_HOME=x\n")
    (tmp_path / "prefect.toml").write_text(
        '[api]\nurl = "http://127.0.0.1:9/api"\n'
        '[server.database]\nconnection_url = "sqlite+aiosqlite:///theirs.db"\n'
    )
    proxies = dict.fromkeys(PROXIES, "http://127.0.0.1:9") | {"ALL_PROXY": "socks5://127.0.0.1:9"}

    child = start(tmp_path, tmp_path / "home", **proxies)
    output, errors = child.communicate(timeout=600)

    assert child.returncode == 0, errors
    assert '"digest"' in output
    assert "taken from the working folder" not in errors
    assert "ALL_PROXY is not used" in errors
    assert f"Ignored: settings of Prefect in {tmp_path / '.env'}" in errors
    assert [name for name in ("canary", "theirs.db", "x") if (tmp_path / name).exists()] == []


@pytest.mark.servers
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["PREFECT_TEST_MODE", "PREFECT_DEBUG_MODE"])
def test_switches_for_prefects_own_tests_print_no_frames(tmp_path, name):
    """They let inner loggers speak, which say of each request that was cancelled where it was."""
    child = start(tmp_path, tmp_path / "home", **{name: "1"})
    output, errors = child.communicate(timeout=600)

    assert child.returncode == 0, errors
    assert '"digest"' in output
    assert "Traceback" not in errors
    assert "prefect._internal" not in errors


@pytest.mark.servers
@pytest.mark.timeout(1200)
def test_first_starts_at_once_on_a_new_machine_all_run(tmp_path):
    """The tasks of a job array find no database and would all make it."""
    home = tmp_path / "home"
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()

    children = [start(folder, home) for folder in folders]
    ends = [child.communicate(timeout=900) for child in children]

    assert [child.returncode for child in children] == [0] * 4, [errors for _, errors in ends]


REFUSED = {
    "a server of nobody": ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "no Prefect server"),
    "a home that cannot be made": ({"PREFECT_HOME": "/proc/nobody"}, "PREFECT_HOME"),
    "an address that is none": ({"PREFECT_API_URL": "nonsense"}, "nonsense"),
    "a home that is a file": ({"PREFECT_HOME": "/dev/null"}, "PREFECT_HOME"),
    "profiles that are a folder": ({"PREFECT_PROFILES_PATH": "/tmp"}, "PREFECT_PROFILES_PATH"),
    "profiles that are no TOML": ({"PREFECT_PROFILES_PATH": "{tmp}/profiles"}, "profiles"),
    "a setting that is none": ({"PREFECT_CLIENT_MAX_RETRIES": "many"}, "CLIENT_MAX_RETRIES"),
    "a database that cannot be": (
        {"PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////dev/null/x.db"},
        "unable to open database file",
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(900)  # Prefect itself tries for minutes to reach a server that is not there
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if number < 2 else [pytest.mark.servers])
        for number, case in enumerate(REFUSED)
    ],
)
def test_prefect_that_cannot_be_used_is_told_in_one_message(case, tmp_path):
    """A traceback of Prefect's says neither whose setting it is nor what to do."""
    changes, words = REFUSED[case]
    (tmp_path / "profiles").write_text("not = [toml")
    filled = {name: value.format(tmp=tmp_path) for name, value in changes.items()}

    child = start(tmp_path, tmp_path / "home", **filled)
    output, errors = child.communicate(timeout=850)

    assert child.returncode == 2, errors
    assert words in errors
    assert "Traceback" not in errors
    assert "Warning" not in errors  # Prefect's own, before the message
    assert output == ""
    assert not (tmp_path / "store" / "stages").exists()


@pytest.mark.servers
def test_server_that_asks_for_a_log_in_says_so(prefect_home, monkeypatch):
    """Whoever runs a server of the team has to know which variable is meant."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    server = local_server.server_if_needed()
    assert server is not None
    try:
        server.wait()
        with (
            temporary_settings({PREFECT_API_URL: server.api_url}),
            pytest.raises(ConfigurationError, match="PREFECT_API_AUTH_STRING"),
            local_server.connected(None),
        ):
            pass
    finally:
        server.stop()


@pytest.mark.servers
def test_a_user_with_a_server_gets_no_other_one(prefect_home, monkeypatch):
    """A profile may name one, which is seen by the process that would serve."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    prefect_home.mkdir()
    profile = 'active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n'
    (prefect_home / "profiles.toml").write_text(profile)
    for name in ("PREFECT_API_URL", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"):
        monkeypatch.delenv(name, raising=False)
    server = local_server.LocalServer()
    try:
        assert not server.wait()
        with (
            temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
            pytest.raises(ConfigurationError, match="no Prefect server"),
            local_server.connected(server),
        ):
            pass
        assert not (prefect_home / "prefect.db").exists()
    finally:
        server.stop()


@pytest.mark.servers
def test_a_server_that_cannot_start_leaves_no_mark_that_its_database_is_there(
    prefect_home, monkeypatch
):
    """The next one has to make it, and would not look."""
    nowhere = "sqlite+aiosqlite:////dev/null/x.db"
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", nowhere)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    server = local_server.LocalServer()
    try:
        with pytest.raises(ConfigurationError, match="unable to open database file"):
            server.wait()
        assert not list(prefect_home.glob("mgd-migrated-*"))
    finally:
        server.stop()


@pytest.mark.servers
def test_second_server_on_a_database_loads_no_collection_of_blocks(prefect_home, monkeypatch):
    """Half of what a start took was to load Kubernetes and Dask, in order to register nothing."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    first = local_server.LocalServer()
    try:
        assert first.wait()
    finally:
        first.stop()
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    second = local_server.LocalServer()
    try:
        assert second.wait()
        assert list(prefect_home.glob("mgd-migrated-*"))
        assert second._log is not None
        second._log.seek(0)
        loaded = second._log.read()
        assert b"prefect.server.api" in loaded
        assert b"prefect_kubernetes" not in loaded
        assert b"prefect_dask" not in loaded
    finally:
        second.stop()


def test_wait_for_server_is_over_when_its_parent_is(tmp_path):
    """A command that is killed must not leave a server behind."""
    code = (
        "from flows.cli.server.local_server import LocalServer; import time; s = LocalServer(); "
        "print(s._process.pid, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(tmp_path / "home"), cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    server = int(child.stdout.readline())

    child.kill()
    child.wait()

    def is_over():
        try:
            return Path(f"/proc/{server}/stat").read_text().split()[2] == "Z"
        except OSError:
            return True

    wait_for("the end of the server", is_over, 30)


@pytest.mark.parametrize("used", [False, True])
def test_a_server_that_nobody_used_ends_with_the_command(monkeypatch, used):
    """A refused command in a process that goes on would leave it behind, at work for nobody."""
    ended = []

    class Server:
        was_used = used

        def stop(self):
            ended.append(self)

    monkeypatch.setattr(local_server, "LocalServer", lambda **_: Server())
    monkeypatch.delenv("PREFECT_API_URL", raising=False)

    with (
        pytest.raises(ZeroDivisionError),
        local_server.server_of_a_command(),
    ):
        raise ZeroDivisionError

    assert len(ended) == (0 if used else 1)


def test_password_in_the_address_of_a_server_is_not_shown(prefect_home, monkeypatch):
    """What a command says ends in the logs of jobs."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://alice:S3CRETPW@127.0.0.1:9/api"}),
        pytest.raises(ConfigurationError) as refused,
        local_server.connected(None),
    ):
        raise AssertionError("nobody answers there")

    assert "S3CRETPW" not in str(refused.value)
    assert "alice:***@127.0.0.1:9" in str(refused.value)
