"""The files of a pretrained model, looked at before the libraries read them.

A folder may have been packed by anybody. Its index may name files of other folders, one of its
files may be a device that never ends, and its settings may say layers by the thousand, all of which
are made before a weight is read. A model of the hub comes through the library's own cache, whose
files are links, and is looked at by its settings alone.
"""

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_LAYERS = 512
"""Of a pretrained model. The deepest known have some 130; making one takes 12 ms."""

_LAYERS = re.compile(r"(?:.*_)?(?:n_layers?|layers|depth)")
"""Names of settings that say a number of layers, in the models of ``transformers``."""

_LARGEST_INDEX = 64 << 20
"""Bytes of an index; those of the largest models have two million."""

_READ = (".json", ".txt", ".model", ".safetensors", ".bin", ".jinja", ".tiktoken")
"""Ends of names of files that the libraries open by themselves."""


def refuse_pretrained_files(name: str) -> None:
    """Refuse a folder of which reading would leave it, or not come to an end.

    Args:
        name: A folder, or the name of a model of the hub, of which nothing is here to be looked at.

    Raises:
        ValueError: Names the file.
    """
    folder = Path(name)
    if not folder.is_dir():
        return
    for file in sorted(each for each in folder.iterdir() if each.name.endswith(_READ)):
        if not stat.S_ISREG(file.stat().st_mode):
            raise ValueError(f"{file.name} is no regular file")
    for index in sorted(folder.glob("*.index.json")):
        if index.stat().st_size > _LARGEST_INDEX:
            raise ValueError(f"{index.name} has over {_LARGEST_INDEX} bytes")
        for weights in _listed_files(json.loads(index.read_bytes())):
            if not isinstance(weights, str) or Path(weights).name != weights or weights == "..":
                raise ValueError(
                    f"{index.name} names {str(weights)[:200]!r}, no file of its folder"
                )


def _listed_files(index: Any) -> set[Any]:  # noqa: ANN401 (whatever the file holds)
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict) or any(isinstance(each, dict | list) for each in named.values()):
        raise ValueError("its index of weights is none: it has no map of names to files")
    return set(named.values())


def refuse_depth(config: Any) -> None:  # noqa: ANN401 (of transformers)
    """Refuse a number of layers that nobody has trained: all are made before a weight is read.

    Raises:
        ValueError: Names the setting.
    """
    for name, number in _numbers(config.to_dict()):
        if _LAYERS.fullmatch(name) and number > MOST_LAYERS:
            raise ValueError(
                f"its config.json says {name}={number}, and at most {MOST_LAYERS} layers are made"
            )


def _numbers(settings: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the numbers among settings, with their names; models of several parts nest them."""
    waiting = [settings]
    while waiting:
        for name, value in waiting.pop().items():
            if isinstance(value, dict):
                waiting.append(value)
            elif isinstance(value, int):
                yield str(name), value
