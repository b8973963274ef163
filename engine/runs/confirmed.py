"""Recipes that this user has started on this machine; only those may name code and places.

A recipe in a store may have been written by anybody who can write there, and the places and the
code that it names count only if a person has named them (``engine.runs.stored_places``). Whoever
typed ``mgd run`` has named them. So the digest of each such recipe is kept in a file of the user's
own, and not in the store: a stored recipe that agrees to the last setting is that of the user, and
goes on without being asked about; one that differs in a single one is not.

Layout: ``$XDG_STATE_HOME/metagradient-descent/started``, by default below ``~/.local/state``; a
digest in each line, and nothing else of any recipe. A relative ``$XDG_STATE_HOME`` is not used, as
its specification asks: the working folder may be anybody's.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path

from engine.recipes.descent import DescentRecipe
from engine.recipes.settings import digest
from engine.runs.run import OF_A_START

logger = logging.getLogger(__name__)

MOST = 10_000
"""Digests that are kept; the oldest ones go."""


def started_file() -> Path:
    """Return the path of the file that keeps the digests.

    Raises:
        RuntimeError: If the user has no home.
    """
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    base = named if named.is_absolute() else Path.home() / ".local" / "state"
    return base / "metagradient-descent" / "started"


def note_started(recipe: DescentRecipe) -> None:
    """Record that the user of this process has started a recipe, with its places and code.

    Where there is no place to write, nothing is noted, and the user is asked about the places when
    the run goes on.
    """
    known, digests = _read(), [_digest(each) for each in (recipe, recipe.descent)]
    new = [each for each in dict.fromkeys(digests) if each not in known]
    if not new:
        return
    try:
        file = started_file()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if len(known) >= MOST:
            _write_anew(file, known[-MOST // 2 :])
        with open(file, "a", encoding="utf-8", opener=_private) as stream:
            stream.write("".join(f"{each}\n" for each in new))  # in one piece: runs start at once
    except (OSError, RuntimeError) as error:  # no place to write, or no home
        logger.debug("The start is not noted: %s", error)


def was_started(recipe: DescentRecipe) -> bool:
    """Say whether this user has started exactly this recipe on this machine."""
    return _digest(recipe) in _read()


def _digest(recipe: DescentRecipe) -> str:
    return digest(recipe.model_dump(mode="json", exclude=set(OF_A_START)))


def _read() -> list[str]:
    with suppress(OSError, RuntimeError):  # not there, or the user has no home
        return started_file().read_text(encoding="utf-8", errors="replace").split()
    return []


def _write_anew(file: Path, digests: list[str]) -> None:
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    with open(partial, "w", encoding="utf-8", opener=_private) as stream:
        stream.write("".join(f"{each}\n" for each in digests))
    partial.replace(file)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
