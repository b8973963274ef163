"""Secrets that are no part of a URL: assignments, headers, and keys that say whose they are.

Connection strings, options and messages of libraries write ``password=...``, ``"token": "..."`` or
``Authorization: Bearer ...``. Of an assignment the name decides; a few services begin their keys so
that anybody knows one without a name. This module does not know torch.
"""

import re
from urllib.parse import unquote

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

_BEARER = re.compile(r"(?<![\w-])(Bearer[ \t]{1,3})([\w.~+/=-]{8,})", re.ASCII | re.IGNORECASE)

_NOTHING = frozenset(("none", "null", "true", "false", "str", "bytes", "***"))
"""Values that say that there is no secret, or of what type one is."""

_DEEPEST = 3
"""How often somebody may have encoded a URL."""


def hidden(text: str) -> str:
    """Return a text in which the values of such assignments, and such keys, are three stars."""
    text = _KEY.sub("***", _HOOK.sub(r"\1***", text))
    return _BEARER.sub(r"\1***", _ASSIGNED.sub(_without_value, text))


def assigned_secret(text: str) -> str | None:
    """Return what a setting holds that is a secret, in words; None if it holds none.

    In a setting a colon may stand in any sentence, so only names in quotation marks have one.
    """
    if _KEY.search(text):
        return "a key of a service"
    if _HOOK.search(text):
        return "an address that whoever knows it may write to"
    for found in _ASSIGNED.finditer(text):
        is_assignment = "=" in found[2] or found[2][0] in "'\""
        if is_assignment and found[2][-1] not in " \t" and _is_secret(found[1], found[3]):
            return f"a value of {found[1]}"
    return None


def is_strong(name: str) -> bool:
    """Say whether whatever is set under this name is a secret."""
    plain = "".join(each for each in name.lower() if each.isalnum())
    return plain in _WHOLE or plain.endswith(_STRONG)


def decoded(text: str) -> str:
    """Return a text without the escapes of URLs, however often they were escaped."""
    for _ in range(_DEEPEST):
        before, text = text, unquote(text)
        if text == before:
            break
    return text


def _without_value(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}***" if _is_secret(found[1], found[3]) else found[0]


def _is_secret(name: str, value: str) -> bool:
    return is_strong(name) and value.lower().rstrip(".") not in _NOTHING and not value.isspace()
