"""Passages of JSONL files and plain texts, and the files that are refused."""

import gzip

import pytest

from engine.errors import DataError
from engine.language.corpora import FORTUNES, read_passages, read_sources
from engine.language_config import TextConfig
from tests.language import PAIRS, write_jsonl

FORTUNE_FILE = "first\n\tsecond line\n%\n%\n  \n%\n50 % off\n%\n"


def config(**settings):
    return TextConfig(**({"sources": ("a",), "target": "b"} | settings))


def test_a_line_of_jsonl_is_a_passage_that_knows_its_place(tmp_path):
    """A selected example must be found again in the user's own file."""
    path = write_jsonl(tmp_path / "mine.jsonl", PAIRS)

    found = read_passages(path, "mine", config())

    assert [passage.text for passage in found] == PAIRS
    assert [passage.line for passage in found] == [1, 2, 3, 4]
    assert {passage.source for passage in found} == {"mine"}
    assert found[1].place == f"line 2 of {path}"


def test_a_field_names_another_source(tmp_path):
    """One file may hold several corpora, as instruction sets often do."""
    path = write_jsonl(tmp_path / "mine.jsonl", PAIRS, source="flan")

    assert {passage.source for passage in read_passages(path, "mine", config())} == {"flan"}


@pytest.mark.parametrize(
    ("passages", "content", "expected"),
    [
        ("line", "one\n\n two \r\n", [(1, "one"), (3, "two")]),
        ("paragraph", "\none\ntwo\n\n \nthree", [(2, "one\ntwo"), (6, "three")]),
        ("fortune", FORTUNE_FILE, [(1, "first\n\tsecond line"), (7, "50 % off")]),
    ],
)
def test_plain_text_is_cut_into_completions(tmp_path, passages, content, expected):
    """Text without structure is learned whole: its prompts are empty."""
    (tmp_path / "plain").write_bytes(content.encode())

    found = read_passages(str(tmp_path / "plain"), "plain", config(passages=passages))

    assert [(passage.line, passage.completion) for passage in found] == expected
    assert {passage.prompt for passage in found} == {""}


def test_a_compressed_file_by_url_is_read_alike(tmp_path):
    """Corpora lie compressed in object stores."""
    plain = write_jsonl(tmp_path / "mine.jsonl", PAIRS)
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "mine.jsonl").read_bytes()))

    texts = [read_passages(url, "x", config()) for url in (plain, packed.as_uri())]

    assert [p.text for p in texts[0]] == [p.text for p in texts[1]]


def test_sources_are_named_by_their_files_and_read_from_the_folder(tmp_path):
    """Relative paths keep a recipe short; data.url says where they are."""
    for name in ("de", "it"):
        (tmp_path / f"{name}.txt").write_text(f"{name} one\n{name} one\n{name} two\n")

    pool, target = read_sources(
        config(sources=("de.txt", "it.txt"), target="it.txt"), str(tmp_path)
    )

    assert [(each.source, each.completion) for each in pool] == [
        ("de", "de one"), ("de", "de two"), ("it", "it one"), ("it", "it two")
    ]  # fmt: skip
    assert [each.completion for each in target] == ["it one", "it two"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"prompt": "a", "completion": "b"}\n{"prompt": "a",\n', ["line 2", "not JSON"]),
        (b'{"prompt": "a"}\n', ["line 1", "'completion'"]),
        (b'{"completion": "a"}\n', ["line 1", "'prompt'"]),
        (b'{"prompt": 3, "completion": "a"}\n', ["line 1", "'prompt'"]),
        (b'{"prompt": "a", "completion": " "}\n', ["line 1", "empty completion"]),
        (b'{"prompt": "", "completion": "a", "source": ""}\n', ["line 1", "source"]),
        (b"[1]\n", ["line 1", "int"]),
        (b"\n\n", ["no passage"]),
        (b"\xe9t\xe9", ["UTF-8", "byte 0"]),
    ],
)
def test_a_damaged_file_is_refused_by_line(tmp_path, content, words):
    """A line that is left out silently would shift every score after it."""
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)

    with pytest.raises(DataError) as refused:
        read_passages(str(path), "mine", config())

    assert [
        word for word in [*words, str(path)] if word.lower() not in str(refused.value).lower()
    ] == []


@pytest.mark.parametrize("url", ["/nowhere/at/all.jsonl", f"{FORTUNES}/xx/none", "nosuch://x/y"])
def test_a_source_that_does_not_exist_is_refused(url):
    """The message names the file and what to install or change."""
    with pytest.raises(DataError, match=r"text\.sources|Install|protocol") as refused:
        read_passages(url, "mine", config())

    assert url in str(refused.value)
