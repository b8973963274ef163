"""The source files behind a problem's function, and their digests.

A recipe keeps the digests, so that an edit is another run, and a worker or a resumed run never
computes with other source than the run began with. What is imported is found in the source itself,
without running it; a file that is only found by running code (``importlib``, ``exec``) is not seen.
"""

import ast
import hashlib
import importlib.util
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from engine.errors import ConfigurationError

OF_THE_PROJECT = frozenset({"engine", "tasks", "flows"})
"""Packages of this project, which are no neighbours of a problem where a recipe lies beside them.

Another file or folder called ``tasks`` or ``flows`` is a neighbour like any. ``engine`` is always
this one, since a problem's file needs it.
"""

PROJECT = Path(__file__).resolve().parents[3]
"""Folder in which these packages lie."""

OF_PACKAGES = "package "
"""How the names of digests begin that are of an installed package and not of a file."""

_WHOLE_PACKAGES = 2000
"""Most source files of an installed package that are read for its digest."""


def files_of(path: Path, folder: Path) -> dict[str, Path]:
    """Return a file and all files of its folder that it imports, by their paths in the folder.

    Args:
        path: A Python file.
        folder: Where its imports of neighbours are looked for.

    Raises:
        ConfigurationError: If a file is no Python; says in which line.
    """
    found: dict[str, Path] = {}
    todo = [path.resolve()]
    folder = folder.resolve()
    while todo:
        one = todo.pop()
        name = one.relative_to(folder).as_posix() if one.is_relative_to(folder) else one.name
        if name in found:
            continue
        found[name] = one
        todo += _imported(one, folder)
    return dict(sorted(found.items()))


def digests_of(files: dict[str, Path]) -> dict[str, str]:
    """Return the digest of each file, see ``digest_of``."""
    return {name: digest_of(path.read_bytes()) for name, path in files.items()}


def digest_of(content: bytes) -> str:
    """Return 32 hex digits for the content of a file.

    Source may come from a store, where its digest alone says that it is the right one, so nobody
    must be able to make another content to a digest.
    """
    return hashlib.sha256(content).hexdigest()[:32]


def package_digest(module: str) -> dict[str, str]:
    """Return the version of an installed package, and one digest of all of its source files.

    Args:
        module: Dotted name of a module of it.

    Raises:
        ConfigurationError: If there is none.
    """
    top = module.partition(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None or not (spec.origin or spec.submodule_search_locations):
        raise ConfigurationError(
            f"There is no package {top!r} here, which problem names as {module!r}. Install it "
            "where the run and its workers are, or name a file beside the recipe, e.g. "
            "my_problem.py:function."
        )
    if spec.submodule_search_locations:
        roots = [Path(each) for each in spec.submodule_search_locations]
        files = sorted(path for root in roots for path in root.rglob("*.py"))[:_WHOLE_PACKAGES]
        named = {str(path.relative_to(roots[0].parent)): path for path in files}
    else:
        named = {f"{top}.py": Path(spec.origin or "")}
    whole = digest_of(str(digests_of(named)).encode())
    return {f"{OF_PACKAGES}{top}": f"{_version(top)} {whole}".strip()}


def _version(top: str) -> str:
    for name in packages_distributions().get(top, [top]):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def _imported(path: Path, folder: Path) -> list[Path]:
    """Return the files of a folder that a file of it imports, wherever in the file it says so."""
    names = imported_names(path, folder)
    return [each for name in names if (each := file_in(name, folder)) is not None]


def imported_names(path: Path, folder: Path) -> list[str]:
    """Return the dotted names in a file's import statements that may be modules.

    Args:
        path: The file.
        folder: From where relative imports are told.

    Raises:
        ConfigurationError: If it is no Python.
    """
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found += [part for name in names for part in _prefixes(name)]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, path, folder)
            if base is not None:
                found += _prefixes(base) if base else []
                found += [f"{base}.{alias.name}".strip(".") for alias in node.names]
    return found


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file.

    Raises:
        ConfigurationError: If it cannot be read, or is no Python.
    """
    try:
        return ast.parse(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigurationError(
            f"The file {path}, which problem names, cannot be read ({type(error).__name__}). Put "
            "it beside the recipe, or correct problem.",
            settings=("problem",),
        ) from error
    except (SyntaxError, ValueError) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        place = str(path) if line is None else f"line {line} of {path}"
        why = error.msg if isinstance(error, SyntaxError) else str(error)
        text = (error.text or "").lstrip() if isinstance(error, SyntaxError) else ""
        remedy = (
            f"Leave {text.split()[0]} out, which only notebooks understand."
            if text.startswith(("%", "!"))
            else "Correct the file."
        )
        raise ConfigurationError(f"There is a syntax error in {place}: {why}. {remedy}") from error


def _absolute(node: ast.ImportFrom, path: Path, folder: Path) -> str | None:
    """Return the module of ``from X import ...`` as its name from the folder."""
    if not node.level:
        return node.module or ""
    package = path.parent
    for _ in range(node.level - 1):
        package = package.parent
    if not package.is_relative_to(folder):
        return None
    parts = [*package.relative_to(folder).parts, *((node.module or "").split("."))]
    return ".".join(part for part in parts if part)


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def file_in(name: str, folder: Path) -> Path | None:
    """Return the file of a module in a folder, where it is called so; it may be a link.

    Args:
        name: By dots.
        folder: Where it is looked for.
    """
    top = name.partition(".")[0]
    if top == "engine" or (top in OF_THE_PROJECT and folder == PROJECT):
        return None
    base = folder.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path  # what a linked package imports is looked for beside the link
    return None
