"""Modules of a user's that lie neither beside the recipe nor in an installed package.

They are found on the path: of an editable installation, of ``PYTHONPATH``, or of a folder that the
code puts there itself. Where they lie is known only once the problem's code has run, so they are
looked for then, and are no part of a recipe's digests.
"""

import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from engine.errors import ConfigurationError
from engine.recipes.code.sources import (
    OF_THE_PROJECT,
    PROJECT,
    digest_of,
    file_in,
    imported_names,
)
from engine.recipes.code.user_code import files_behind, in_library
from engine.recipes.problem_functions import places_of

_LOADED: dict[str, tuple[ModuleSpec, str]] = {}
"""Digest of each module's file when this process first found it loaded, by name.

Whoever loads a module once more, as notebooks do, gives it another specification.
"""


def source_elsewhere(problem: str, arguments: dict[str, Any], folder: str | None) -> str:
    """Return a digest of the source that a problem imports from elsewhere; empty without any.

    Args:
        problem: As the recipe names it.
        arguments: Of the recipe; a model of one's own is among them.
        folder: Folder of the recipe's file.

    Raises:
        ConfigurationError: If a file was edited after this process has loaded it: what runs is not
            what it says.
    """
    found: dict[str, str] = {}
    places = places_of(problem, arguments)
    files = [each for place in places for each in files_behind(place, folder)]
    for name, path in _elsewhere(files):
        found[name] = digest_of(path.read_bytes())
        if _when_loaded(name, found[name]) != found[name]:
            raise ConfigurationError(
                f"{path} was edited after this process has loaded it, and Python keeps what it has "
                "loaded. Start the process anew: the command, the notebook's kernel, the worker."
            )
    return digest_of(repr(sorted(found.items())).encode()) if found else ""


def _when_loaded(name: str, now: str) -> str:
    """Return the digest of a module's file when it was loaded; that of now if it is not."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None:
        return now
    known = _LOADED.get(name)
    if known is None or known[0] is not spec:
        known = _LOADED[name] = spec, now
    return known[1]


def _elsewhere(files: list[tuple[Path, Path]]) -> Iterator[tuple[str, Path]]:
    """Yield modules elsewhere by name, each once, and those that they import in turn.

    Args:
        files: Files, each with the folder where its neighbours lie.
    """
    todo, seen = [*files], {path for path, _ in files}
    while todo:
        path, beside = todo.pop()
        for name in imported_names(path, beside):
            near = file_in(name, beside)
            folder = beside if near is not None else _folder_of(name.partition(".")[0])
            file = None if folder is None else file_in(name, folder)
            if folder is None or file is None or file in seen:
                continue
            seen.add(file)
            todo.append((file, folder))
            yield name, file


def _folder_of(top: str) -> Path | None:
    """Return the folder in which a module of a user's lies; None for all others."""
    spec = _spec(top)
    if spec is None:
        return None
    around = [*(spec.submodule_search_locations or [])]
    place = Path(around[0]) if around else Path(spec.origin or "")
    if not place.exists() or in_library(str(place)):
        return None
    if top in OF_THE_PROJECT and place.resolve().is_relative_to(PROJECT):
        return None
    return place.parent


def _spec(top: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):  # a module that was made by hand has no specification
        return None
