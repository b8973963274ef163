"""Secrets that are no part of a URL: assignments, headers, and keys that say whose they are.

Connection strings, options and messages of libraries write ``password=...``, ``"token": "..."`` or
``Authorization: Bearer ...``. Of an assignment the name decides; a few services begin their keys so
that anybody knows one without a name. This module does not know torch.
"""

import base64
import binascii
import re
from typing import Any
from urllib.parse import unquote

ASCII_SIGNS = str.maketrans(dict(zip("＠﹫：﹕＝﹦／？＆＃", "@@::==/?&#", strict=True)))
"""Wide signs of East Asian keyboards to the signs that they stand for in URLs and assignments."""

_STRONG = (
    *("password", "passwd", "passphrase", "passcode", "apikey", "accesskey", "accountkey"),
    *("sharedkey", "sharedaccesskey", "privatekey", "signingkey", "secretkey", "secretaccesskey"),
    *("clientsecret", "sastoken", "authtoken", "accesstoken", "sessiontoken", "refreshtoken"),
    *("idtoken", "bearertoken", "authorization"),
)
"""Ends of names, in small letters and without signs, whose values are secrets."""

_WHOLE = frozenset(("pwd", "bearer", "hftoken", "githubtoken", "secret"))
"""Whole names likewise."""

_KEY = re.compile(
    r"(?<![\w-])(?:AIza[\w-]{30,80}|A(?:KI|SI)A[A-Z0-9]{16}(?!\w)|gh[pousr]_\w{30,255}"
    r"|github_pat_\w{30,255}|glpat-[\w-]{18,255}|hf_[A-Za-z0-9]{30,255}|sk-(?=[\w-]*\d)[\w-]{30,255}"
    r"|xox[abprs]-[\w-]{20,255}|eyJ[\w-]{8,4096}\.[\w-]{8,4096}\.[\w-]{0,4096})",
    re.ASCII,
)
"""Keys of services, which begin so that they are found where they were left."""

_HOOK = re.compile(
    r"(hooks\.slack\.com/(?:services|workflows)/|discord(?:app)?\.com/api/webhooks/)[\w/.-]+"
)
"""Addresses that whoever knows them may write to."""

_ASSIGNED = re.compile(
    r"(?<![\w-])([A-Za-z][\w-]{0,63})(['\"]?[ \t]{0,3}[=:][ \t]{0,3}"
    r"['\"]?(?:(?:Bearer|Basic|Token)[ \t]{1,3})?)([^\s'\",;&})\]]+)",
    re.ASCII | re.IGNORECASE,
)

_QUOTED = re.compile(
    r"(?<![\w-])([A-Za-z][\w-]{0,63})(['\"]?[ \t]{0,3}[=:][ \t]{0,3}[bru]?(['\"]))"
    r"([^'\"\n]{1,512})(?=\3)",
    re.ASCII,
)
"""The same with a value of several words."""

_PAIR = re.compile(
    r"((?:auth|BasicAuth)['\"]?[ \t]{0,3}[=:]?[ \t]{0,3}[\[(][ \t]{0,3}(['\"])[^'\"\n]{0,256}\2,"
    r"[ \t]{0,3}['\"])([^'\"\n]{1,512})(?=['\"])",
    re.IGNORECASE,
)
"""Who logs in as HTTP clients are told it: ``auth=(user, password)``."""

_COOKIE = re.compile(
    r"(?<![\w-])((?:Set-)?Cookies?['\"]?[ \t]{0,3}:[ \t]{0,3}['\"]?[\w.-]{1,128}=)"
    r"[^\s'\"][^'\"\r\n]*",
    re.ASCII | re.IGNORECASE,
)
"""A header of cookies, to the end of its line: whoever sends them is logged in."""

_HEADER = re.compile(r"[\w-]{0,64}authorization|(?:set-)?cookie|\w+-[\w-]{1,64}", re.IGNORECASE)
"""Names that are those of headers, and of no column: columns have no hyphens."""

_BASIC = re.compile(r"(?<![\w-])(Basic[ \t]{1,3})([\w+/-]{4,4096}={0,2})", re.ASCII | re.IGNORECASE)

_DRAWN = re.compile(r"(?=.*\d)(?=.*[a-z])(?=.*[A-Z])[\w~+=%-]{20,}|[0-9a-f]{32,}", re.ASCII)
"""Values that were drawn at random, and are no name of a file."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
"""Is drawn too; a key of this form is some record's number, and a token is one."""

_KNOWN = re.compile(
    r"(?:AIza|AKIA|ASIA|ghp_|gho_|ghs_|github_pat_|glpat-|hf_|sk-|xox[abp]-|eyJ)[\w.-]{12,}"
)
"""Values of which the beginning says that they are keys of a service."""

_IF_DRAWN = ("key", "token")
"""Names of settings whose value is a secret if it looks drawn: a text has tokens, a table keys."""

_BEARER = re.compile(r"(?<![\w-])(Bearer[ \t]{1,3})([\w.~+/=-]{8,})", re.ASCII | re.IGNORECASE)

_NOTHING = frozenset(("none", "null", "true", "false", "str", "bytes", "***"))
"""Values that say that there is no secret, or of what type one is."""

_DEEPEST = 3
"""How often somebody may have encoded a URL."""


def hidden(text: str) -> str:
    """Return a text in which the values of such assignments, and such keys, are three stars."""
    text = _KEY.sub("***", _HOOK.sub(r"\1***", text))
    if "'" in text or '"' in text:
        text = _PAIR.sub(r"\1***", _QUOTED.sub(_without_quoted, text))
    text = _BASIC.sub(_without_login, _COOKIE.sub(r"\1***", text))
    return _BEARER.sub(r"\1***", _ASSIGNED.sub(_without_value, text))


def assigned_secret(text: str) -> str | None:
    """Return the kind of secret that a setting holds, in words; None if it holds none.

    In a setting a colon may stand in any sentence, so only names in quotation marks have one.
    """
    if _KEY.search(text):
        return "a key of a service"
    if _HOOK.search(text):
        return "an address that whoever knows it may write to"
    if any(_is_login(found[2]) for found in _BASIC.finditer(text)):
        return "a login of HTTP"
    if _COOKIE.match(text.strip()):
        return "a cookie"
    for found in _ASSIGNED.finditer(text):
        is_assignment = "=" in found[2] or found[2][0] in "'\""
        if is_assignment and found[2][-1] not in " \t" and _is_secret(found[1], found[3]):
            return f"a value of {found[1]}"
    return None


def is_strong(name: str) -> bool:
    """Say whether whatever is set under this name is a secret."""
    plain = plain_name(name)
    return plain in _WHOLE or plain.endswith(_STRONG)


def plain_name(name: str) -> str:
    """Return a name in small letters and without signs."""
    return "".join(each for each in name.lower() if each.isalnum())


def known_key(value: str) -> bool:
    """Say whether a value begins as the keys of some service do."""
    return bool(_KNOWN.fullmatch(value))


def looks_drawn(value: str) -> bool:
    """Say whether a value was drawn at random."""
    return bool(_DRAWN.fullmatch(value[:4096]) or _KNOWN.fullmatch(value[:4096]))


def is_secret_setting(name: str, value: Any) -> bool:  # noqa: ANN401 (any JSON value)
    """Say whether a setting of this name holds a secret, as options of a filesystem do.

    A word under ``token`` is none, unless it looks drawn: ``[MASK]`` and ``anon`` are set so.
    """
    plain = plain_name(name)
    is_named = is_strong(name) or plain.endswith("secret") or plain == "pass"
    if isinstance(value, list | tuple | dict):
        each_of = [*(value.values() if isinstance(value, dict) else value)]
        if plain.endswith("auth") and len(each_of) == 2:  # a user and a password
            return all(isinstance(each, str) for each in each_of)
        if plain in ("cookie", "cookies") and isinstance(value, dict):
            return any(isinstance(each, str) for each in each_of)
        if isinstance(value, dict):
            return False
        one = name.rstrip("sS") if plain.endswith(("secrets", "passwords", "keys")) else name
        return bool(value) and all(is_secret_setting(one, each) for each in value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    if not isinstance(value, str):
        return is_named
    if not value.strip():
        return False
    if (plain.endswith("auth") and ":" in value) or (plain.endswith("cookie") and "=" in value):
        return True
    is_token = plain.endswith("token") and bool(_UUID.fullmatch(value))
    return is_named or is_token or (plain in _IF_DRAWN and looks_drawn(value))


def is_secret_pair(value: Any) -> bool:  # noqa: ANN401 (any JSON value)
    """Say whether a list is a name and its secret, as headers of HTTP are listed."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    name, held = value
    is_header = isinstance(name, str) and _HEADER.fullmatch(name) is not None
    return is_header and isinstance(held, str) and is_secret_setting(name, held)


def decoded(text: str) -> str:
    """Return a text without the escapes of URLs, however often they were escaped."""
    for _ in range(_DEEPEST):
        before, text = text, unquote(text)
        if text == before:
            break
    return text


def _is_login(encoded: str) -> bool:
    """Say whether what follows ``Basic`` is a user and a password, and no word of a sentence."""
    padded = encoded.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        plain = base64.b64decode(padded + "=" * (-len(padded) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    return ":" in plain and plain.isprintable()


def _without_login(found: re.Match[str]) -> str:
    return f"{found[1]}***" if _is_login(found[2]) else found[0]


def _without_quoted(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}***" if _is_secret(found[1], found[4]) else found[0]


def _without_value(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}***" if _is_secret(found[1], found[3]) else found[0]


def _is_secret(name: str, value: str) -> bool:
    return is_strong(name) and value.lower().rstrip(".") not in _NOTHING and not value.isspace()
