"""What a command finds around it: proxies, and where the address of a Prefect server is from."""

import os
import subprocess
import sys
import urllib.request

import pytest

from flows.cli.server import surroundings

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


@pytest.mark.parametrize("strange", ["a:b:c", "\u00e4.example"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks9://127.0.0.1:9"])
def test_host_that_prefects_client_cannot_list_is_left_out(monkeypatch, capsys, strange, proxy):
    """One such word among others, and no client could be made; the others stay."""
    import httpx

    monkeypatch.setenv("http_proxy", proxy)
    for each in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(each, f"inner.example, {strange},,[::1],10.0.0.0/8")

    surroundings.pass_by_proxies()

    httpx.Client().close()
    listed = os.environ["no_proxy"].split(",")
    assert listed == ["inner.example", "::1", "10.0.0.0/8", "127.0.0.1", "localhost"]
    assert f"no_proxy is used without {strange}" in capsys.readouterr().err


_ASKED = """
from flows.cli.server.surroundings import origin_of_server, prefect_settings
print(prefect_settings().api.url)
print(origin_of_server())
"""


@pytest.mark.slow
@pytest.mark.parametrize("above", range(3))
def test_origin_of_the_server_is_where_prefect_itself_has_the_address_from(tmp_path, above):
    """Each place names another address; Prefect's choice says which one is in force."""
    home, elsewhere = tmp_path / "home", tmp_path / "theirs.toml"
    home.mkdir()
    profile = 'active = "x"\n[profiles.x]\nPREFECT_API_URL = "http://127.0.0.1:9/{}"\n'
    elsewhere.write_text(profile.format(elsewhere))
    (home / "profiles.toml").write_text(profile.format(home / "profiles.toml"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    places = {
        "Prefect_Api_Url": "http://127.0.0.1:9/the environment",
        "PREFECT_PROFILES_PATH": str(elsewhere),
        "PREFECT_HOME": str(home),
    }

    done = subprocess.run(
        [sys.executable, "-c", _ASKED],
        cwd=tmp_path,
        env=environment | dict(list(places.items())[above:]) | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )

    url, origin = done.stdout.splitlines()
    place = url.removeprefix("http://127.0.0.1:9/")
    assert origin == (f"Prefect's active profile in {place}" if above else place)
    assert str((elsewhere, home)[above - 1]) in place or above == 0
