"""Passages of JSONL files and plain texts, and the files that are refused."""

import bz2
import gzip
import json
import lzma

import pytest

from engine.errors import DataError
from engine.problems.texts.passages import FORTUNES, read_passages, read_sources
from engine.recipes.arguments.text import TextSettings
from tests.helpers.data.language import PAIRS, write_jsonl

FORTUNE_FILE = "first\n\tsecond line\n%\n%\n  \n%\n50 % off\n%\n"


def text_settings(**settings):
    return TextSettings(**({"sources": ("a",), "target": "b"} | settings))


def test_a_line_of_jsonl_is_a_passage_that_knows_its_place(tmp_path):
    """A selected example must be found again in the user's own file."""
    path = write_jsonl(tmp_path / "mine.jsonl", PAIRS)

    found = read_passages(path, "mine", text_settings())

    assert [passage.text for passage in found] == PAIRS
    assert [passage.line for passage in found] == [1, 2, 3, 4]
    assert {passage.source for passage in found} == {"mine"}
    assert found[1].place == f"line 2 of {path}"


def test_a_field_names_another_source(tmp_path):
    """One file may hold several corpora, as instruction sets often do."""
    path = write_jsonl(tmp_path / "mine.jsonl", PAIRS, source="flan")

    assert {passage.source for passage in read_passages(path, "mine", text_settings())} == {"flan"}


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

    found = read_passages(str(tmp_path / "plain"), "plain", text_settings(passages=passages))

    assert [(passage.line, passage.completion) for passage in found] == expected
    assert {passage.prompt for passage in found} == {""}


def test_lines_with_a_text_alone_are_plain_passages(tmp_path):
    """Most corpora in JSON lines have this one field; a prompt beside it makes another example."""
    lines = [{"text": "one"}, {"text": "two\nlines", "source": "mine", "id": 7}]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    url = str(path)

    found = read_passages(url, "corpus", text_settings())

    assert [(each.prompt, each.completion, each.source) for each in found] == [
        ("", "one", "corpus"), ("", "two\nlines", "mine")
    ]  # fmt: skip


def test_a_compressed_file_by_url_is_read_alike(tmp_path):
    """Corpora lie compressed in object stores."""
    plain = write_jsonl(tmp_path / "mine.jsonl", PAIRS)
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "mine.jsonl").read_bytes()))

    texts = [read_passages(url, "x", text_settings()) for url in (plain, packed.as_uri())]

    assert [p.text for p in texts[0]] == [p.text for p in texts[1]]


def test_sources_are_named_by_their_files_and_read_from_the_folder(tmp_path):
    """Relative paths keep a recipe short; arguments.url says where they are."""
    for name in ("de", "it"):
        (tmp_path / f"{name}.txt").write_text(f"{name} one\n{name} one\n{name} two\n")

    pool, target = read_sources(
        text_settings(sources=("de.txt", "it.txt"), target="it.txt"), str(tmp_path)
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
        (b'{"text": 3}\n', ["line 1", "no text as its 'text'"]),
        (b'{"text": " "}\n', ["line 1", "no text as its 'text'"]),
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
        read_passages(str(path), "mine", text_settings())

    assert [
        word for word in [*words, str(path)] if word.lower() not in str(refused.value).lower()
    ] == []


@pytest.mark.parametrize("url", ["/nowhere/at/all.jsonl", f"{FORTUNES}/xx/none", "nosuch://x/y"])
def test_a_source_that_does_not_exist_is_refused(url):
    """The message names the file and what to install or change."""
    with pytest.raises(DataError, match=r"arguments\.sources|Install|protocol") as refused:
        read_passages(url, "mine", text_settings())

    assert url in str(refused.value)


ROWS = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(6)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)

AS_JSON = {
    "named .jsonl": ("a.jsonl", LINES.encode()),
    "named .json": ("a.json", LINES.encode()),
    "named .ndjson": ("a.ndjson", LINES.encode()),
    "named .JSONL": ("a.JSONL", LINES.encode()),
    "named .txt": ("a.txt", LINES.encode()),
    "without an ending": ("a", LINES.encode()),
    "an array": ("a.txt", json.dumps(ROWS).encode()),
    "an array over many lines": ("a.json", json.dumps(ROWS, indent=2).encode()),
    "objects over many lines": ("a", "\n".join(json.dumps(r, indent=1) for r in ROWS).encode()),
    "a sequence with its marks": ("a", ("\x1e" + LINES.replace("\n", "\n\x1e")).encode()),
    "empty lines first": ("a", b"\n \n" + LINES.encode()),
    "mark of byte order": ("a", b"\xef\xbb\xbf" + LINES.encode()),
    "two marks of byte order": ("a", (b"\xef\xbb\xbf" + LINES.encode()) * 2),
    "UTF-16": ("a", LINES.encode("utf-16")),
    "UTF-16, the other order": ("a", b"\xfe\xff" + LINES.encode("utf-16-be")),
    "UTF-32": ("a", LINES.encode("utf-32")),
    "CRLF": ("a", LINES.replace("\n", "\r\n").encode()),
    "CR": ("a", LINES.replace("\n", "\r").encode()),
    "CR CR LF": ("a", LINES.replace("\n", "\r\r\n").encode()),
    "gzip": ("a.jsonl.gz", gzip.compress(LINES.encode())),
    "gzip without its name": ("a.jsonl", gzip.compress(LINES.encode())),
    "name of gzip without it": ("a.jsonl.gz", LINES.encode()),
    "two members of gzip": ("a.gz", gzip.compress(LINES.encode()) * 2),
    "gzip twice": ("a.gz", gzip.compress(gzip.compress(LINES.encode()))),
    "bzip2": ("a.bz2", bz2.compress(LINES.encode())),
    "xz": ("a.txt.xz", lzma.compress(LINES.encode())),
    "a field with a number of 5000 digits": (
        "a", LINES.replace("}", ', "n": ' + "9" * 5000 + "}").encode(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), AS_JSON.values(), ids=AS_JSON)
def test_json_is_read_as_json_whatever_its_file_is_called(name, content, tmp_path):
    """Under another name its braces and all were learned, with no sign of it."""
    (tmp_path / name).write_bytes(content)

    found = read_passages(str(tmp_path / name), "x", text_settings())

    expected = [(row["prompt"], row["completion"]) for row in ROWS]
    assert [passage.text for passage in found[:6]] == expected


def test_zstandard_is_read_where_a_library_knows_it(tmp_path):
    """Python has it from 3.14 on, and pyarrow brings it before."""
    arrow = pytest.importorskip("pyarrow", reason="needs a library for Zstandard")
    packed = arrow.compress(LINES.encode(), codec="zstd", asbytes=True)
    (tmp_path / "a.zst").write_bytes(packed)

    assert len(read_passages(str(tmp_path / "a.zst"), "x", text_settings())) == 6
    (tmp_path / "a.zst").write_bytes(packed[:-9])
    with pytest.raises(DataError):
        read_passages(str(tmp_path / "a.zst"), "x", text_settings())


def test_values_of_an_array_know_their_lines(tmp_path):
    """A selected example is looked for in the file."""
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=1))

    found = read_passages(str(tmp_path / "a.json"), "x", text_settings())

    assert [passage.line for passage in found[:3]] == [2, 6, 10]


PLAIN = {
    "a bracket first": "[1] A footnote\nand more of it\nto be read\n",
    "a brace first": "{ a word in braces }\nand more\n",
    "one object among prose": "Send this:\n" + LINES.split("\n")[0] + "\nand wait\nfor it\n",
    "marks that are words": "BZhang said\nGIF89 is old\n",
    "a table of other things": "name,age\nann,3\n",
    "a percent sign": "%PDF is how they begin\nyes\n",
    "zeros": "one\0two\nthree\0\n",
}


@pytest.mark.parametrize("text", PLAIN.values(), ids=PLAIN)
def test_plain_text_stays_plain_text(text, tmp_path):
    """Looking at the content must not refuse what merely has brackets in it."""
    (tmp_path / "a.txt").write_text(text)

    found = read_passages(str(tmp_path / "a.txt"), "x", text_settings())

    assert [passage.completion for passage in found] == text.strip("\n").split("\n")


REFUSED = {
    "cut-off gzip": (gzip.compress(LINES.encode() * 50)[:-20], "a.jsonl.gz", "cut off or damaged"),
    "wrong checksum": (gzip.compress(b"x" * 99)[:-8] + bytes(8), "a.gz", "cut off or damaged"),
    "cut-off bzip2": (bz2.compress(LINES.encode())[:-9], "a.bz2", "cut off or damaged"),
    "cut-off xz": (lzma.compress(LINES.encode())[:-9], "a.xz", "cut off or damaged"),
    "compressed three times": (
        gzip.compress(gzip.compress(gzip.compress(b"x"))), "a.gz", "more than 2 times over",
    ),
    "half of a character in a prompt": (
        b'{"prompt": "p \\ud83d", "completion": "c"}', "Mine.TXT", "half of a character",
    ),
    "half of a character in a completion": (
        b'{"prompt": "p", "completion": "\\ude00"}', "a", "half of a character",
    ),
    "too deep": (
        b'{"prompt": "p", "completion": "c", "x": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "a",
        "too deep",
    ),
    "a field twice": (
        b'{"prompt": "x", "completion": "1", "completion": "2"}', "a", "'completion' twice",
    ),
    "an array that is cut off": (json.dumps(ROWS).encode()[:-20], "a", "is not JSON"),
    "a comma in place of a bracket": (json.dumps(ROWS).encode()[:-1], "a", "end of the file"),
    "a heading before the objects": (b"# my data\n" + LINES.encode(), "a.txt", "is not JSON"),
    "Python's own notation": (b"{'prompt': 'a', 'completion': 'b'}\n", "a.txt", "is not JSON"),
    "other fields": (b'{"instruction": "x", "output": "y"}', "a.txt", "It has 'instruction'"),
    "chats": (b'[{"messages": []}]', "a.txt", "It has 'messages'"),
    "a list of texts": (b'["one", "two"]', "a.txt", "is str"),
    "CSV": (b"prompt,completion\na,b\n", "a.csv", "looks like a table .CSV"),
    "TSV": (b"id\tPrompt\tCompletion\n1\ta\tb\n", "a", "looks like a table .TSV"),
    "ZIP": (b"PK\x03\x04" + bytes(99), "a.jsonl.zip", "ZIP archive"),
    "Parquet": (b"PAR1" + bytes(99), "a.jsonl", "Parquet"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "a.txt", "PNG picture"),
    "Latin 1": ("one\ncaf\u00e9".encode("latin-1"), "a.txt", "byte 7, on line 2"),
    "UTF-16 without its mark": (LINES.encode("utf-16-le"), "a.jsonl", "UTF-16LE"),
    "not JSON under its name": (b"some words", "a.json", "is not JSON"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "name", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused_with_the_place(content, name, reason, tmp_path):
    """Each of these ended in a traceback, in the word "Aborted.", or in other data than meant."""
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match=reason) as refused:
        read_passages(str(tmp_path / name), "x", text_settings())

    assert str(tmp_path / name) in str(refused.value)


def test_a_name_that_is_too_long_is_refused():
    """The system's own error would be a traceback."""
    with pytest.raises(DataError, match="File name too long"):
        read_passages("x" * 300, "x", text_settings())


@pytest.mark.parametrize("name", ["a[1].txt", "a*.txt", "a?.txt", "a::b.txt", "a b#1 %20.txt"])
def test_names_with_signs_are_names(name, tmp_path):
    """Patterns and chains of fsspec are no files of the user's."""
    (tmp_path / name).write_text("mine\n")
    (tmp_path / "a1.txt").write_text("another\n")

    assert [p.completion for p in read_passages(str(tmp_path / name), "x", text_settings())] == [
        "mine"
    ]


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ("a" + "\r" * 10**6 + "b", ["a", "b"]),
        ("a\n" + " " * 10**6 + "b", ["a", "b"]),
        ("a\n" + "[ " * 10**6 + "b", ["a", ("[ " * 10**6 + "b")]),
        ("a\n" + "\ufeff " * 10**6 + "b", ["a", "b"]),
    ],
    ids=["ends of lines", "space", "brackets", "marks of byte order"],
)
def test_a_line_of_a_megabyte_that_somebody_has_made_is_read_in_no_time(written, lines, tmp_path):
    """A pattern that tries every way to share it takes hours."""
    (tmp_path / "a.txt").write_text(written, newline="")

    found = read_passages(
        str(tmp_path / "a.txt"), "a", TextSettings(sources=("a",), target="b", passages="line")
    )

    assert [each.completion.strip("\ufeff ") for each in found] == lines


@pytest.mark.parametrize(
    ("written", "read"), [("a\r\rb", 2), ("a\r\nb", 2), ("a\r\r\nb", 2), ("a\rb\nc\r", 3)]
)
def test_ends_of_lines_of_all_systems_are_ends_of_lines(written, read, tmp_path):
    """Those of old Macs, of Windows, and of files that were converted twice."""
    (tmp_path / "a.txt").write_text(written, newline="")

    found = read_passages(
        str(tmp_path / "a.txt"), "a", TextSettings(sources=("a",), target="b", passages="line")
    )

    assert len(found) == read
