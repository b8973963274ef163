"""A problem's function, found by the name that a recipe has for it.

A name is that of a problem that ships (``digits``), a function in a file beside the recipe
(``my_images.py:flowers``), or one of an installed package (``package.module:function``). All are
functions that return an ``engine.Problem``; the arguments of a recipe are those of the function
(``engine.recipes.code.signatures``). Nothing here knows tensors; a user's file may import what it
likes.
"""

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic.errors import PydanticUserError

from engine.errors import ConfigurationError
from engine.recipes.code.signatures import Function, arguments_of
from engine.recipes.code.user_code import load_module, neighbours_of, source_digests

SHIPPED = "engine.problems.shipped"
"""Module of the functions that ship; importing it loads no torch."""

DEFAULT_PROBLEM = "digits"

CODE_IS_CONFIRMED = "code is confirmed"
"""Key of pydantic's context: a person has just named the recipe, so its code may be loaded."""

_NAME = re.compile(r"[\w./\\~ -]+\.py:\w+|[A-Za-z_][\w.]*:\w+|[a-z][a-z0-9_-]*")
_CODE = re.compile(r"[\w./\\~ -]+\.py:\w+|[A-Za-z_][\w.]*:\w+")
"""What of an argument ``model`` is code of its own; other texts with a colon are names of files."""

_RETURNS = re.compile(r"(?:\w+\.)*Problem")


def shipped_problems() -> list[str]:
    """Return the names of the problems that ship."""
    return sorted(importlib.import_module(SHIPPED).__all__)


def is_shipped(name: str) -> bool:
    """Say whether a name is that of a problem that ships."""
    return ":" not in name


def sources(name: str, folder: str | None, arguments: dict[str, Any]) -> dict[str, str]:
    """Return the digests of the source of a problem, by file or package; of what ships, none.

    A user's own model that a ready problem is given is code as well.

    Raises:
        ConfigurationError: If there is no such source.
    """
    found: dict[str, str] = {}
    for place in places_of(name, arguments):
        found |= source_digests(place, folder)
    return found


def source_files(name: str, folder: str | None, arguments: dict[str, Any]) -> dict[str, Path]:
    """Return the files of a problem's source, by their paths from the folder.

    What is installed is none of them.

    Raises:
        ConfigurationError: If one is not there.
    """
    found: dict[str, Path] = {}
    for place in places_of(name, arguments):
        if place.endswith(".py"):
            found |= neighbours_of(place, folder)
    return found


def places_of(name: str, arguments: dict[str, Any]) -> list[str]:
    """Return the files and modules that a recipe names: of its problem, and of a model."""
    named = [name] if ":" in name else []
    model = arguments.get("model")
    return [each.rpartition(":")[0] for each in [*named, *([model] if _is_code(model) else [])]]


def _is_code(value: Any) -> bool:  # noqa: ANN401 (an argument)
    return isinstance(value, str) and _CODE.fullmatch(value) is not None


def check_sources(
    name: str, folder: str | None, arguments: dict[str, Any], expected: dict[str, str]
) -> None:
    """Refuse source that is not the one whose digests a recipe has.

    Raises:
        ConfigurationError: Names the files that were edited, added or left out since.
    """
    if names_code(name, arguments) and not expected:
        raise ConfigurationError(
            f"The recipe names the code {name}, but has no digests of it. Read it with "
            "engine.recipes.files.load_recipe or validate_recipe, which make them."
        )
    found = sources(name, folder, arguments)
    if found == expected:
        return
    changed = sorted(each for each in {*found, *expected} if found.get(each) != expected.get(each))
    raise ConfigurationError(
        f"The source of problem {name} is not that of the run: {', '.join(changed)} "
        f"{'was' if len(changed) == 1 else 'were'} edited, moved or installed anew since it began. "
        "Restore the source, on the workers too, or start another run with `mgd run`, which "
        "computes everything again."
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
        raise ConfigurationError(
            f"problem is {name!r}, which names no function. Use one of {_that_can_be_named()}."
        )
    if is_shipped(name):
        return _shipped_function(name)
    place, _, function = name.rpartition(":")
    if place.endswith(".ipynb"):
        raise ConfigurationError(
            f"problem is {name}, but {place} is a notebook, and cells of notebooks are not run. "
            "Save the function and everything that it needs as a file, e.g. `jupyter nbconvert "
            "--to script`, and name that: my_file.py:function."
        )
    module = load_module(place, folder)
    found = getattr(module, function, None)
    if not inspect.isfunction(found):
        raise ConfigurationError(f"problem is {name}, but {_no_function(module, place, function)}")
    _refuse_other_returns(name, found)
    return found


def _that_can_be_named() -> str:
    return (
        f"{', '.join(shipped_problems())}, my_file.py:function of a file beside the recipe, or "
        "package.module:function"
    )


def _shipped_function(name: str) -> Function:
    """Return the function of a problem that ships.

    Raises:
        ConfigurationError: If there is none of that name.
    """
    function = name.replace("-", "_")
    if function not in shipped_problems():
        raise ConfigurationError(
            f"problem is {name}, which does not ship. Use one of {_that_can_be_named()}."
        )
    return getattr(importlib.import_module(SHIPPED), function)


def _no_function(module: ModuleType, place: str, function: str) -> str:
    """Say what stands in a module under a name that is that of no function there."""
    found = getattr(module, function, None)
    if found is not None:
        what = "a class" if isinstance(found, type) else f"a {type(found).__name__}"
        return (
            f"{function} is {what} there, and a recipe calls functions. Write a function that "
            f"returns what it makes: `def {function}(...) -> engine.Problem`."
        )
    known = [
        name for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]  # fmt: skip
    return (
        f"{place} has no function {function!r}; it has {', '.join(known) or 'none'}. Correct the "
        "name."
    )


def _refuse_other_returns(name: str, found: Function) -> None:
    """Refuse a function that does not return a problem, or does not say so.

    Raises:
        ConfigurationError: If it is refused; says how it is written.
    """
    written = f"Write it as `def {name.rpartition(':')[2]}(...) -> engine.Problem`"
    if inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found):
        what = "async" if inspect.iscoroutinefunction(found) else "a generator"
        raise ConfigurationError(
            f"problem is {name}, which is {what}, so a call of it returns no problem. {written}, "
            "with a return."
        )
    returns = inspect.signature(found).return_annotation
    shown = returns if isinstance(returns, str) else getattr(returns, "__name__", "nothing")
    if not _RETURNS.fullmatch(str(shown)):
        raise ConfigurationError(
            f"problem is {name}, whose signature does not say that it returns a problem; a recipe "
            f"calls nothing else. {written}."
        )


def names_code(problem: Any, arguments: Any) -> bool:  # noqa: ANN401 (of any recipe)
    """Say whether a recipe names code that does not ship: its problem, or a user's own model."""
    model = arguments.get("model") if isinstance(arguments, dict) else None
    return ":" in str(problem) or _is_code(model)


def refuse_other_code(content: dict[str, Any], key: str, value: Any, where: str) -> None:  # noqa: ANN401 (any JSON value)
    """Refuse a change of a recipe that names code which the recipe itself does not.

    The digests of a recipe are those of the code that it names; code of a change would have none.

    Args:
        content: The settings that are changed.
        key: Setting, by dots.
        value: New value of the setting.
        where: What changes it, for the message.

    Raises:
        ValueError: If it is refused; names the remedy.
    """
    own = content.get("arguments", {}).get("model")
    if key == "arguments.model" and _is_code(value) and value != own:
        raise ValueError(
            f"{where} sets arguments.model to {value}, which is code that the recipe itself does "
            "not name, so no digest of it would be kept. Let the problem's function take a name "
            "for each model and make the module, or write one recipe for each model."
        )


def arguments_schema(name: str, folder: str | None = None) -> dict[str, Any]:
    """Return the JSON schema of a problem's arguments, for a form with a field for each.

    Titles are the names of the parameters, descriptions come from the docstring, defaults and
    bounds from the signature; nothing is computed, and what ships loads no torch.

    Args:
        name: See the module.
        folder: Folder of the recipe's file; the working folder if none.

    Raises:
        ConfigurationError: If there is no such function, or a parameter is none of JSON's.
    """
    function = find_function(name, folder)
    try:
        schema = arguments_of(function).model_json_schema()
    except PydanticUserError as error:
        raise ConfigurationError(
            f"The parameters of {function.__name__} have no form: {str(error).splitlines()[0]} "
            "Use numbers, texts, lists and dicts of them."
        ) from error
    for argument, field in schema["properties"].items():
        field.setdefault("title", argument.replace("_", " ").title())  # groups have none
    summary = (inspect.getdoc(function) or "").partition("\nArgs:\n")[0].strip()
    return schema | {"description": summary}
