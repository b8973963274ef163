"""Files of a problem's folder that shadow modules which libraries import."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path


class _Noting(MetaPathFinder):
    """Import finder that finds nothing, and notes imports by libraries of certain names.

    Attributes:
        asked: File of the library that asked, by the name that it asked for.
    """

    def __init__(self, names: frozenset[str], in_library: Callable[[str], bool]) -> None:
        self._names, self._in_library = names, in_library
        self.asked: dict[str, str] = {}

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        """Note the file that imports the module."""
        if fullname in self._names:
            frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] (as traceback does)
            while frame is not None and _is_of_imports(frame.f_code.co_filename):
                frame = frame.f_back
            if frame is not None and self._in_library(frame.f_code.co_filename):
                self.asked.setdefault(fullname, frame.f_code.co_filename)
        return None


def _is_of_imports(file: str) -> bool:
    """Say whether a frame's file is of the import itself, or of a check of types around it."""
    return file.startswith("<") or "importlib" in file


@contextmanager
def noting_asked(root: Path, in_library: Callable[[str], bool]) -> Iterator[Mapping[str, str]]:
    """Note which files of a folder are imported by libraries inside the block.

    Args:
        root: The folder.
        in_library: Says whether a file belongs to Python or an installed package.

    Yields:
        File of the library, by the name of the module.
    """
    names = {*(file.stem for file in root.glob("*.py")), *_packages(root)}
    noting = _Noting(frozenset(names), in_library)
    sys.meta_path.insert(0, noting)
    try:
        yield noting.asked
    finally:
        sys.meta_path.remove(noting)


def _packages(root: Path) -> Iterator[str]:
    return (file.parent.name for file in root.glob("*/__init__.py"))


def in_the_way(file: Path, library: str) -> str:
    """Return the message for a file that shadows a module of a library, with the remedy.

    Args:
        file: File of the problem's folder.
        library: The file that asked.
    """
    name = file.parent.name if file.stem == "__init__" else file.stem
    package = re.search(r"(?:site|dist)-packages[/\\]([^/\\]+)", library)
    who = f"the package {package[1]}" if package else "Python"
    return (
        f"{file} stands in the way of a module {name}, which {who} asks for and then does not "
        "find. Give it another name."
    )
