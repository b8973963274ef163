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
from engine.secret_words import (
    ASCII_SIGNS,
    assigned_secret,
    decoded,
    hidden,
    is_secret_pair,
    is_secret_setting,
    known_key,
    looks_drawn,
    plain_name,
)

_STOPS = re.compile(r"[\s'\"]")
_BEHIND_A_HOST = re.compile(r"[/?#\s'\"]")

_SCHEMES = (
    "https?|wss?|webdavs?|davs?|ftps?|sftp|ssh|scp|smb|s3a?|gs|gcs|az|abfss?|adl|hdfs|webhdfs|hf|git"
    "|postgres(?:ql)?|mysql|redis|mongodb|amqp"
)
"""What a URL begins with, also one whose slashes somebody has forgotten."""

_MARK = r"(?<![^\s'\"=(,;:<>/\\])[/\\]{2}(?![/\\])"
"""Two slashes that begin a host, and do not stand in the middle of a path."""

_WITHOUT_SLASHES = rf"(?<![\w+.-])(?:{_SCHEMES})(?::(?![/\\:])|[/\\]{{2}}(?![/\\]))"
_ONE_SLASH = r"(?<=[A-Za-z0-9+.-]{2}):[/\\](?![/\\])"

# A port is no password, a colon in the path neither, and ``a::b`` chains two filesystems. Passwords
# hold slashes, as keys of S3 do, so what follows the colon up to the next @ is looked for by steps:
# a pattern for the whole takes hours for a text of a megabyte that somebody has made for it.
_PASSWORD = r"[^/?#@:\[\]]*:(?!:)(?!\d{1,5}[/?#])"
_USER = re.compile(rf"(?:{_MARK}|{_ONE_SLASH}|{_WITHOUT_SLASHES}){_PASSWORD}", re.IGNORECASE)

_SPACED = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]{0,31}://[^\s/?#@:\[\]]{1,256}:)(?!\d{1,5}(?:[^\w]|$))"
    r"(?=[^\s@/?#]{1,256}\s)[^@/?#'\"]{1,256}(?=@[\[\w])"
)
"""A password with spaces, or ends of lines, in a URL within a sentence."""

_NOTHING_BEFORE = re.compile(r"[^/\\?#@:\[\]]+:(?![:/\\])(?!\d{1,5}[/?#])")
"""Begins a location of which the scheme was forgotten: ``user:password@host``."""

_LOGIN = re.compile(
    r"(?:^|[=(<>{,;|`])(?!mailto:)[^/\\?#:@=(<>{}\[\],;|`)]+:(?![:/\\])(?!\d{1,5}[/?#])",
    re.IGNORECASE,
)
"""Begins the same in a sentence: where a word does, and not in the middle of a path."""

_HOST = re.compile(r"(?!sha\d{3}:)[\[\w]", re.ASCII)
"""What follows a login; images have their digest there."""

_SHORTEST = 2
"""Signs of a password; ``{a:b@c}`` is Python too."""

_LIKE_A_URL = re.compile(rf"[/\\]{{2}}|[A-Za-z0-9+.-]{{2,64}}:[/\\]|(?:{_SCHEMES}):", re.IGNORECASE)
"""Begins what was meant as a URL, and lacks a slash or its scheme."""

_OWNER_AND_NAME = "github:"
"""Protocol whose URLs have a colon and an @, and no password: ``github://owner:name@branch/path``."""

# Where nobody logs in by a name alone, the name is a token.
_TOKEN = re.compile(
    r"(?<![\w+.-])(?:git\+)?(?:https?|wss?|webdavs?|davs?):[/\\]{0,3}(?=[^/\\?#@:\[\]]+$)",
    re.IGNORECASE,
)

_WORD = re.compile(r"[^\s'\"]+")

_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
"""What stands for a sign in a URL."""

_PARAMETER = re.compile(
    r"([?&;#])([^\s=&;#?'\"]+)=(?=[^\s&;#'\"])([^\s&;#?'\"]*(?:\?(?![^\s=&;#?'\"]+=)[^\s&;#?'\"]*)*)"
)
"""A URL may be the value of a parameter, and have parameters of its own."""

_NAMES = frozenset(
    (
        *("sig", "sign", "sas", "auth", "authorization", "bearer", "jwt", "hmac"),
        *(
            "pass",
            "passwd",
            "pwd",
            "pw",
            "passcode",
            "pat",
            "otp",
            "googleaccessid",
            "qak",
            "hdnts",
            "hdnea",
            "hdntl",
        ),
    )
)
_ENDINGS = (
    *("signature", "token", "secret", "password", "passphrase", "credential", "credentials"),
    *("apikey", "accesskey", "accesskeyid", "secretkey", "accountkey", "authkey", "sharedkey"),
    *("subscriptionkey", "privatekey", "signingkey", "sessionid"),
)
"""Names of parameters, in small letters and without signs."""

_OF_BOTH = ("key", "code", "session", "sid", "ticket")
"""Ends of names that stand for a secret or for something else, which the value decides."""

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


_READ = 4096
"""Characters of a text of which the beginning is shown."""


def beginning(value: object, length: int) -> str:
    """Return the beginning of what somebody's data holds, with the secrets of URLs as stars.

    They are looked for before the text is cut: half of a password has no @ behind it.

    Args:
        value: Shown as ``str`` does.
        length: Characters, at most.
    """
    return redacted(str(value)[:_READ])[:length]


def redacted(text: str) -> str:
    """Return a text in which the secrets of all URLs are three stars.

    Cost:
        Rises with the length of the text, whatever it says.
    """
    if not text.isascii():  # clients take wide signs for narrow ones, or people have typed them
        narrow = text.translate(ASCII_SIGNS)
        text = narrow if _redacted(narrow) != narrow else text
    if "%" in text:  # what is encoded is shown as it is, or decoded with its stars
        text = _WORD.sub(_decoded_if_secret, text)
    return _redacted(text)


def _redacted(text: str) -> str:
    text = _SPACED.sub(r"\1***", text) if "://" in text and "@" in text else text
    return _PARAMETER.sub(
        lambda found: (
            f"{found[1]}{found[2]}=***"
            if _is_secret(found[2], found[3])
            else f"{found[1]}{found[2]}={found[3]}"
        ),
        _without_users(hidden(text)),
    )


def _decoded_if_secret(found: re.Match[str]) -> str:
    if not _ESCAPE.search(found[0]):
        return found[0]
    shown = _redacted(found[0])
    plain = decoded(shown)
    return shown if _redacted(plain) == plain else _redacted(plain)


def without_login(url: str) -> str:
    """Return the URL of a page without who logs in there, as a link that others may see."""
    protocol, sign, rest = url.partition("://")
    end = re.search(r"[/?#]", rest)
    host, path = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    return f"{protocol}{sign}{host.rpartition('@')[2]}{path}" if sign else url


def _without_users(text: str) -> str:
    """Return a text without the passwords, and the tokens, that stand before hosts."""
    if "@" not in text:
        return text
    *parts, last = text.split("@")
    shown, hidden = [], False
    for number, (part, behind) in enumerate(zip(parts, [*parts[1:], last], strict=True)):
        if hidden and not _BEHIND_A_HOST.search(part):
            continue  # a password with an @ in it
        # What an @ ends begins behind the last sign that no URL in a text has.
        begin = max((found.end() for found in _STOPS.finditer(part)), default=0)
        kept, sign = _before_secret(part[begin:])
        if not sign and (begin or not number) and _HOST.match(behind):
            kept, sign = _before_login(part[begin:])
        hidden = bool(sign)
        shown.append(part[:begin] + kept + sign)
    return "@".join([*shown, last])


def _before_secret(part: str) -> tuple[str, str]:
    """Return the text before a secret that an @ ends, and stars in its place if there is one.

    Args:
        part: A URL, or a text, up to that @.
    """
    password = _USER.search(part)
    if password and not part[: password.start()].lower().endswith(_OWNER_AND_NAME):
        return part[: password.end()], "***"
    token = _TOKEN.search(part)
    return (part[: token.end()], "***") if token else (part, "")


def _before_login(word: str) -> tuple[str, str]:
    """Do the same for a word of a sentence that may be a login, ``user:password``."""
    # Behind the last bracket, for `x[i:j]@w` is Python; it is looked for first, to go once through.
    bracket = max(word.rfind(each) for each in "[](){}")
    login = _LOGIN.search(word, max(bracket, 0))
    if login is None or len(word) - login.end() < _SHORTEST:
        return word, ""
    return word[: login.end()], "***"


def secret_in(url: str, *, is_place: bool = False) -> str | None:
    """Return which secret a URL holds, in words; None if it holds none, as local paths do.

    Args:
        url: Or what was meant as one: slashes, and all before a host, may have been forgotten.
        is_place: It can be nothing but a location, so ``user:password@host`` is one.
    """
    url = url.translate(ASCII_SIGNS)
    plain = decoded(url) if "%" in url else url
    return _secret_in(url, is_place) or _secret_in(plain, is_place) or assigned_secret(plain)


def _secret_in(url: str, is_place: bool) -> str | None:
    if "@" not in url and "=" not in url:
        return None
    # A URL that is set is one from end to end, so its password may hold spaces and quotes.
    parts = _STOPS.sub("_", url).split("@")[:-1]
    if is_place and parts and _NOTHING_BEFORE.match(parts[0]):
        return "a password"
    for part in parts:
        kept, sign = _before_secret(part)
        if sign:
            return "a token before its host" if kept.endswith(("/", "\\")) else "a password"
    if "://" not in url and not _LIKE_A_URL.match(url):
        return None
    pairs = [(found[2], found[3]) for found in _PARAMETER.finditer(url)]
    names = [name for name, value in pairs if _is_secret(name, value)]
    return f"the parameter {names[0]}, by which a signed link is known" if names else None


def without_secrets(value: Any) -> Any:  # noqa: ANN401 (any setting, wrong ones too)
    """Return a setting as a message may show it: without the secrets of its URLs and options."""
    if isinstance(value, str):
        return _up_to_parameters(value) if secret_in(value, is_place=True) else value
    if isinstance(value, dict):
        return {
            key: "***"
            if isinstance(key, str) and is_secret_setting(key, each)
            else without_secrets(each)
            for key, each in value.items()
        }
    if isinstance(value, list) and is_secret_pair(value):
        return [value[0], "***"]
    return [without_secrets(each) for each in value] if isinstance(value, list) else value


def refuse_secrets(setting: str, url: str, *, is_place: bool = False) -> None:
    """Refuse a URL with a secret in it; see ``secret_in``.

    Raises:
        ConfigurationError: Names the secret, without its value, and where it belongs.
    """
    reason = _refusal(url, is_place)
    if reason is not None:
        raise ConfigurationError(f"{setting} is {_up_to_parameters(url)}: {reason}")


def refuse_secrets_in(value: Any, name: str) -> None:  # noqa: ANN401 (any JSON value)
    """Refuse secrets wherever in a setting they are: all of it is kept and shown.

    Raises:
        ConfigurationError: Names the setting, and where its secret belongs.
    """
    waiting = [(name, value)]
    while waiting:  # not by calls, since settings may be nested as deeply as somebody has typed
        name, value = waiting.pop()
        if isinstance(value, str):
            refuse_secrets(name, value)
        elif isinstance(value, dict | list | tuple):
            if is_secret_pair(value):
                raise ConfigurationError(_OF_A_SETTING.format(name=name))
            for key, each in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(key, str) and is_secret_setting(key, each):
                    raise ConfigurationError(_OF_A_SETTING.format(name=f"{name}.{key}"))
                waiting.append((f"{name}.{key}"[:500], each))


_OF_A_SETTING = (
    "{name} holds a secret, and what is set is kept in the store, in reports and in databases. "
    "Leave it out, and let the problem's function read it from the environment."
)


def _without_secret(url: str) -> str:
    reason = _refusal(url, True)
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


def _refusal(url: str, is_place: bool) -> str | None:
    secret = secret_in(url, is_place=is_place)
    if secret is None:
        return None
    scheme = re.match(rf"(?:.*::)?({_SCHEMES})\b", url.split("://")[0], re.IGNORECASE)
    protocol = scheme[1].lower() if scheme else url.split("://")[0].rsplit("::", 1)[-1].lower()
    place = _PLACES.get(protocol)
    if place is None and ("://" in url or scheme):
        place = _FILES.format(protocol.upper().replace("+", "_"))
    if place is None:
        place = f"{_FILES.format('FTP')}, for one. A folder of such a name is written with ./ first"
    return (
        f"the URL holds {secret}, and what is set is kept in the store, in reports and in "
        f"databases. Leave it out of the URL and put it into the environment: {place}. Or fetch "
        "the file, and name the copy."
    )


def _up_to_parameters(url: str) -> str:
    """Return a URL that was refused up to its first parameter, and without who logs in."""
    scheme, sign, rest = url.rpartition("://")
    rest = re.split(r"[?#;]", rest.rpartition("@")[2], maxsplit=1)[0]
    return redacted(f"{scheme}{sign}{'***@' * ('@' in url)}{rest}")[:500]


def _is_secret(name: str, value: str) -> bool:
    plain, value = plain_name(unquote(name)), value.rstrip(".,:)]}>")  # of the sentence around it
    if plain in _NAMES or plain.endswith(_ENDINGS) or known_key(value):
        return True
    return plain.endswith(_OF_BOTH) and looks_drawn(value)
