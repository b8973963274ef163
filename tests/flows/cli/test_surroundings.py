"""What a command finds around it: proxies, and where the address of a Prefect server is from."""

import os
import subprocess
import sys
import urllib.request

import pytest

from flows.cli import surroundings

PROXIES = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]


@pytest.mark.parametrize("known", ["", "inner.example", "*"])
def test_this_machine_is_reached_without_a_proxy(monkeypatch, known):
    """What the user has listed stays listed."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", known)
    monkeypatch.setenv("no_proxy", known)

    surroundings.pass_by_proxies()

    assert urllib.request.proxy_bypass("127.0.0.1:4200")
    assert urllib.request.proxy_bypass("localhost")
    assert bool(urllib.request.proxy_bypass("inner.example")) is bool(known)
    assert bool(urllib.request.proxy_bypass("elsewhere.example")) is (known == "*")
    assert os.environ["http_proxy"] == "http://127.0.0.1:9"


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:9", "nonsense://127.0.0.1:9", "http://[::1"])
@pytest.mark.parametrize("name", PROXIES)
def test_proxy_that_prefects_client_cannot_have_is_left_out(monkeypatch, capsys, name, url):
    """The client refuses to be made at all, for whichever server."""
    import httpx

    for each in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(each, "")
    monkeypatch.setenv(name, url)

    surroundings.pass_by_proxies()

    httpx.Client().close()
    assert name not in os.environ
    assert f"{name} is not used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (".env", "PREFECT_API_URL=http://127.0.0.1:9/api\n"),
        (".env", "export prefect_api_url='http://127.0.0.1:9/api'\n"),
        ("prefect.toml", '[api]\nurl = "http://127.0.0.1:9/api"\n'),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "http://127.0.0.1:9/api"\n'),
    ],
)
def test_a_server_that_the_working_folder_names_is_said_to_be(tmp_path, monkeypatch, file, content):
    """Whoever wrote that folder would have the run; the user sees where the address is from."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert surroundings.origin_of_server() == "Prefect's active profile"

    (tmp_path / file).write_text(content)

    assert surroundings.origin_of_server() == str(tmp_path / file)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:8/api")
    assert surroundings.origin_of_server() == "the environment"


_ASKED = """
from flows.cli.surroundings import origin_of_server, prefect_settings
print(prefect_settings().api.url)
print(origin_of_server())
"""


@pytest.mark.slow
@pytest.mark.parametrize("above", range(4))
def test_origin_of_the_server_is_where_prefect_itself_has_the_address_from(tmp_path, above):
    """Each place names another address; Prefect's choice says which one is in force."""
    home, folder = tmp_path / "home", tmp_path / "folder"
    home.mkdir()
    folder.mkdir()
    elsewhere = folder / "theirs.toml"
    elsewhere.write_text(
        'active = "x"\n[profiles.x]\nPREFECT_API_URL = "http://127.0.0.1:9/profile"\n'
    )
    texts = {
        ".env": 'Prefect_Api_Url="http://127.0.0.1:9/.env"\n',
        "prefect.toml": '[api]\nurl = "http://127.0.0.1:9/prefect.toml"\n',
        "pyproject.toml": '[tool.prefect.api]\nurl = "http://127.0.0.1:9/pyproject.toml"\n',
    }
    for file, text in list(texts.items())[above:]:
        (folder / file).write_text(text)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(home), "PREFECT_PROFILES_PATH": str(elsewhere)}

    done = subprocess.run(
        [sys.executable, "-c", _ASKED],
        cwd=folder,
        env=environment | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )

    url, origin = done.stdout.splitlines()
    place = url.rpartition("/")[2]
    files = {file: str(folder / file) for file in texts}
    assert origin == (files | {"profile": f"Prefect's active profile in {elsewhere}"})[place]
