"""Loads code that a recipe names: a file beside it, or a module of an installed package.

A file finds its neighbours as a script does. They are known by their digests; one that is loaded in
a way that the digests do not see is refused, because an edit of it would pass unnoticed.
"""

import importlib
import importlib.machinery
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from engine.errors import ConfigurationError, EngineError, did_you_mean, words_of
from engine.recipes.code.asked_for import in_the_way, noting_asked
from engine.recipes.code.neighbours import Folder
from engine.recipes.code.process_defaults import defaults_kept
from engine.recipes.code.sources import (
    OF_THE_PROJECT,
    PROJECT,
    digests_of,
    files_of,
    package_digest,
)

_LIBRARIES = tuple(
    str(Path(sysconfig.get_paths()[name]).resolve())
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
"""Folders of installed modules, which are known by their version."""

_INSTALLED = frozenset({"site-packages", "dist-packages"})
"""What such a folder is called in any environment, of which another may be on the path as well."""

_PACKAGES: dict[str, dict[str, str]] = {}
"""Digests of the packages that this process has loaded for a problem, as they were then."""

_CALLED: ContextVar[tuple[str | None, frozenset[str]] | None] = ContextVar("called", default=None)
"""Folder of the recipe whose problem is being called, and the names of its digests."""


def source_digests(place: str, folder: str | None) -> dict[str, str]:
    """Return the digests of a file and its neighbours, or of a package.

    Args:
        place: ``my_file.py`` or ``package.module``.
        folder: Where files are looked for; the working folder if none.

    Raises:
        ConfigurationError: If there is no such source.
    """
    if not place.endswith(".py"):
        return package_digest(place)
    return digests_of(neighbours_of(place, folder))


def neighbours_of(place: str, folder: str | None) -> dict[str, Path]:
    """Return a file and its neighbours, each by its path from where files are looked for.

    Args:
        place: ``my_file.py``.
        folder: Where files are looked for; the working folder if none.

    Raises:
        ConfigurationError: If there is no such file.
    """
    path, beside = _path(place, folder), PurePosixPath(place).parent
    return {str(beside / name): file for name, file in files_of(path, path.parent).items()}


def files_behind(place: str, folder: str | None) -> list[tuple[Path, Path]]:
    """Return the files of a problem or a model, each with the folder of its neighbours.

    Those of an installed package are none: it is known by its version.

    Args:
        place: ``my_file.py``, or ``package.module``, which is loaded.
        folder: Where files are looked for; the working folder if none.

    Raises:
        ConfigurationError: If a file is not there.
    """
    if place.endswith(".py"):
        path = _path(place, folder)
        return [(each, path.parent) for each in files_of(path, path.parent).values()]
    named = getattr(sys.modules.get(place), "__file__", None)
    if named is None or in_library(named):
        return []
    path = Path(named)
    root = path.parents[place.count(".") + (path.stem == "__init__")]
    return [(each, root) for each in files_of(path, root).values()]


def reload_file(place: str, folder: str | None) -> None:
    """Run a file and its neighbours once more, for what they read when they are loaded.

    One that cannot be run twice in a process, as it registers something there, stays as it was.

    Args:
        place: ``my_file.py``; modules of packages stay as they are.
        folder: Where files are looked for; the working folder if none.
    """
    if not place.endswith(".py"):
        return
    path = _path(place, folder)
    package = Folder.of(path, files_of(path, path.parent)).package
    before = {n: each for n, each in sys.modules.items() if n.partition(".")[0] == package}
    for name in before:
        del sys.modules[name]
    try:
        _load_file(path)
    except ConfigurationError:
        if not before:
            raise
        Folder.of(path, files_of(path, path.parent)).keep()
        sys.modules.update(before)


def load_module(place: str, folder: str | None) -> ModuleType:
    """Load a file or a module of a package; a file is loaded anew whenever its source has changed.

    Raises:
        ConfigurationError: If it cannot be loaded; says in which line, and why.
    """
    return _load_file(_path(place, folder)) if place.endswith(".py") else _load_package(place)


@contextmanager
def calling(problem: str, folder: str | None, code: dict[str, str]) -> Iterator[None]:
    """Call a problem's function in the block, with its folder in front of the path.

    Args:
        problem: As the recipe names it.
        folder: Folder of the recipe's file.
        code: Digests of the recipe; what is loaded in the block has to be among them.

    Raises:
        ConfigurationError: If a neighbour is loaded that has no digest.
    """
    token = _CALLED.set((folder, frozenset(code)))
    place = problem.rpartition(":")[0]
    try:
        if place.endswith(".py"):
            path = _path(place, folder)
            with _in_front(path, files_of(path, path.parent)):
                yield
        else:
            yield
    finally:
        _CALLED.reset(token)


def load_object(name: str, setting: str) -> Callable[..., Any]:
    """Return a class or function that an argument names, e.g. ``my_file.py:Net``.

    Raises:
        ConfigurationError: If there is none, or the recipe has no digest of its file.
    """
    place, _, what = name.rpartition(":")
    if not place:
        raise ConfigurationError(
            f"{setting} is {name!r}, which names no class. Write settings of a shipped model, e.g. "
            "{name: mlp, width: 64}, or my_file.py:Net of a file beside the recipe."
        )
    folder, counted = _CALLED.get() or (None, None)
    if counted is not None and not set(source_digests(place, folder)) <= counted:
        raise ConfigurationError(
            f"{name} is named within the problem's code, so the run would not notice an edit of "
            f"it. Make it an argument of the recipe ({setting}), or import it at the head of the "
            "problem's file and hand in the model."
        )
    found = getattr(load_module(place, folder), what, None)
    if not callable(found):
        raise ConfigurationError(
            f"{setting} is {name}, but {place} has no class or function {what!r}. Correct the name."
        )
    return found


def in_library(file: str) -> bool:
    """Say whether a file belongs to Python or to a package that is installed, wherever that is."""
    path = Path(file).resolve()
    return (
        file.startswith("<")
        or str(path).startswith(_LIBRARIES)
        or not _INSTALLED.isdisjoint(path.parts)
    )


def _path(place: str, folder: str | None) -> Path:
    """Return a file that a recipe names."""
    root = Path(folder).expanduser() if folder else Path.cwd()
    path = root / Path(place).expanduser()
    if path.is_file():
        return path.resolve()
    beside = Path.cwd() / place
    if beside.is_file():  # a worker keeps the files where it was started
        return beside.resolve()
    started = (
        "" if root.resolve() == Path.cwd() else f", nor in {Path.cwd()}, where this process runs"
    )
    raise ConfigurationError(
        f"problem names {place}, but there is no such file in {root}{started}. Put it there, on "
        "workers too, or name a function of an installed package. Workers that cannot have the "
        "file take it from the store, if the run is started with workers.code=store."
    )


def _load_file(path: Path) -> ModuleType:
    files = files_of(path, path.parent)
    folder = Folder.of(path, files)
    loaded = sys.modules.get(f"{folder.package}.{folder.main}")
    if loaded is not None:
        return loaded
    asked: Mapping[str, str] = {}
    try:
        with (
            _in_front(path, files) as asked,
            defaults_kept(path.name),
            redirect_stdout(sys.stderr),
        ):
            return folder.load()
    except (Exception, SystemExit) as error:
        if isinstance(error, ConfigurationError) and not own_line(error):
            raise
        told = _explained(error, path, asked).replace(
            f"{folder.package}.", ""
        )  # as the file calls them
        raise ConfigurationError(told) from error


@contextmanager
def _in_front(path: Path, files: dict[str, Path]) -> Iterator[Mapping[str, str]]:
    """Put the folder of a file in front of the path in the block.

    Import statements of its files find neighbours without it
    (``engine.recipes.code.neighbours``). It is for those that run code to import by name: what they
    load is known here, and refused if its content is in no digest. Afterwards none of it can be
    taken for a module of another folder.

    Yields:
        Libraries that ask for modules by the names of its files, see ``noting_asked``.
    """
    root, known = path.parent, set(sys.modules)
    for name, file in files.items():
        _forget(name, file)
    sys.path.insert(0, str(root))
    try:
        with noting_asked(root, in_library) as asked:
            yield asked
    finally:
        with suppress(ValueError):  # what was called may have set another path
            sys.path.remove(str(root))
    _refuse_unseen(root, files, set(sys.modules) - known, asked)
    for name, file in files.items():
        _forget(name, file)


def _refuse_unseen(
    root: Path, files: dict[str, Path], loaded: set[str], asked: Mapping[str, str]
) -> None:
    """Refuse neighbours that were loaded although no import statement names them.

    The process's own program is none of them; multiprocessing gives it a second name.
    """
    for name in sorted(loaded - {"__mp_main__"}):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None or in_library(file) or name.partition(".")[0] in OF_THE_PROJECT:
            continue
        path = Path(file).resolve()
        if not path.is_file():  # torch has modules whose file is a name
            continue
        if path.is_relative_to(root) and path not in {each.resolve() for each in files.values()}:
            del sys.modules[name]
            if name in asked:
                raise ConfigurationError(in_the_way(path, asked[name]))
            raise ConfigurationError(
                f"{path} is loaded, but no import statement of the problem's files names it, so "
                "the run would not notice an edit of it. Import it by name."
            )


def _forget(name: str, path: Path) -> None:
    """Forget a neighbour that was imported before: from another folder, or with other content."""
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    file = getattr(sys.modules.get(module), "__file__", None)
    top = module.partition(".")[0]
    if file is not None and top in OF_THE_PROJECT and Path(file).is_relative_to(PROJECT / top):
        return  # a neighbour called tasks is no reason to forget the tasks of this project
    if file is not None and (Path(file).resolve() == path.resolve() or not in_library(file)):
        del sys.modules[module]


def _load_package(place: str) -> ModuleType:
    try:
        found = importlib.import_module(place)
    except ImportError as error:
        raise ConfigurationError(
            f"problem names the module {place}, which cannot be imported here "
            f"({error}). Install it where the run and its workers are, or name a file beside the "
            "recipe, e.g. my_problem.py:function."
        ) from error
    except Exception as error:
        raise ConfigurationError(_explained(error, Path(place))) from error
    top = sys.modules[place.partition(".")[0]]
    if not getattr(top.__spec__, "has_location", False) and not hasattr(top, "__path__"):
        return found  # Python's own, which is no file of its own
    now = package_digest(place)
    if _PACKAGES.setdefault(place.partition(".")[0], now) != now:
        raise ConfigurationError(
            f"The package of {place} was edited or installed anew after this process has loaded "
            "it, and Python keeps what it has loaded. Start the process anew: the command, the "
            "notebook's kernel, the worker."
        )
    return found


def _explained(error: BaseException, path: Path, asked: Mapping[str, str] | None = None) -> str:
    place = own_line(error) or str(path)
    for name, library in (asked or {}).items():
        for frame in traceback.extract_tb(error.__traceback__):
            file = Path(frame.filename)
            if file in (path.parent / f"{name}.py", path.parent / name / "__init__.py"):
                return f"{path.name} cannot be loaded. {in_the_way(file, library)}"
    if isinstance(error, SystemExit):
        return (
            f"{path.name} ends the process ({place}: exit) while it is loaded. Put what the script "
            'does under `if __name__ == "__main__":`, and leave functions at the head.'
        )
    if isinstance(error, EngineError):
        return f"{path.name} cannot be loaded, because of {place}: {error}"
    if isinstance(error, ModuleNotFoundError):
        here = {each.stem for each in path.parent.glob("*.py")} - {path.stem}
        return (
            f"{path.name} imports {error.name!r} in {place}, which is not installed. Install it "
            "here and where the workers are, or leave the import out."
            f"{did_you_mean(error.name or '', here)}"
        )
    return (
        f"{path.name} cannot be loaded: {type(error).__name__} in {place}: {words_of(error)}. "
        f"{_remedy(error, path, asked or {})}"
    )


def _remedy(error: BaseException, path: Path, asked: Mapping[str, str]) -> str:
    """Say what to do about an error while a file is loaded."""
    if isinstance(error, NameError) and "get_ipython" in str(error):
        return "The file was a notebook: leave out the lines with get_ipython, which only it has."
    beside = [*path.parent.glob("*.py"), *(one.parent for one in path.parent.glob("*/__init__.py"))]
    for file in sorted(beside):
        named = re.search(rf"['.]{re.escape(file.stem)}['.]", str(error))
        if named and file.stem in asked:
            return in_the_way(file, asked[file.stem])
        if named and is_installed(file.stem):
            return (
                f"{file} stands in the way of the package {file.stem}, which an import then does "
                "not find. Give it another name."
            )
    return "Correct the file."


def is_installed(module: str) -> bool:
    """Say whether Python or an installed package has a module of this name."""
    if module in sys.stdlib_module_names or module in OF_THE_PROJECT:
        return True
    return importlib.machinery.PathFinder.find_spec(module, list(_LIBRARIES)) is not None


def raised(error: BaseException) -> str:
    """Say which error of the user's own it is: its kind, its line if that is known, its words."""
    line = own_line(error)
    return f"{type(error).__name__}{f' in {line}' if line else ''}: {words_of(error)}"


def own_line(error: BaseException) -> str:
    """Return the last line of the user's own that led to an error; empty if there is none."""
    engine = str(Path(__file__).parents[2])
    frames = [
        each
        for each in traceback.extract_tb(error.__traceback__)
        if not in_library(each.filename) and not each.filename.startswith(engine)
    ]
    return f"line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""
