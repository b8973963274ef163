"""One thing of a store damaged, by a seed: files, values, names, what is no file at all.

Each damage returns what it did; whoever asks for it puts everything back.
"""

import copy
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.recipes.settings import digest

ESCAPE = "\x1b]52;c;cm0gLXJmIH4=\x07\x1b[2J[/red]"

VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, 1e308, -1e308, "", "x", [], {}, [[]]),
    *(ESCAPE, "[link=https://evil.example]x[/link]", "\ud800", "\x00", "\u202eabc", "%s{}$"),
    *("a" * 5000, "../../../../etc", "/etc/passwd", "a/b", "..", "*", "[ab]", [None]),
    *("http://127.0.0.1:9/x", "tcp://127.0.0.1:9", "dask", "attribution", "metasmoothness"),
    *("2026-01-01", "pickle", "gzip", "<U1", "|O", "NaN", {"stage": "..", "key": "../x"}),
    *({"__class__": "subprocess.getoutput", "data": {"cmd": "true"}}, list(range(1000))),
]  # fmt: skip


def a_whole_document(path: Path, draw: random.Random) -> str:
    """Put something else in the place of a document."""
    deep = 200_000
    kinds: dict[str, bytes] = {
        "empty": b"",
        "a list": b"[]",
        "null": b"null",
        "an empty object": b"{}",
        "a deep list": b"[" * deep + b"]" * deep,
        "a deep object": b'{"a":' * deep + b"1" + b"}" * deep,
        "a deep value": b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
        "NaN": b'{"a": NaN}',
        "infinity": b'{"seconds": 1e999}',
        "a huge integer": b'{"seconds": 1' + b"0" * 5000 + b"}",
        "no UTF-8": b'{"a": "\xff\xfe"}',
        "UTF-16": json.dumps({"a": 1}).encode("utf-16"),
        "noise": draw.randbytes(200),
        "zeros": bytes(200),
        "YAML": b"!!python/object/apply:os.system ['true']",
    }
    name = draw.choice(sorted(kinds))
    path.write_bytes(kinds[name])
    return name


def a_cut(path: Path, draw: random.Random) -> str:
    """Cut a file off, or write noise into it."""
    content = bytearray(path.read_bytes())
    if draw.random() < 0.5 or not content:
        path.write_bytes(content[: draw.randrange(len(content) + 1)])
        return "cut off"
    for _ in range(draw.choice((1, 1, 3, 20))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return "flipped bits"


def no_file(path: Path, draw: random.Random) -> str:
    """Put what is no file of that size in the place of a file."""
    path.unlink()
    kind = draw.choice(("gone", "folder", "pipe", "loop", "endless", "elsewhere", "sparse"))
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case "endless":
            path.symlink_to("/dev/zero")
        case "elsewhere":
            path.symlink_to("/etc/passwd")
        case "sparse":
            with path.open("wb") as file:
                file.truncate(8 << 30)
    return kind


def one_value(path: Path, draw: random.Random) -> str:
    """Change, add or remove one value of a document; its digest is made anew if it has one."""
    record = json.loads(path.read_text())
    places = list(_places(record))
    parent, key = draw.choice(places) if places else (record, "new")
    what = draw.random()
    if what < 0.15 and isinstance(parent, dict):
        parent.pop(key, None)
        said = "without a value"
    elif what < 0.25 and isinstance(parent, dict):
        parent[draw.choice(("new", ESCAPE, "../x", ""))] = draw.choice(VALUES)
        said = "one more value"
    else:
        parent[key] = copy.deepcopy(draw.choice(VALUES))
        said = "another value"
    if "digest" in record and draw.random() < 0.9:
        rest = {name: value for name, value in record.items() if name != "digest"}
        record["digest"] = digest(rest)
    path.write_text(json.dumps(record))
    return said


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
    for key, value in items:
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)


def another_file(path: Path, draw: random.Random, others: list[Path]) -> str:
    """Put another file of the store in its place."""
    path.write_bytes(draw.choice([each for each in others if each.is_file()]).read_bytes())
    return "another file"


def strange_name(store: Path, draw: random.Random) -> str:
    """Put something under a name that the engine does not give."""
    names = [
        *(ESCAPE, "x[/b]", "²", "..%2f", "notes.txt", "-", "a-b", "99999999.json", "x" * 200),
        *("9" * 30 + ".json", "000000000000000001.json", "train", "\u202e", ".hidden", "$(id)"),
    ]  # fmt: skip
    folders = [each for each in store.rglob("*") if each.is_dir() and "c" not in each.parts]
    place = draw.choice([store, *sorted(folders)]) / draw.choice(names).replace("/", "_")
    if draw.random() < 0.5:
        place.mkdir(exist_ok=True)
        if draw.random() < 0.5:
            (place / "recipe.json").write_text("{}")
    elif not place.exists():
        place.write_text("{}")
    return "strange name"


def damage(store: Path, draw: random.Random) -> str:
    """Damage one thing of a store; return what and how."""
    files = sorted(each for each in store.rglob("*") if each.is_file())
    kinds: dict[str, list[Path]] = {}
    for file in files:
        kinds.setdefault(kind_of(file.relative_to(store)), []).append(file)
    if draw.random() < 0.06:
        return f"store: {strange_name(store, draw)}"
    unread = {"report.html", "selection.csv", "selection.parquet"}
    kind = draw.choice(sorted(kinds.keys() - unread if draw.random() < 0.97 else kinds))
    path = draw.choice(kinds[kind])
    if kind == "chunk":
        how = draw.choice((a_cut, no_file))(path, draw)
    else:
        way = draw.random()
        if way < 0.15:
            how = a_whole_document(path, draw)
        elif way < 0.25:
            how = a_cut(path, draw)
        elif way < 0.35:
            how = no_file(path, draw)
        elif way < 0.40:
            how = another_file(path, draw, files)
        else:
            for _ in range(draw.choice((1, 1, 1, 3))):
                how = one_value(path, draw) if path.suffix == ".json" else a_cut(path, draw)
    return f"{kind}: {how}"


def kind_of(path: Path) -> str:
    """Say what a file of a store is, by its place."""
    parts = path.parts
    if "committed" in parts:
        return "mark"
    if path.name == "zarr.json":
        return "group" if parts[-3] == "attempts" else "array"
    if "c" in parts:
        return "chunk"
    if len(parts) == 1:
        return path.name
    if parts[-2] in ("leases", "starts"):
        return parts[-2]
    return "claim" if parts[0] == "runs" and parts[-2] == "stages" else path.name
