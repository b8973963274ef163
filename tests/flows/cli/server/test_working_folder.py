"""A working folder decides nothing about Prefect: neither a server, nor a log, nor a database."""

import os
import subprocess
import sys

import pytest

from flows.cli.server.working_folder import left_out

PROFILE = 'active = "x"\n[profiles.x]\nPREFECT_API_URL = "http://127.0.0.1:9/theirs"\n'
FOLDERS = {
    "server": {".env": "PREFECT_API_URL=http://127.0.0.1:9/api\n"},
    "server, otherwise spelt": {".env": " export prefect_api_url='http://127.0.0.1:9/api'\n"},
    "log": {".env": "PREFECT_LOGGING_SETTINGS_PATH=logging.yml\nPREFECT_LOGGING_LEVEL=DEBUG\n"},
    "home": {".env": "PREFECT_HOME=elsewhere\n"},
    "profiles": {".env": "PREFECT_PROFILES_PATH=theirs.toml\n", "theirs.toml": PROFILE},
    "log-in": {".env": "PREFECT_API_AUTH_STRING=a:b\nPREFECT_CLIENT_CUSTOM_HEADERS={}\n"},
    "no value": {".env": "PREFECT_LOGGING_LEVEL=nonsense\n"},
    "no text": {".env": b"PREFECT_API_URL=\xff\n"},
    "toml": {"prefect.toml": '[api]\nurl = "http://127.0.0.1:9/api"\n[results]\npersist = 1\n'},
    "database": {"prefect.toml": '[server.database]\nconnection_url = "sqlite+aiosqlite:///x.db"\n'},
    "toml, profiles": {"prefect.toml": 'profiles_path = "theirs.toml"\n', "theirs.toml": PROFILE},
    "toml, broken": {"prefect.toml": "[api\nurl = "},
    "toml, no text": {"prefect.toml": b"\xff\xfe\x00[api]"},
    "toml, nested": {"prefect.toml": "a = " + "[" * 100_000},
    "project": {"pyproject.toml": '[tool.prefect.api]\nurl = "http://127.0.0.1:9/api"\n'},
    "project, profiles": {
        "pyproject.toml": '[tool.prefect]\nprofiles_path = "theirs.toml"\n',
        "theirs.toml": PROFILE,
    },
    "project, broken": {"pyproject.toml": "[tool.prefect\n"},
}  # fmt: skip
OF_OTHERS = {
    "empty": {},
    "database of others": {".env": "database=abc123\nAPI_URL=http://127.0.0.1:9/api\n"},
    "commented out": {".env": "# PREFECT_API_URL=http://127.0.0.1:9/api\n"},
    "project of others": {"pyproject.toml": "[tool.ruff]\nline-length = 100\n"},
}


def put(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def settings():
    """Return all of Prefect's settings as they are read in this working folder."""
    from prefect.settings import Settings

    return Settings().model_dump(context={"include_secrets": True})


@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS)
def test_prefects_settings_are_those_of_an_empty_folder(tmp_path, monkeypatch, files):
    """A log configuration calls what it names; a server answers with what is unpickled."""
    monkeypatch.delenv("PREFECT_PROFILES_PATH", raising=False)
    empty, theirs = tmp_path / "empty", tmp_path / "theirs"
    empty.mkdir()
    theirs.mkdir()
    put(theirs, files)
    monkeypatch.chdir(empty)
    wanted = settings()

    monkeypatch.chdir(theirs)

    assert settings() == wanted


@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS)
def test_what_is_not_obeyed_is_said(tmp_path, monkeypatch, files):
    """Somebody who wrote these files for Prefect has to see why they do nothing here."""
    put(tmp_path, files)
    monkeypatch.chdir(tmp_path)

    said = left_out()

    # Whether a broken file of many tools is meant for Prefect, nobody knows.
    if files not in (FOLDERS["project, broken"], FOLDERS["toml, no text"], FOLDERS["no text"]):
        assert said is not None
        assert str(tmp_path / next(iter(files))) in said
        assert "PREFECT_API_URL" in said


@pytest.mark.parametrize("files", OF_OTHERS.values(), ids=OF_OTHERS)
def test_nothing_is_said_of_files_that_set_nothing_of_prefects(tmp_path, monkeypatch, files):
    """Most folders of Python have a pyproject.toml."""
    put(tmp_path, files)
    monkeypatch.chdir(tmp_path)

    assert left_out() is None


@pytest.mark.parametrize("name", [".env", "prefect.toml", "pyproject.toml"])
def test_what_is_no_file_is_not_opened(tmp_path, monkeypatch, name):
    """A pipe would be waited for; a folder and a link that leads nowhere cannot be read."""
    monkeypatch.chdir(tmp_path)
    for make in (lambda: os.mkfifo(name), lambda: os.mkdir(name), lambda: os.symlink("x", name)):
        make()
        assert left_out() is None
        settings()
        os.rmdir(name) if os.path.isdir(name) else os.unlink(name)


_SAYS = """
{first}
from prefect.settings import get_current_settings, PREFECT_UI_ENABLED, temporary_settings
with temporary_settings({{PREFECT_UI_ENABLED: False}}):  # reads all of them anew
    print(get_current_settings().api.url, get_current_settings().logging.level)
"""


@pytest.mark.slow
def test_a_process_of_a_command_obeys_no_folder_and_another_one_does(tmp_path):
    """The second is the control: the folder is one that Prefect would obey."""
    put(tmp_path, FOLDERS["server"] | FOLDERS["log"] | FOLDERS["toml"])
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}

    def said(first):
        return subprocess.run(
            [sys.executable, "-P", "-c", _SAYS.format(first=first)],
            cwd=tmp_path,
            env=kept | {"PYTHONPATH": os.getcwd(), "PREFECT_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()

    assert said("import flows.cli.app") == ["None", "INFO"]
    assert said("import flows.cli.server.server_process") == ["None", "INFO"]
    assert said("") == ["http://127.0.0.1:9/api", "DEBUG"]


def test_a_version_of_prefect_that_reads_folders_by_other_means_is_refused(monkeypatch):
    """Otherwise the files would be obeyed again, and nobody would notice."""
    from prefect.settings import base, sources

    from flows.cli.server.working_folder import _read_no_folder

    monkeypatch.delattr(sources.TomlConfigSettingsSourceBase, "of_no_folder")
    for name in ("_get_profiles_path_from_toml", "dotenv"):
        with monkeypatch.context() as within:
            within.delattr(sources, name)
            with pytest.raises(AttributeError, match=name):
                _read_no_folder(base)


_DRAWS = """
{first}
import os
import matplotlib
print(matplotlib.rcParams["font.size"], os.getcwd())
"""


@pytest.mark.slow
def test_drawings_of_a_command_obey_no_folder(tmp_path):
    """The second is the control."""
    put(tmp_path, {"matplotlibrc": "font.size: 77\n"})

    def said(first):
        return subprocess.run(
            [sys.executable, "-P", "-c", _DRAWS.format(first=first)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()

    assert said("import flows.cli.app") == ["10.0", str(tmp_path)]
    assert said("") == ["77.0", str(tmp_path)]


def test_a_deployment_says_that_the_folder_names_a_server_and_is_not_obeyed(tmp_path, monkeypatch):
    """It needs one, and who wrote the file believes that it has one."""
    from types import SimpleNamespace

    from typer.testing import CliRunner

    from flows.cli.app import app

    put(tmp_path, FOLDERS["toml"])
    monkeypatch.chdir(tmp_path)
    nobody = SimpleNamespace(api=SimpleNamespace(url=None))
    monkeypatch.setattr("flows.cli.deploying.prefect_settings", lambda: nobody)
    monkeypatch.setattr("flows.cli.terminal.watching.prepare_process", lambda debug: None)

    done = CliRunner().invoke(app, ["deploy", "digits-selection", "--pool", "mgd-process"])

    assert done.exit_code == 2
    assert f"Ignored: settings of Prefect in {tmp_path / 'prefect.toml'}" in done.output
