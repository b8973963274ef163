"""Secrets in URLs: refused where a URL is set, and hidden where one is printed.

Settings are kept in a store, shown in reports and handed to Prefect's database. So a URL must hold
neither a password nor what a signed link is signed with; both have a place in the environment.
This module does not know torch.
"""

import re
from typing import Annotated, Any, get_args
from urllib.parse import unquote

from pydantic import AfterValidator

from engine.errors import ConfigurationError

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"

# A port is no password, a colon in the path neither, and ``a::b`` chains two filesystems. Passwords
# hold slashes, as keys of S3 do.
_PASSWORD = re.compile(
    rf"({_SCHEME}[^\s/?#@:\[\]'\"]*):(?!:)(?!\d{{1,5}}(?:[/?#\s'\"]|$))[^\s@'\"]*@"
)

# Where nobody logs in by a name alone, the name is a token.
_TOKEN = re.compile(r"((?:https?|webdavs?|davs?)://)[^\s/?#@:\[\]'\"]+@", re.IGNORECASE)

_PARAMETER = re.compile(r"([?&;#])([^\s=&;#?'\"]+)=([^\s&;#'\"]+)")

_NAMES = frozenset(
    (
        *("sig", "sign", "sas", "auth", "authorization", "bearer", "jwt", "hmac"),
        *("pass", "passwd", "pwd", "googleaccessid", "qak", "hdnts", "hdnea", "hdntl"),
    )
)
_ENDINGS = (
    *("signature", "token", "secret", "password", "passphrase", "credential", "credentials"),
    *("apikey", "accesskey", "accesskeyid", "secretkey", "accountkey"),
)
"""Names of parameters, in small letters and without signs."""

_FILES = "FSSPEC_{0}_USERNAME and FSSPEC_{0}_PASSWORD"
_S3 = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and name the object as s3://bucket/key"
_AZURE = "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_SAS_TOKEN"
_HTTP = 'FSSPEC_HTTP=\'{"client_kwargs": {"headers": {"Authorization": "..."}}}\''
_PLACES = {
    **dict.fromkeys(("s3", "s3a"), _S3),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), _AZURE),
    **dict.fromkeys(("gs", "gcs"), "GOOGLE_APPLICATION_CREDENTIALS"),
    **dict.fromkeys(("http", "https"), _HTTP),
    "hf": "HF_TOKEN",
}
"""Protocol to where its secrets belong."""


def redacted(text: str) -> str:
    """Return a text in which the secrets of all URLs are three stars."""
    text = _PASSWORD.sub(r"\1:***@", text)
    text = _TOKEN.sub(r"\1***@", text)
    return _PARAMETER.sub(
        lambda found: (
            f"{found[1]}{found[2]}=***"
            if _is_secret(found[2])
            else f"{found[1]}{found[2]}={found[3]}"
        ),
        text,
    )


def secret_in(url: str) -> str | None:
    """Return which secret a URL holds, in words; None if it holds none, as local paths do."""
    if "://" not in url:
        return None
    if _PASSWORD.search(url):
        return "a password"
    if _TOKEN.search(url):
        return "a token before its host"
    names = [found[2] for found in _PARAMETER.finditer(url) if _is_secret(found[2])]
    return f"the parameter {names[0]}, by which a signed link is known" if names else None


def refuse_secrets(setting: str, url: str) -> None:
    """Refuse a URL with a secret in it.

    Raises:
        ConfigurationError: Names the secret, without its value, and where it belongs.
    """
    reason = _refusal(url)
    if reason is not None:
        raise ConfigurationError(f"{setting} is {redacted(url)}: {reason}")


def _without_secret(url: str) -> str:
    reason = _refusal(url)
    if reason is not None:
        raise ValueError(reason)
    return url


PLACE = "a place that is read or connected to"
"""Mark of settings that name files, addresses or models of a hub."""

SafeUrl = Annotated[str, AfterValidator(_without_secret), PLACE]
"""A path or URL in a setting; one with a secret in it is refused."""


def is_place(annotation: Any) -> bool:  # noqa: ANN401 (the type of a setting)
    """Say whether a setting of this type names a place, or several."""
    if PLACE in getattr(annotation, "__metadata__", ()):
        return True
    return any(is_place(each) for each in get_args(annotation))


def _refusal(url: str) -> str | None:
    secret = secret_in(url)
    if secret is None:
        return None
    protocol = url.split("://")[0].rsplit("::", 1)[-1].lower()
    place = _PLACES.get(protocol, _FILES.format(protocol.upper().replace("+", "_")))
    return (
        f"the URL holds {secret}, and what is set is kept in the store, in reports and in "
        f"databases. Leave it out of the URL and put it into the environment: {place}. Or fetch "
        "the file, and name the copy."
    )


def _is_secret(name: str) -> bool:
    plain = "".join(each for each in unquote(name).lower() if each.isalnum())
    return plain in _NAMES or plain.endswith(_ENDINGS)
