"""Surroundings of a command: Prefect's settings, and proxies.

Nothing of it may decide whether a run on this machine works.
"""

import os
import sys
import urllib.request
import warnings
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError
from engine.secret_urls import redacted

if TYPE_CHECKING:
    from prefect.settings import Settings

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""This machine, which no proxy can reach in its stead."""

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Keeps the working folder off the module path of processes that are started: a ``random.py`` or a
folder ``prefect`` there would take the place of the real one."""


def prefect_settings() -> "Settings":
    """Return Prefect's settings.

    Raises:
        ConfigurationError: If Prefect cannot read them, and so cannot even be imported.
    """
    try:
        with warnings.catch_warnings():
            # Whether home and profiles can be used is told where they are needed, in one message.
            warnings.filterwarnings("ignore", "Failed to (create the Prefect home|load profiles)")
            from prefect.settings import get_current_settings

            return get_current_settings()
    except Exception as error:  # whatever a file, a variable or a folder is wrong about
        raise ConfigurationError(
            f"Prefect cannot read its settings: {type(error).__name__}: {brief(error)}. Look at "
            f"{_named_sources()}: correct or unset what is wrong there."
        ) from error


def _named_sources() -> str:
    """Name where Prefect's settings come from on this machine."""
    variables = sorted(name for name in os.environ if name.startswith("PREFECT_"))
    places = [
        f"the variables {', '.join(variables)}" if variables else "",
        "the file profiles.toml in PREFECT_HOME (by default ~/.prefect)",
    ]
    return "; ".join(place for place in places if place)


def origin_of_server() -> str:
    """Say where the address of the user's Prefect server comes from.

    Prefect's own sources are asked, in their order: a second reader of the same places would miss
    spellings. The file of the profile is named, since ``PREFECT_PROFILES_PATH`` may have replaced
    it.
    """
    import pydantic_settings as given
    from prefect.settings.models.api import APISettings
    from prefect.settings.sources import ProfileSettingsTomlLoader

    sources = APISettings.settings_customise_sources(
        APISettings,
        given.InitSettingsSource(APISettings, {}),
        given.EnvSettingsSource(APISettings),
        given.DotEnvSettingsSource(APISettings, env_file=None),
        given.SecretsSettingsSource(APISettings),
    )
    for source in sources:
        # A source answers under the name of the setting, or of the variable.
        if any(name.lower() in _ADDRESS and value for name, value in source().items()):
            if isinstance(source, ProfileSettingsTomlLoader):
                return f"Prefect's active profile in {source.profiles_path}"
            if type(source).__name__ == "EnvFilterSettingsSource":
                return "the environment"
            return "Prefect's settings"
    return "Prefect's active profile"


_ADDRESS = ("url", "prefect_api_url")


def brief(error: BaseException) -> str:
    """Return an error's message on one line of bearable length."""
    words = redacted(" ".join(str(error).split()))
    return f"{words[:297]}..." if len(words) > 300 else words.rstrip(".")


def pass_by_proxies() -> None:
    """Let this process and its children reach this machine without a proxy, others as before.

    Prefect's client would ask the proxy for a server on 127.0.0.1, and wait for minutes; and it
    cannot be made at all while a variable names a proxy of a kind that it does not know.
    """
    import httpx

    listed = urllib.request.getproxies_environment().get("no", "")
    hosts = [host.strip().strip("[]") for host in listed.split(",") if host.strip()]
    together = [*hosts, *(host for host in LOOPBACK if host not in hosts)]
    # All; beside others, urllib would not know it.
    _list_without_proxy(["*"] if "*" in hosts else together)
    for name in [name for name in os.environ if name.lower() in _PROXIES]:
        url = os.environ[name]
        try:
            httpx.HTTPTransport(proxy=url if "://" in url else f"http://{url}").close()
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            if url:
                print(f"{name} is not used: {brief(error)}.", file=sys.stderr)  # noqa: T201 (for people)
            del os.environ[name]
    if hosts and not _can_be_listed(together):
        strange = [host for host in hosts if not _can_be_listed([host])]
        said = brief(Exception(", ".join(strange)))
        print(f"no_proxy is used without {said}, which is not a host name.", file=sys.stderr)  # noqa: T201 (for people)
        _list_without_proxy([host for host in together if host not in strange])


def _list_without_proxy(hosts: list[str]) -> None:
    os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(hosts))


def _can_be_listed(hosts: list[str]) -> bool:
    """Say whether a client like Prefect's can be made while these are reached without a proxy."""
    import httpx

    kept = os.environ["no_proxy"]
    _list_without_proxy(hosts)
    try:
        httpx.Client().close()
    except (ValueError, httpx.InvalidURL):
        return False
    finally:
        _list_without_proxy([kept])
    return True


_PROXIES = {"http_proxy", "https_proxy", "all_proxy"}


def without_proxies(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment without proxies, for a process that only serves this machine."""
    return {
        name: value for name, value in environment.items() if not name.lower().endswith("_proxy")
    }
