"""Secrets that stand in no URL, or in one as nobody should write it: settings, headers, pairs.

What is a secret is decided here by name or by form; what only might be one is left as it is, with
the reason beside it.
"""

import base64

import pytest

from engine.errors import ConfigurationError
from engine.secret_urls import redacted, refuse_secrets_in, secret_in, without_secrets

_BASIC = base64.b64encode(b"alice:S3CRET").decode()

SAID = [
    "https://alice:S3CRET\uff20host/data",  # a keyboard's wide signs
    "cannot open ftp\uff1a//alice\uff1aS3CRET\uff20host",
    "password\uff1aS3CRET",
    "cannot open ftp://alice:two S3CRET words@host/x now",
    "cannot open ftp://alice:two\nS3CRET\tlines@host/x now",
    "Cookie: sid=S3CRET; other=S3CRET",
    "{'Cookie': 'sid=S3CRET; other=S3CRET', 'a': 'b'}",
    "Set-Cookie: sid=S3CRET; Path=/",
    f"Authorization: Basic {_BASIC}",
    f"sent Basic {_BASIC}, and was refused",
    f"Basic {_BASIC.rstrip('=')}",
    "Client(auth=('alice', 'S3CRET'))",
    '{"auth": ["alice", "S3CRET"]}',
    "aiohttp.BasicAuth('alice', 'S3CRET')",
    "password = 'two S3CRET words'",
    '{"password": "it says S3CRET, and more"}',
]

PLAIN = [
    "Basic knowledge is enough, basic training too",
    "Basic QUJDREVGRw==",  # decodes to a word without a colon, and so logs nobody in
    "cookie: chocolate, and cookies: 3",
    "http://host:8080 cannot be reached, ask alice@example.org",
    "http://host: nobody answers, ask alice@example.org",
    "author=('alice', 'bob') and authors: ['alice', 'bob']",
    "質問：答え＠東京 and 100％",
    # Bound to a session that is elsewhere, and the checksum of a file.
    "https://host/a?csrf=0123456789abcdef0123456789abcdef",
    "https://host/a?md5=0123456789abcdef0123456789abcdef",
]


@pytest.mark.parametrize("sentence", SAID)
def test_what_logs_somebody_in_is_not_shown(sentence):
    """Of a login the user may be shown, and never the password."""
    shown = redacted(sentence)

    assert "S3CRET" not in shown
    assert _BASIC.rstrip("=") not in shown
    assert "***" in shown


@pytest.mark.parametrize("sentence", PLAIN)
def test_what_logs_nobody_in_is_shown_as_it_is(sentence):
    """Stars where nothing is hidden make messages useless."""
    assert redacted(sentence) == sentence
    if "://host:" not in sentence:  # a setting is a URL from end to end, spaces and all
        assert secret_in(sentence) is None


HELD = [
    {"auth": ["alice", "S3CRET"]},
    {"client_kwargs": {"http_auth": ("alice", "S3CRET")}},
    {"proxy_auth": "alice:S3CRET"},
    {"cookie": "sid=S3CRET"},
    {"cookies": {"sid": "S3CRET"}},
    {"headers": {"Cookie": "sid=S3CRET"}},
    {"headers": [["Authorization", "Custom S3CRET"]]},
    {"headers": [["X-Api-Key", "S3CRET"]]},
    {"headers": ["Cookie: sid=S3CRET"]},
    {"headers": {"x": f"Basic {_BASIC}"}},
    {"passwords": ["S3CRET"]},
    {"token": "0b5c3a64-53c4-4e3c-8d43-5f0d53c4e712"},
    {"source": "ftp://alice:S3CRET\uff20host"},
]

OTHERS = [
    # Names of columns, and of how an author is called.
    {"inputs": ["password", "strength"], "auth": ["one", "two", "three"], "author": ["a", "b"]},
    {"cookies": 3, "cookie": "chocolate", "keys": ["id", "name"], "tokens": ["[CLS]", "[SEP]"]},
    # What `token` may be is a word of a text, or how a driver logs in; services draw theirs.
    {"token": "hunter2", "mask_token": "[MASK]", "token_type": "word"},
    # A number of a record.
    {"key": "0b5c3a64-53c4-4e3c-8d43-5f0d53c4e712"},
    {"csrf": "x", "md5": "0123456789abcdef0123456789abcdef"},
]


@pytest.mark.parametrize("options", HELD)
def test_a_setting_that_logs_somebody_in_is_refused(options):
    """What is set is in the store, in reports and in a database."""
    with pytest.raises(ConfigurationError) as refused:
        refuse_secrets_in(options, "arguments")

    assert "S3CRET" not in str(refused.value)
    assert "S3CRET" not in str(without_secrets(options))


@pytest.mark.parametrize("options", OTHERS)
def test_a_setting_that_logs_nobody_in_is_taken(options):
    """Tables have columns of every name."""
    refuse_secrets_in(options, "arguments")

    assert without_secrets(options) == options


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "Basic " * 2**17,
        "Basic " + "QUJD" * 2**18,
        "Cookie:" * 2**17,
        "Cookie: a=b" * 2**16,
        "auth=('" * 2**17,
        "password='" * 2**16,
        "x://a:b c" * 2**17,
        "x://a:b " * 2**17 + "@c",
        "x://" + "a" * 2**20 + ":b c@d",
        "\uff20\uff1a" * 2**18,
    ],
    ids=lambda text: text[:10],
)
def test_a_long_text_is_read_in_no_time(text):
    """Patterns that begin anew at every letter take hours for a megabyte."""
    assert len(redacted(text)) <= 2 * len(text)
    secret_in(text)
