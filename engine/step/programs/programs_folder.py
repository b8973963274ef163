"""The folder that keeps compiled programs between processes, and the repair of damaged ones."""

import logging
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_logger = logging.getLogger(__name__)

_CACHE = "TORCHINDUCTOR_CACHE_DIR"

_REPAIRS = 16  # the loader names one damaged library at a time


def keep_programs() -> Path:
    """Return where torch keeps programs, and choose a folder if neither user nor torch has."""
    if _CACHE not in os.environ:
        os.environ[_CACHE] = programs_folder()
    return Path(os.environ[_CACHE])


def removed_damaged(words: str) -> bool:
    """Remove the libraries that an error of the loader names, and say whether there were any.

    The compiler writes a library in its place, so a process that is ended meanwhile leaves half of
    one, which no later process could load. Torch makes it again where there is none.

    Args:
        words: Words of the error.
    """
    folder, removed = keep_programs().resolve(), False
    for name in sorted(set(re.findall(r"(/[^:\n]+\.so): ", words))):
        library = Path(name).resolve()
        if library.is_relative_to(folder) and library.is_file():
            library.unlink()
            removed = True
            _logger.warning("A compiled library is damaged and made again: %s", library.name)
    return removed


def repaired(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is called again where a damaged library stood in its way."""

    def call(*inputs: Any) -> Any:  # noqa: ANN401 (what the function takes and returns)
        for _ in range(_REPAIRS):
            try:
                return function(*inputs)
            except (RuntimeError, OSError, ImportError) as error:
                if not removed_damaged(str(error)):
                    raise
        return function(*inputs)

    return call


def programs_folder() -> str:
    """Return where compiled programs are kept between processes: a folder of this user alone.

    Torch finds a program again by its graph, and what it finds it runs: libraries, and pickles. Its
    own default lies in the folder for temporary files, which any user of the machine may make
    first, and which a reboot empties. A store is no place either, because others may write to it.

    Cost:
        A second process compiles an MLP's product in 10 s of computing time instead of 57.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "metagradient-descent" / "programs"
    try:
        for place in (folder.parent, folder):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = place.lstat()
            if found.st_uid != os.getuid() or found.st_mode & 0o022 or place.is_symlink():
                return tempfile.mkdtemp(prefix="programs-")
    except OSError:  # no home, or none that can be written
        return tempfile.mkdtemp(prefix="programs-")
    return str(folder)
