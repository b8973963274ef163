"""No password and no signed link is kept or printed; everything else of a URL is."""

import json

import pytest
from pydantic import ValidationError

from engine.applications.trackers import check_target
from engine.errors import ConfigurationError
from engine.recipes.arguments.data import DataSettings
from engine.recipes.arguments.pairs import ContrastiveSettings
from engine.recipes.arguments.text import LanguageSettings, TextSettings
from engine.recipes.files import load_recipe
from engine.secret_urls import beginning, redacted, secret_in
from engine.storage.location import absolute, check_writable, filesystem, store_errors

SECRET = "S3CRET%2Fvalue"

WITH_SECRETS = [
    f"http://alice:{SECRET}@host/data",
    f"https://alice:{SECRET}@host:8080/data?x=1",
    f"ftp://alice:{SECRET}@host/a@b",
    f"ftp://alice:{SECRET}/with/slash@host/a",
    f"s3://AKIAEXAMPLE:{SECRET}/b+c@bucket/key",
    f"https://{SECRET}@host/data",
    f"wss://{SECRET}@host/api",
    f"simplecache::http://alice:{SECRET}@host/data",
    f"zip://inner.csv::https://alice:{SECRET}@host/a.zip",
    f"https://host/a.tar?X-Amz-Algorithm=A&X-Amz-Signature={SECRET}",
    f"https://host/a.tar?x-amz-security-token={SECRET}&b=1",
    f"https://host/a.tar?AWSAccessKeyId=AKIA&Signature={SECRET}&Expires=1",
    f"https://account.blob.core.windows.net/c/a?sv=2022&sig={SECRET}&se=1",
    f"https://storage.googleapis.com/b/a?X-Goog-Credential=x&X-Goog-Signature={SECRET}",
    f"https://bucket.oss.com/a?OSSAccessKeyId=x&Expires=1&Signature={SECRET}",
    f"https://host/a?token={SECRET}",
    f"https://host/a?access_token={SECRET}",
    f"https://host/a?private-token={SECRET}",
    f"https://host/a?api_key={SECRET}",
    f"https://host/a?X%2DAmz%2DSignature={SECRET}",
    f"https://host/a#access_token={SECRET}",
    f"https://host/a?b=1;password={SECRET}",
    f"http://alice:two words {SECRET}@host/data",
    f"http://alice:it's \"{SECRET}@host/data",
    f"http://alice:with@sign{SECRET}@host/data",
    f"http://alice:12345{SECRET}@host/data",
    f"HTTPS://ALICE:{SECRET}@HOST/data",
    f"s3a://AKIAEXAMPLE:{SECRET}@bucket",
    f"sftp://alice:{SECRET}@[::1]:22/data",
    f"smb://domain;alice:{SECRET}@host/share",
    f"blockcache::simplecache::https://alice:{SECRET}@host/a",
    f"https://host/a?Subscription-Key={SECRET}",
    f"https://host/a?x-api-key={SECRET}#part",
    f"https://host/a?client_secret={SECRET}",
    f"https://host/a?PHPSESSIONID={SECRET}",
    "https://host/a?key=AIzaS3CRET-S3CRET-S3CRET-S3CRET",
    "https://host/a?x=ghp_S3CRETS3CRETS3CRETS3CRET",
    "https://host/a?code=S3CRETs3cretS3CRETs3cret==",
    f"git+https://{SECRET}@github.com/owner/name",
    f"http%3A%2F%2Falice%3A{SECRET}%40host%2Fdata",
    f"http%253A%252F%252Falice%253A{SECRET}%2540host",
    f"https://host/a?X-Amz-Signature%3D{SECRET}",
    f"https://host/p?url=https%3A%2F%2Falice%3A{SECRET}%40h%2Fx",
    f"https://host/p?url=https%3A%2F%2Fh%2Fx%3Fa%3D1%26sig%3D{SECRET}",
    f"https://host/p?url=https://h/x?sig={SECRET}",
    f"https://host/a?Authorization=Bearer%20{SECRET}",
    f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET}==",
    f"Server=db;Password={SECRET};",
    "https://hooks.slack.com/services/T0/B0/S3CRETs3cret",
    "https://discord.com/api/webhooks/1/S3CRETs3cret",
    f"https://host/a?pw={SECRET}",
]

MALFORMED = [
    f"http:/alice:{SECRET}@host/data",
    f"http:alice:{SECRET}@host/data",
    f"http:///alice:{SECRET}@host/data",
    f"http//alice:{SECRET}@host/data",
    f"http;//alice:{SECRET}@host/data",
    f"http:\\\\alice:{SECRET}@host/data",
    f"http:\\alice:{SECRET}@host/data",
    f"http:/\\alice:{SECRET}@host/data",
    f"http:%2F%2Falice:{SECRET}@host/data",
    f"htpp:/alice:{SECRET}@host/data",
    f"HTTPS:/ALICE:{SECRET}@HOST",
    f"://alice:{SECRET}@host/data",
    f"//alice:{SECRET}@host/data",
    f"///alice:{SECRET}@host",
    f"\\\\alice:{SECRET}@host\\share",
    f"s3:/AKIAEXAMPLE:{SECRET}/b+c@bucket/key",
    f"s3:AKIAEXAMPLE:{SECRET}@bucket",
    f"s3//AKIAEXAMPLE:{SECRET}@bucket",
    f"simplecache::http:/alice:{SECRET}@host/data",
    f"zip://a.csv:://alice:{SECRET}@host",
    f"ftp:/alice:{SECRET}@host/a@b",
    f"postgresql:alice:{SECRET}@host/db",
    f"https:/{SECRET}@host/data",
    f"https:{SECRET}@host/data",
    f"http:/host/a.tar?X-Amz-Signature={SECRET}",
    f"//host/a.tar?sig={SECRET}",
    f"https:host/a?token={SECRET}",
    f"git:alice:{SECRET}@host:repository.git",
]
"""What lacks a slash, or has another sign in its place; whoever typed it meant a URL."""

WITHOUT_A_SCHEME = [f"alice:{SECRET}@host/data", f"alice:{SECRET}@host", f"a b:{SECRET}@host:80/x"]
"""In a sentence such words may be anything; as a location they are a login."""

WITHOUT = [
    "./my:folder@home",
    "folder/my:folder@home",
    "/data//my:folder@home",
    "C:/my:folder@home",
    "name@2.0:part",
    "http:/host/page",
    "/data/my:folder@home/x?sig=1&token=2",
    "C:/data?token=1",
    "s3://bucket/key:with@signs",
    "s3://bucket/a?versionId=abc",
    "http://host:8080/a@b",
    "http://[::1]:8080/a@b?page=2",
    "https://host/a?design=1&assignment=2&key=train.tar&sort=name",
    "abfs://container@account.dfs.core.windows.net/folder",
    "sftp://alice@host/data",
    "hf://datasets/user/name@main/data",
    "zip://a.csv::s3://bucket/x@y.zip",
    "memory://a:b",
    "gpt2",
    "https://host/a?token=",
    "https://host/a?key=folder/part-00017.parquet&code=en&session=3",
    "https://host/a?md5=0123456789abcdef0123456789abcdef",
    "https://host/a%20b/c%3Ad@e?x=1%2B1",
    "sk-learn-models/classifier",
    "data/eyJ.png",
    "github://owner:name@main/data/rows.csv",
    "https://host/@user/a?user=a@b.org",
    "http://host:80/a:b@c",
]


@pytest.mark.parametrize("url", [*WITH_SECRETS, *MALFORMED])
def test_a_url_with_a_secret_is_refused_without_printing_it(url, caplog):
    """A recipe is kept in the store, in the report and in a database; so are the messages."""
    settings = [
        lambda: DataSettings(url=url),
        lambda: TextSettings(sources=(url,), target="x"),
        lambda: TextSettings(sources=("x",), target=url),
        lambda: LanguageSettings(pretrained=url),
        lambda: ContrastiveSettings(target_url=url),
    ]
    for make in settings:
        with pytest.raises(ValidationError, match="holds"):
            make()
    for open_it in (absolute, filesystem, check_writable):
        with pytest.raises(ConfigurationError, match=r"(?s)holds .*environment") as refused:
            open_it(url)
        assert "S3CRET" not in str(refused.value)
    for recipe, change in (
        ("fashion-selection", f"arguments.url={json.dumps(url)}"),
        ("text-selection", f"arguments.sources=[{json.dumps(url)}]"),
        ("fashion-selection", f"arguments={{url: {json.dumps(url)}, x: 1}}"),
        ("fashion-selection", f"arguments.url=[{json.dumps(url)}, 1]"),
    ):
        with pytest.raises(ConfigurationError, match="holds") as refused:
            load_recipe(recipe, [change])
        assert "S3CRET" not in str(refused.value)
    with pytest.raises(ConfigurationError, match="holds") as refused:
        check_target(f"mlflow:{url}")
    assert "S3CRET" not in str(refused.value)
    if not set(url) & set(" '\""):  # in a sentence nobody knows where such a URL ends
        assert "S3CRET" not in redacted(f"Cannot read '{url}': error of {url}.")
    assert "S3CRET" not in caplog.text


@pytest.mark.parametrize("url", WITHOUT_A_SCHEME)
def test_a_location_that_lacks_its_scheme_is_refused_without_printing_it(url):
    """It would become a folder of this name, whose path every message has."""
    for make in (lambda: DataSettings(url=url), lambda: LanguageSettings(pretrained=url)):
        with pytest.raises(ValidationError, match="holds"):
            make()
    for open_it in (absolute, filesystem, check_writable):
        with pytest.raises(ConfigurationError, match=r"(?s)holds .*with \./ first") as refused:
            open_it(url)
        assert "S3CRET" not in str(refused.value)
    with pytest.raises(ConfigurationError, match="holds") as refused:
        load_recipe("fashion-selection", [f"arguments.url={json.dumps(url)}"])
    assert "S3CRET" not in str(refused.value)
    with pytest.raises(ConfigurationError, match="holds") as refused:
        check_target(f"mlflow:{url}")
    assert "S3CRET" not in str(refused.value)


@pytest.mark.parametrize("url", WITHOUT)
def test_a_url_without_a_secret_is_left_as_it_is(url):
    """Ports, versions, accounts and file names look like secrets, and are none."""
    assert secret_in(url) is None
    assert DataSettings(url=url).url == url
    if "://" in url and "token" not in url:
        assert redacted(f"of {url}.") == f"of {url}."


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://key:word@bucket/x", "AWS_SECRET_ACCESS_KEY"),
        ("ftp://me:word@host/x", "FSSPEC_FTP_PASSWORD"),
        ("https://host/x?sig=1a", "FSSPEC_HTTP"),
        ("az://c/x?sig=1a", "AZURE_STORAGE_SAS_TOKEN"),
        ("gs://b/x?token=1a", "GOOGLE_APPLICATION_CREDENTIALS"),
    ],
)
def test_the_refusal_says_where_the_secret_belongs(url, place):
    """The environment reaches the driver and nothing else."""
    with pytest.raises(ConfigurationError, match=place):
        absolute(url)


LOGIN = f"alice:{SECRET}@db.example.org"
SENTENCES = [
    f"connection to {LOGIN} failed",
    f"connection to {LOGIN}:5432/db failed",
    f"connection to '{LOGIN}' failed",
    f"OperationalError({LOGIN})",
    f"dsn={LOGIN}",
    f"dsn=alice:{SECRET}@tcp(10.0.0.1:3306)/db",
    f"alice:{SECRET}@localhost",
    f"at [::1], as alice:{SECRET}@[::1]:22",
    f"alice:{SECRET}/with+slash@host, bob:{SECRET}@host",
    f"alice:with@sign{SECRET}@host",
    f"alice:12345{SECRET}@host",
    f"ValueError:alice:{SECRET}@host",
    f"write to a@b.org, or to alice:{SECRET}@host",
    f"<alice:{SECRET}@host>; {{'url': '{LOGIN}'}}",
]
"""Messages of drivers, which name whom they logged in as."""

NAMED = [
    f"Authorization: Bearer {SECRET}",
    f"headers={{'Authorization': 'Bearer {SECRET}', 'a': 1}}",
    f"aws_secret_access_key = {SECRET}",
    f'{{"password": "{SECRET}", "a": 1}}',
    f"PASSWORD: {SECRET}",
    f"host=db user=alice password={SECRET} dbname=x",
    f"Connection(host='h', password='{SECRET}')",
    f"x-api-key: {SECRET}",
    "HF_TOKEN hf_S3CRETS3CRETS3CRETS3CRETS3CRETS3CRET is invalid",
    "ghp_S3CRETS3CRETS3CRETS3CRETS3CRETS3CRET was refused",
    "key AKIAS3CRETS3CRETS3CR has no access",
]
"""What libraries say of whom they are, without a URL."""

PLAIN_SENTENCES = [
    "password: None, token=True, and secret=False",
    "arguments.mask_token is '[MASK]', key='id', tokens: 12",
    "Pass token=... or set HF_TOKEN; the bearer of it is known",
    "learning_rate=0.1, authorization: none, passwords: 3",
    "y = x[i:j]@w + {k:v@w} + f(a[:, 1:])@w",
    "image: python:3.11@sha256:0123456789abcdef",
    "ask mailto:alice@example.org or alice@example.org",
    "git+ssh://git@github.com:owner/name@v1.0",
    "./my:folder@home and /data/my:folder@home",
    "C:/data@2 and C:\\data@2",
    "http://host:8080/a@b, host:8080/a@b",
    "name@2.0:part",
    "at 12:30 @home",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_login_in_a_sentence_is_not_shown(sentence):
    """What a library raises is shown, logged, and kept in a report and in a database."""
    shown = redacted(sentence)

    assert "S3CRET" not in shown
    assert "***@" in shown


@pytest.mark.parametrize("sentence", NAMED)
def test_a_secret_that_has_a_name_is_not_shown(sentence):
    """Options, headers and connection strings are what drivers and clients tell."""
    shown = redacted(sentence)

    assert "S3CRET" not in shown
    assert "***" in shown


@pytest.mark.parametrize("sentence", PLAIN_SENTENCES)
def test_a_sentence_without_a_login_is_shown_as_it_is(sentence):
    """Code of the user, paths and versions have an @ and a colon, too."""
    assert redacted(sentence) == sentence


def test_a_driver_that_names_a_signed_link_is_not_repeated():
    """Client libraries put the whole address into their errors."""

    def fail():
        with store_errors("s3://bucket"):
            raise ConnectionError(f"GET https://host/a?X-Amz-Signature={SECRET} failed")

    with pytest.raises(Exception, match="X-Amz-Signature") as caught:
        fail()
    assert SECRET not in str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "a" * 2**20 + "://",
        "x://:a" * 2**17 + "@",
        "x://a:b" * 2**17,
        "://" * 2**18 + "@",
        "https://" * 2**17 + "@",
        "?" * 2**20 + "=a",
        "?a=b&" * 2**17,
        "@" * 2**20 + "://",
        "/" * 2**20 + "a:b@c",
        "//a" * 2**18 + "@",
        "http:" * 2**18 + "@",
        "http//" * 2**17 + "a:b@c",
        "ab:/" * 2**18 + "@",
        "a" * 2**20 + ":/b:c@d",
        "a+" * 2**19 + "@",
        ",a:" * 2**18 + "]@b",
        ",a:b@c" * 2**17,
        "a:" * 2**19 + "@b",
        "=" * 2**20 + "a:b@c",
        "%" * 2**20,
        "%3A" * 2**18 + "%40",
        "%25" * 2**18 + "3A",
        "?a=" * 2**18,
        "password" * 2**17,
        "password=" * 2**17,
        "token " * 2**17 + "=",
        "eyJaaaaaaaa." * 2**16,
        "bearer" + " " * 2**20,
    ],
    ids=lambda text: text[:12],
)
def test_a_long_text_that_somebody_has_made_is_read_in_no_time(text):
    """A pattern that begins anew at every letter takes hours for a megabyte of a stored recipe."""
    signs = text.count("@") + text.count("=")
    assert len(redacted(text)) <= len(text) + 3 * signs
    secret_in(text)


@pytest.mark.parametrize(
    "options",
    [
        {"key": "AKIAS3CRETS3CRETS3CRET", "secret": "S3CRET"},
        {"client_kwargs": {"aws_secret_access_key": "S3CRET"}},
        {"account_key": "S3CRET"},
        {"sas_token": "S3CRET"},
        {"password": "S3CRET"},
        {"token": "hf_S3CRETS3CRETS3CRET"},
        [{"client_secret": "S3CRET"}],
        {"headers": {"X-Api-Key": "S3CRET"}},
        {"pass": "S3CRET"},
        {"db_password": 123456},
        {"password": ["S3CRET"]},
        {"auth": "alice:S3CRET"},
        {"wandb_api_key": "S3CRET"},
    ],
)
def test_a_secret_among_the_options_of_a_filesystem_is_refused(options, tmp_path):
    """They are arguments like others: kept in the store, in reports and in a database."""
    recipe = _recipe_of_ones_own(tmp_path, {"options": options})

    with pytest.raises(ConfigurationError, match=r"arguments\.options.* holds a secret") as refused:
        load_recipe(str(recipe))

    assert "S3CRET" not in str(refused.value)


def test_options_without_a_secret_are_arguments_like_others(tmp_path):
    """Names of tokens and of keys are in every problem with texts or tables."""
    options = {"mask_token": "[MASK]", "token": "[CLS]", "key": "id", "secret": True, "anon": False}
    recipe = _recipe_of_ones_own(tmp_path, {"options": options})

    assert load_recipe(str(recipe)).arguments["options"] == options


def _recipe_of_ones_own(folder, arguments):
    (folder / "mine.py").write_text(
        "import engine\n\n\ndef mine(options: object = None) -> engine.Problem:\n    ...\n"
    )
    path = folder / "mine.yaml"
    path.write_text(json.dumps({"problem": "mine.py:mine", "arguments": arguments}))
    return path


@pytest.mark.parametrize("length", range(20, 60, 5))
def test_a_text_that_is_cut_hides_what_it_holds_before_it_is_cut(length):
    """Half of a password has no @ behind it, so nothing would know it for one."""
    shown = beginning("https://alice:S3CRETPW-S3CRETPW-S3CRETPW@host.example/a.png", length)

    assert "S3CRET" not in redacted(shown)
    assert shown.startswith("https://alice:***")
    assert len(shown) <= length
