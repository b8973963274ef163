"""Files of a problem's folder as modules, each folder with its own: two may have a ``utils.py``.

A script finds its neighbours by their bare names. Here they are modules of a package that stands
for the folder as it is now, under a name of its own, and an import statement in one of its files
looks there first, whenever it is carried out: at the head of a file or while a loss is called. What
is run is what was digested: a file that has another content by then is refused.
"""

import builtins
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.errors import ConfigurationError
from engine.recipes.code.sources import digests_of


@dataclass(frozen=True)
class Folder:
    """A problem's file and its neighbours, as they are now.

    Attributes:
        package: Name of the package that stands for them.
        main: Name of the problem's file in it.
        modules: Dotted name in the package to the file.
        digests: Digest of each file, by the same names.
        root: The folder itself.
    """

    package: str
    main: str
    modules: dict[str, Path]
    digests: dict[str, str]
    root: Path

    @classmethod
    def of(cls, path: Path, files: dict[str, Path]) -> "Folder":
        """Return the folder of a problem's file.

        Args:
            path: The file.
            files: It and its neighbours, by their paths in the folder.
        """
        main = path.stem.replace(".", "_")
        named = {
            main if file == path else _dotted(name): (file, digest)
            for (name, file), digest in zip(files.items(), digests_of(files).values(), strict=True)
        }
        digests = {name: digest for name, (_, digest) in named.items()}
        whole = hashlib.sha256(repr((str(path), sorted(digests.items()))).encode()).hexdigest()
        modules = {name: file for name, (file, _) in named.items()}
        return cls(f"problem_{main}_{whole[:16]}", main, modules, digests, path.parent)

    def has(self, top: str) -> bool:
        """Say whether a bare name is one of the folder's, so that an import means it."""
        return any(name == top or name.startswith(f"{top}.") for name in self.modules)

    def load(self) -> ModuleType:
        """Return the problem's file as a module, loaded at the first call."""
        self.keep()
        if self.package not in sys.modules:
            package = ModuleType(self.package)
            package.__path__ = [str(self.root)]
            sys.modules[self.package] = package
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
        try:
            return import_module(f"{self.package}.{self.main}")
        except BaseException:
            self.forget()
            raise

    def keep(self) -> None:
        """Let modules of the package be found."""
        _FOLDERS[self.package] = self

    def forget(self) -> None:
        """Forget what was loaded, for a file that could not be."""
        _FOLDERS.pop(self.package, None)
        for name in [n for n in sys.modules if n.partition(".")[0] == self.package]:
            del sys.modules[name]

    def spec(self, fullname: str) -> ModuleSpec | None:
        """Return how a module of the package is loaded; None if there is none."""
        name = fullname.partition(".")[2]
        if name in self.modules:
            file = self.modules[name]
            around = [str(file.parent)] if file.name == "__init__.py" else None
            loader = _Loader(fullname, file, self, self.digests[name])
            return spec_from_file_location(
                fullname, file, loader=loader, submodule_search_locations=around
            )
        if not self.has(name):
            return None
        found = ModuleSpec(fullname, None, is_package=True)  # a folder without __init__.py
        found.submodule_search_locations = [str(self.root.joinpath(*name.split(".")))]
        return found

    def imported(
        self,
        name: str,
        globals: Any = None,  # noqa: ANN401 (as Python calls it)
        locals: Any = None,  # noqa: ANN401 (as Python's own)
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Carry out an import statement in one of the files."""
        top = name.partition(".")[0]
        if level or not self.has(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        own = f"{self.package}.{name}"
        found = builtins.__import__(own, globals, locals, fromlist or (), 0)
        return found if fromlist else sys.modules[f"{self.package}.{top}"]


def _dotted(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


class _Loader(SourceFileLoader):
    """Runs a file of a folder, with imports of its own, from its source and nothing else."""

    def __init__(self, fullname: str, file: Path, folder: Folder, digest: str) -> None:
        super().__init__(fullname, str(file))
        self._folder, self._digest = folder, digest

    def get_code(self, fullname: str) -> Any:  # noqa: ANN401 (code)
        """Return the code of the source that was digested; a cached one may be of another."""
        del fullname
        source = self.get_data(self.path)
        if hashlib.sha256(source).hexdigest()[: len(self._digest)] != self._digest:
            raise ConfigurationError(
                f"{self.path} was edited after the problem was loaded, and is imported only now. "
                "Start another run with `mgd run`, or put the file back."
            )
        return self.source_to_code(source, self.path)

    def exec_module(self, module: ModuleType) -> None:
        """Run the file."""
        own = {**vars(builtins), "__import__": self._folder.imported}
        vars(module)["__builtins__"] = own
        super().exec_module(module)


class _Finder:
    """Finds modules of the packages that stand for folders."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Any:  # noqa: ANN401 (as Python's own)
        """Return how a module is loaded, if it is one of a folder."""
        del path, target
        folder = _FOLDERS.get(fullname.partition(".")[0])
        return None if folder is None or "." not in fullname else folder.spec(fullname)


_FOLDERS: dict[str, Folder] = {}
"""Folders that this process has loaded, by the names of their packages."""

_FINDER: Any = _Finder()
