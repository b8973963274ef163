"""A problem's function, found by the name that a recipe has for it, and its arguments.

A name is that of a problem that ships (``digits``), a function in a file beside the recipe
(``my_images.py:flowers``), or one of an installed package (``package.module:function``). All are
functions that return an ``engine.Problem``; the arguments of a recipe are those of the function,
checked against its signature. Nothing here knows tensors; a user's file may import what it likes.
"""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from engine.errors import ConfigurationError
from engine.recipes.explain import explained
from engine.recipes.settings import Settings
from engine.recipes.sources import digests_of, files_of, package_digest, parsed
from engine.secret_urls import refuse_secrets

SHIPPED = "engine.problems.shipped"
"""Module of the functions that ship; importing it loads no torch."""

DEFAULT_PROBLEM = "digits"

_NAME = re.compile(r"[\w./\\~ -]+\.py:\w+|[A-Za-z_][\w.]*:\w+|[a-z][a-z0-9_-]*")
_RETURNS = re.compile(r"(?:\w+\.)*Problem")

Function = Callable[..., Any]

_FOLDER: ContextVar[str | None] = ContextVar("folder", default=None)
"""Folder of the recipe whose problem is being called."""


def shipped_problems() -> list[str]:
    """Return the names of the problems that ship."""
    return sorted(importlib.import_module(SHIPPED).__all__)


def is_shipped(name: str) -> bool:
    """Say whether a name is that of a problem that ships."""
    return ":" not in name


def sources(name: str, folder: str | None, arguments: dict[str, Any]) -> dict[str, str]:
    """Return the digests of the source of a problem, by file or package; of what ships, none.

    A model of one's own that a ready problem is given is code as well.

    The engine's own version is a part of every stage's key already.

    Raises:
        ConfigurationError: If there is no such source.
    """
    model = arguments.get("model")
    found = {} if is_shipped(name) else _sources(name, folder)
    return found | (_sources(model, folder) if isinstance(model, str) and ":" in model else {})


def _sources(name: str, folder: str | None) -> dict[str, str]:
    place, _, _ = name.rpartition(":")
    if place.endswith(".py"):
        path, root = _path(place, folder)
        return digests_of(files_of(path, root))
    return package_digest(place)


def check_sources(
    name: str, folder: str | None, arguments: dict[str, Any], expected: dict[str, str]
) -> None:
    """Refuse source that is not the one whose digests a recipe has.

    Raises:
        ConfigurationError: Names the files that were edited, added or left out since.
    """
    found = sources(name, folder, arguments)
    if found == expected:
        return
    changed = sorted(each for each in {*found, *expected} if found.get(each) != expected.get(each))
    raise _refusal(
        f"The source of problem {name} is not that of the run: {', '.join(changed)} "
        f"{'was' if len(changed) == 1 else 'were'} edited, moved or installed anew since it began. "
        "Put the source back, on the workers too, or start another run with `mgd run`, which "
        "computes everything anew."
    )


def find_function(name: str, folder: str | None) -> Function:
    """Return the function that a recipe names.

    Args:
        name: See the module.
        folder: Folder of the recipe's file, where files are looked for; the working folder if none.

    Raises:
        ConfigurationError: If there is no such function, or it does not return a problem.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _refusal(
            f"problem is {name!r}, which names no function. Use one of "
            f"{', '.join(shipped_problems())}, my_file.py:function of a file beside the recipe, or "
            "package.module:function."
        )
    if is_shipped(name):
        found = getattr(importlib.import_module(SHIPPED), name.replace("-", "_"), None)
        if found is None or name.replace("-", "_") not in shipped_problems():
            raise _refusal(
                f"problem is {name}, which does not ship. Use one of "
                f"{', '.join(shipped_problems())}, my_file.py:function of a file beside the "
                "recipe, or package.module:function."
            )
        return found
    place, _, function = name.rpartition(":")
    module = _load_file(place, folder) if place.endswith(".py") else _load_package(place)
    found = getattr(module, function, None)
    if not inspect.isfunction(found):
        known = [
            each for each, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]  # fmt: skip
        raise _refusal(
            f"problem is {name}, but {place} has no function {function!r}; it has "
            f"{', '.join(known) or 'none'}. Correct the name."
        )
    returns = inspect.signature(found).return_annotation
    shown = returns if isinstance(returns, str) else getattr(returns, "__name__", "nothing")
    if not _RETURNS.fullmatch(str(shown)):
        raise _refusal(
            f"problem is {name}, whose signature does not say that it returns a problem; a recipe "
            f"calls nothing else. Write it as `def {function}(...) -> engine.Problem`."
        )
    return found


@contextmanager
def beside(folder: str | None) -> Iterator[None]:
    """Let files that an argument names be looked for in the folder of a recipe, in the block."""
    token = _FOLDER.set(folder)
    try:
        yield
    finally:
        _FOLDER.reset(token)


def load_object(name: str, setting: str) -> Callable[..., Any]:
    """Return a class or function that an argument names, e.g. ``my_file.py:Net``.

    Raises:
        ConfigurationError: If there is none.
    """
    place, _, what = name.rpartition(":")
    if not place:
        raise _refusal(
            f"{setting} is {name!r}, which names no class. Write settings of a shipped model, e.g. "
            "{name: mlp, width: 64}, or my_file.py:Net of a file beside the recipe."
        )
    module = _load_file(place, _FOLDER.get()) if place.endswith(".py") else _load_package(place)
    found = getattr(module, what, None)
    if not callable(found):
        raise _refusal(f"{setting} is {name}, but {place} has no class or function {what!r}.")
    return found


def names_code(problem: Any, arguments: Any) -> bool:  # noqa: ANN401 (of any recipe)
    """Say whether a recipe names code that does not ship: its problem, or a model of one's own."""
    model = arguments.get("model") if isinstance(arguments, dict) else None
    return ":" in str(problem) or (isinstance(model, str) and ":" in model)


def arguments_of(function: Function) -> type[Settings]:
    """Return the arguments of a function as settings: names, types, defaults and descriptions.

    Types come from the signature, descriptions from the docstring (Google style).

    Raises:
        ConfigurationError: If a parameter cannot be set by a recipe.
    """
    described = _descriptions(inspect.getdoc(function) or "")
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise _refusal(
                f"{function.__name__} takes {parameter}, but the arguments of a recipe have names. "
                "Give every parameter a name of its own, without * and /."
            )
        annotation = _annotation(function, parameter)
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (annotation, _field(default, described.get(name)))
    try:
        return create_model(
            f"Arguments of {function.__name__}",
            __base__=Settings,
            __doc__=function.__doc__,
            **fields,
        )
    except (PydanticSchemaGenerationError, PydanticUserError, NameError) as error:
        raise _refusal(
            f"The parameters of {function.__name__} cannot be settings of a recipe: "
            f"{str(error).splitlines()[0]} Use numbers, texts, lists and dicts of them."
        ) from error


def read_arguments(function: Function, given: Any) -> dict[str, Any]:  # noqa: ANN401 (any input)
    """Return a function's arguments as a recipe keeps them: all of them, as JSON values.

    Raises:
        ConfigurationError: Names each wrong argument, its value, the reason and the remedy.
    """
    model = arguments_of(function)
    if not isinstance(given, dict):
        raise _refusal(
            f"arguments is {given!r}, but arguments are named: {', '.join(model.model_fields)}. "
            "Write a mapping."
        )
    for name, value in given.items():
        _refuse_secrets_in(value, f"arguments.{name}")
    return _validated(model, given).model_dump(mode="json")


def _refuse_secrets_in(value: Any, name: str) -> None:  # noqa: ANN401 (any JSON value)
    """Refuse secrets in URLs, wherever in an argument they are: all of it is kept and shown."""
    if isinstance(value, str):
        refuse_secrets(name, value)
    elif isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in pairs:
            _refuse_secrets_in(each, f"{name}.{key}")


def call(function: Function, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 (what it returns)
    """Call a function with the arguments of a recipe, each of the type of its parameter."""
    model = _validated(arguments_of(function), arguments)
    return function(**{name: getattr(model, name) for name in type(model).model_fields})


def _validated(model: type[Settings], given: dict[str, Any]) -> Settings:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _refusal(explained(model, error, "arguments").strip()) from None


def _field(default: Any, description: str | None) -> Any:  # noqa: ANN401 (what pydantic has)
    from pydantic import Field

    return Field(default, description=description)


def _annotation(function: Function, parameter: inspect.Parameter) -> Any:  # noqa: ANN401 (a type)
    found = parameter.annotation
    if found is parameter.empty:
        return Any
    if not isinstance(found, str):
        return found
    try:
        return eval(found, function.__globals__)
    except Exception as error:
        raise _refusal(
            f"The type of {parameter.name}, {found!r}, is not known where {function.__name__} is "
            "defined. Import it at the head of the file, outside of TYPE_CHECKING."
        ) from error


def _descriptions(doc: str) -> dict[str, str]:
    """Return what the section ``Args`` of a docstring says of each parameter."""
    _, found, rest = doc.partition("\nArgs:\n")
    described: dict[str, str] = {}
    name = ""
    for line in rest.splitlines() if found else []:
        if line and not line.startswith(" "):
            break
        entry = re.match(r" {4}(\w+)(?: \([^)]*\))?: (.*)", line)
        if entry:
            name = entry[1]
            described[name] = entry[2].strip()
        elif name and line.strip():
            described[name] += " " + line.strip()
    return described


def _path(place: str, folder: str | None) -> tuple[Path, Path]:
    """Return a file that a recipe names, and the folder that its imports are looked for in."""
    root = Path(folder).expanduser() if folder else Path.cwd()
    path = (root / Path(place).expanduser()).resolve()
    if not path.is_file():
        beside = Path.cwd() / place
        if not beside.is_file():  # a worker keeps the files where it was started
            raise _refusal(
                f"problem names {place}, but there is no such file in {root}, nor in {Path.cwd()}, "
                "where this process was started. Put it there, on workers too, or name a function "
                "of an installed package."
            )
        path = beside.resolve()
    return path, path.parent


def _load_file(place: str, folder: str | None) -> ModuleType:
    """Return a file as a module, loaded anew whenever it or a neighbour that it imports changed."""
    path, root = _path(place, folder)
    # In front also if it is there: another folder may have neighbours of the same names.
    sys.path[:] = [str(root), *(each for each in sys.path if each != str(root))]
    found = digests_of(files := files_of(path, root))
    name = f"problem_{path.stem}_{digests_of({'': path})['']}"
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__sources__", None) == (str(path), found):
        return known
    for each, file in files.items():
        _forget(each, file)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # it ends with .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise _refusal(_told(error, path)) from error
    module.__sources__ = (str(path), found)  # pyright: ignore[reportAttributeAccessIssue]
    return module


def _forget(name: str, path: Path) -> None:
    """Forget a neighbour that was imported before: from another folder, or with other content."""
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    known = sys.modules.get(module)
    file = getattr(known, "__file__", None)
    if known is not None and file is not None and "site-packages" not in file:
        same = Path(file).resolve() == path
        if same or not Path(file).is_relative_to(sys.prefix):
            del sys.modules[module]


def _load_package(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ImportError as error:
        raise _refusal(
            f"problem names the module {place}, which cannot be imported here "
            f"({error}). Install it where the run and its workers are, or name a file beside the "
            "recipe, e.g. my_problem.py:function."
        ) from error
    except Exception as error:
        raise _refusal(_told(error, Path(place))) from error


def _told(error: Exception, path: Path) -> str:
    frames = [
        each
        for each in traceback.extract_tb(error.__traceback__)
        if "importlib" not in each.filename
    ]
    place = f"line {frames[-1].lineno} of {frames[-1].filename}" if frames else str(path)
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{path.name} imports {error.name!r} in {place}, which is not installed. Install it "
            "here and where the workers are, or leave the import out."
        )
    return (
        f"{path.name} cannot be loaded: {type(error).__name__} in {place}: {error}. Correct the "
        "file."
    )


def functions_in(path: Path) -> list[str]:
    """Return the functions of a file that return a problem, without running it."""
    return [
        node.name
        for node in parsed(path).body
        if isinstance(node, ast.FunctionDef)
        and node.returns is not None
        and _RETURNS.fullmatch(ast.unparse(node.returns).strip("'\""))
    ]


def _refusal(message: str) -> ConfigurationError:
    return ConfigurationError(message, settings=())
