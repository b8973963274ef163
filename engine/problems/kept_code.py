"""The source of a run's problem, kept in the store for workers that do not have its files.

This is done only if ``workers.code`` is ``store``. The setting belongs to the command that starts a
run, so nothing in a store can switch it on; otherwise, whoever can write to the store could have
code run by the workers. Source from the store is used only if every file has the digest that the
recipe names, and a file that the recipe does not name is not even written to disk.

Layout: ``<store>/code/<digest of the digests>.json``, one document with all files, and beside it
``<digest>-deployed.json`` where a deployment asks for it, of which no run may know.
"""

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path, PurePosixPath

from engine.errors import CheckpointMissingError, ConfigurationError
from engine.recipes.code.sources import OF_PACKAGES, digest_of
from engine.recipes.descent import DescentRecipe
from engine.recipes.execution import CodePlace
from engine.recipes.problem_functions import names_code, source_files, sources
from engine.recipes.settings import digest
from engine.storage.location import refuse_links
from engine.storage.places import CODE, deployed_code_url, kept_code_url
from engine.storage.records import read_record, write_record
from engine.storage.safe_names import is_part

LARGEST = 8 << 20
"""Most bytes of all files of a problem; it is source, and no data."""

_WRITTEN = 7 * LARGEST
"""Most bytes of the document: JSON takes six for a byte that is no ASCII, and there are names."""


def keep_code(recipe: DescentRecipe, store: str, *, deployed: bool = False) -> None:
    """Keep the files of a recipe's problem in a store, if its workers are to find them there.

    It does nothing if the files are not on this machine; they must be in the store then. The recipe
    of the run must be in the store already, because ``mgd clean`` reads in it that the source is in
    use.

    Args:
        recipe: Names the problem, and has the digests of its source.
        store: fsspec URL of the store.
        deployed: Whether a deployment asks for it, whose runs are not in the store yet.

    Raises:
        ConfigurationError: If they cannot be kept, see ``check_code``.
        CheckpointCorruptError: If the store's folder for them is a link to another place.
    """
    text = check_code(recipe)
    if text is None:
        return
    refuse_links(store, CODE)
    if deployed:
        write_record(deployed_code_url(store, code_key(recipe.code)), {"problem": recipe.problem})
    # Written anew each time, so that its age is that of its last use.
    write_record(kept_code_url(store, code_key(recipe.code)), {"files": text})


def check_code(recipe: DescentRecipe) -> dict[str, str] | None:
    """Return the files of a problem as a store would keep them; None if it is not asked to.

    Args:
        recipe: Names the problem, and has the digests of its source.

    Raises:
        ConfigurationError: If they cannot be kept: a file outside the recipe's folder, or too many
            bytes.
    """
    if not _is_asked(recipe) or not _is_here(recipe):
        return None
    files = source_files(recipe.problem, recipe.folder, recipe.arguments)
    content = {name: path.read_bytes() for name, path in files.items()}
    _check_names(content)
    if sum(map(len, content.values())) > LARGEST:
        raise ConfigurationError(
            f"workers.code is store, but the source of problem {recipe.problem} has "
            f"{sum(map(len, content.values()))} bytes, and {LARGEST} at most are kept. Leave what "
            "is no source out of its files, or put them on the workers and use workers.code=beside."
        )
    # Latin-1 maps each byte to one character and back, whatever the file's encoding is.
    return {name: each.decode("latin-1") for name, each in content.items()}


def at_hand(recipe: DescentRecipe, store: str) -> DescentRecipe:
    """Return a recipe whose folder has the files of its problem.

    It is the recipe itself wherever they are on this machine, with the digests of the run. Else,
    if ``workers.code`` is ``store``, they are taken from there, compared, and written into a folder
    that only this user may read and that goes with the process.

    Args:
        recipe: Names the problem.
        store: fsspec URL of the store.

    Raises:
        ConfigurationError: If they are not in the store, or are not those of the recipe.
    """
    if not _is_asked(recipe) or _is_here(recipe):
        return recipe
    named = tuple(sorted(_own(recipe.code).items()))
    folder = _unpacked(kept_code_url(store, code_key(recipe.code)), named)
    return recipe.model_copy(update={"folder": folder})


def _is_asked(recipe: DescentRecipe) -> bool:
    wanted = recipe.workers.code is CodePlace.STORE
    return wanted and names_code(recipe.problem, recipe.arguments) and bool(_own(recipe.code))


def _own(code: dict[str, str]) -> dict[str, str]:
    """Return the digests of files; what is installed is not kept."""
    return {name: each for name, each in code.items() if not name.startswith(OF_PACKAGES)}


def _is_here(recipe: DescentRecipe) -> bool:
    try:
        return sources(recipe.problem, recipe.folder, recipe.arguments) == recipe.code
    except ConfigurationError:  # of a file that is not here, or is no Python any more
        return False


def code_key(code: dict[str, str]) -> str:
    """Return the digest that kept source is named by, of the digests that a recipe has."""
    return digest(_own(code))[:32]


def _check_names(names: "dict[str, bytes]") -> None:
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or not all(is_part(part) for part in name.split("/")):
            raise ConfigurationError(
                f"workers.code is store, but {name} lies outside of the recipe's folder, and only "
                "files in it are kept. Put the recipe into a folder above all files of its "
                "problem, or put them on the workers and use workers.code=beside."
            )


@lru_cache(maxsize=8)
def _unpacked(url: str, named: tuple[tuple[str, str], ...]) -> str:
    """Return a folder with the files of a document, each compared with its digest."""
    try:
        held = read_record(url, largest=_WRITTEN).get("files")
    except CheckpointMissingError as error:
        raise ConfigurationError(
            f"workers.code is store, but the source of the problem is not at {url}, nor on this "
            "machine. Start the run where the files are, which keeps them there, or put them "
            "beside this process."
        ) from error
    content = {
        name: text.encode("latin-1", errors="replace")
        for name, text in (held if isinstance(held, dict) else {}).items()
        if isinstance(text, str)
    }
    wrong = [
        name for name, wanted in named if name not in content or digest_of(content[name]) != wanted
    ]
    if wrong:
        raise ConfigurationError(
            f"The source at {url} is not that of the run: {', '.join(wrong)} has another content "
            "than when the run was started, so it was changed in the store, and none of it is run. "
            "Delete that file, and start the run again where the right files are."
        )
    wanted = {name: content[name] for name, _ in named}
    _check_names(wanted)
    folder = Path(tempfile.mkdtemp(prefix="mgd-code-"))  # nobody else may read or write it
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, each in wanted.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(each)
    return str(folder)
