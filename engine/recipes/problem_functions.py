"""A problem's function, found by the name that a recipe has for it, and its arguments.

A name is that of a problem that ships (``digits``), a function in a file beside the recipe
(``my_images.py:flowers``), or one of an installed package (``package.module:function``). All are
functions that return an ``engine.Problem``; the arguments of a recipe are those of the function,
checked against its signature. Nothing here knows tensors; a user's file may import what it likes.
"""

import importlib
import inspect
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import PydanticSerializationError

from engine.errors import ConfigurationError
from engine.recipes.code.user_code import load_module, neighbours_of, source_digests
from engine.recipes.reading.explain import explained
from engine.recipes.settings import Settings
from engine.secret_urls import refuse_secrets_in

SHIPPED = "engine.problems.shipped"
"""Module of the functions that ship; importing it loads no torch."""

DEFAULT_PROBLEM = "digits"

CODE_IS_CONFIRMED = "code is confirmed"
"""Key of pydantic's context: a person has just named the recipe, so its code may be loaded."""

_NAME = re.compile(r"[\w./\\~ -]+\.py:\w+|[A-Za-z_][\w.]*:\w+|[a-z][a-z0-9_-]*")
_CODE = re.compile(r"[\w./\\~ -]+\.py:\w+|[A-Za-z_][\w.]*:\w+")
"""What of an argument ``model`` is code of its own; other texts with a colon are names of files."""

_RETURNS = re.compile(r"(?:\w+\.)*Problem")

Function = Callable[..., Any]


class _Arguments(Settings):
    """Base of a function's arguments. No source has their descriptions.

    Pydantic would look for one in every frame and every loaded module, for tenths of a second.
    """

    model_config = ConfigDict(use_attribute_docstrings=False)


_MADE: WeakKeyDictionary[Function, type[Settings]] = WeakKeyDictionary()
"""Arguments of each function; a file whose source changed is loaded anew, as other functions."""


def shipped_problems() -> list[str]:
    """Return the names of the problems that ship."""
    return sorted(importlib.import_module(SHIPPED).__all__)


def is_shipped(name: str) -> bool:
    """Say whether a name is that of a problem that ships."""
    return ":" not in name


def sources(name: str, folder: str | None, arguments: dict[str, Any]) -> dict[str, str]:
    """Return the digests of the source of a problem, by file or package; of what ships, none.

    A model of one's own that a ready problem is given is code as well.

    Raises:
        ConfigurationError: If there is no such source.
    """
    found: dict[str, str] = {}
    for place in _places(name, arguments):
        found |= source_digests(place, folder)
    return found


def source_files(name: str, folder: str | None, arguments: dict[str, Any]) -> dict[str, Path]:
    """Return the files of a problem's source, by their paths from the folder.

    What is installed is none of them.

    Raises:
        ConfigurationError: If one is not there.
    """
    found: dict[str, Path] = {}
    for place in _places(name, arguments):
        if place.endswith(".py"):
            found |= neighbours_of(place, folder)
    return found


def _places(name: str, arguments: dict[str, Any]) -> list[str]:
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
        raise ConfigurationError(
            f"problem is {name!r}, which names no function. Use one of "
            f"{', '.join(shipped_problems())}, my_file.py:function of a file beside the recipe, or "
            "package.module:function."
        )
    if is_shipped(name):
        found = getattr(importlib.import_module(SHIPPED), name.replace("-", "_"), None)
        if found is None or name.replace("-", "_") not in shipped_problems():
            raise ConfigurationError(
                f"problem is {name}, which does not ship. Use one of "
                f"{', '.join(shipped_problems())}, my_file.py:function of a file beside the "
                "recipe, or package.module:function."
            )
        return found
    place, _, function = name.rpartition(":")
    if place.endswith(".ipynb"):
        raise ConfigurationError(
            f"problem is {name}, but {place} is a notebook, whose cells nobody runs here. Save the "
            "function and what it needs as a file, e.g. `jupyter nbconvert --to script`, and name "
            "that: my_file.py:function."
        )
    module = load_module(place, folder)
    found = getattr(module, function, None)
    if found is not None and not inspect.isfunction(found):
        what = "a class" if isinstance(found, type) else f"a {type(found).__name__}"
        raise ConfigurationError(
            f"problem is {name}, but {function} is {what} there, and a recipe calls functions. "
            f"Write a function that returns what it makes: `def {function}(...) -> engine.Problem`."
        )
    if not inspect.isfunction(found):
        known = [
            each for each, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]  # fmt: skip
        raise ConfigurationError(
            f"problem is {name}, but {place} has no function {function!r}; it has "
            f"{', '.join(known) or 'none'}. Correct the name."
        )
    if inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found):
        what = "async" if inspect.iscoroutinefunction(found) else "a generator"
        raise ConfigurationError(
            f"problem is {name}, which is {what}, so a call of it returns no problem. Write it as "
            f"`def {function}(...) -> engine.Problem`, with a return."
        )
    returns = inspect.signature(found).return_annotation
    shown = returns if isinstance(returns, str) else getattr(returns, "__name__", "nothing")
    if not _RETURNS.fullmatch(str(shown)):
        raise ConfigurationError(
            f"problem is {name}, whose signature does not say that it returns a problem; a recipe "
            f"calls nothing else. Write it as `def {function}(...) -> engine.Problem`."
        )
    return found


def names_code(problem: Any, arguments: Any) -> bool:  # noqa: ANN401 (of any recipe)
    """Say whether a recipe names code that does not ship: its problem, or a model of one's own."""
    model = arguments.get("model") if isinstance(arguments, dict) else None
    return ":" in str(problem) or _is_code(model)


def refuse_other_code(content: dict[str, Any], key: str, value: Any, where: str) -> None:  # noqa: ANN401 (any JSON value)
    """Refuse a change of a recipe that names code which the recipe itself does not.

    The digests of a recipe are those of the code that it names; code of a change would have none.

    Args:
        content: The settings that are changed.
        key: Setting, by dots.
        value: What it is changed to.
        where: What changes it, for the message.

    Raises:
        ValueError: With the remedy.
    """
    own = content.get("arguments", {}).get("model")
    if key == "arguments.model" and _is_code(value) and value != own:
        raise ValueError(
            f"{where} sets arguments.model to {value}, which is code that the recipe itself does "
            "not name, so that no digest of it would be kept. Let the problem's function take a "
            "name of its own for each model and make the module, or write a recipe for each."
        )


def arguments_of(function: Function) -> type[Settings]:
    """Return the arguments of a function as settings: names, types, defaults and descriptions.

    Types come from the signature, descriptions from the docstring (Google style). They are made
    once for each function.

    Raises:
        ConfigurationError: If a parameter cannot be set by a recipe.
    """
    if function not in _MADE:
        _MADE[function] = _made_arguments(function)
    return _MADE[function]


def _made_arguments(function: Function) -> type[Settings]:
    described = _descriptions(inspect.getdoc(function) or "")
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigurationError(
                f"{function.__name__} takes {parameter}, but the arguments of a recipe have names. "
                "Give every parameter a name of its own, without * and /."
            )
        if name.startswith("_") or (name.startswith("model_") and hasattr(BaseModel, name)):
            raise ConfigurationError(
                f"{function.__name__} takes {name}, a name that settings have for themselves. Give "
                "the parameter another one, without _ at its beginning."
            )
        annotation = _annotation(function, parameter)
        default = ... if parameter.default is parameter.empty else parameter.default
        if default is None:  # as in `width: int = None`, which many people write
            annotation = Optional[annotation]  # noqa: UP045 (of any annotation)
        fields[name] = (annotation, Field(default, description=described.get(name)))
    try:
        with warnings.catch_warnings():  # of parameters named like methods, e.g. copy
            warnings.simplefilter("ignore", UserWarning)
            return create_model(
                f"Arguments of {function.__name__}",
                __base__=_Arguments,
                __doc__=function.__doc__,
                **fields,
            )
    except (PydanticSchemaGenerationError, PydanticUserError, NameError) as error:
        raise ConfigurationError(
            f"The parameters of {function.__name__} cannot be settings of a recipe: "
            f"{str(error).splitlines()[0].partition('. Set ')[0].rstrip('.')}. Use numbers, texts, "
            "lists and dicts of them."
        ) from error


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


def read_arguments(function: Function, given: Any) -> dict[str, Any]:  # noqa: ANN401 (any input)
    """Return a function's arguments as a recipe keeps them: all of them, as JSON values.

    Raises:
        ConfigurationError: Names each wrong argument, its value, the reason and the remedy.
    """
    model = arguments_of(function)
    if not isinstance(given, dict):
        raise ConfigurationError(
            f"arguments is {given!r}, but arguments are named: {', '.join(model.model_fields)}. "
            "Write a mapping."
        )
    refuse_secrets_in(given, "arguments")
    found = _validated(model, given)
    try:
        return BaseModel.model_dump(found, mode="json")
    except PydanticSerializationError:
        raise ConfigurationError(_unwritable(function, found)) from None


def _unwritable(function: Function, found: Settings) -> str:
    """Say which argument has no form in a recipe."""
    name, value = "", None
    for name in type(found).model_fields:
        value = getattr(found, name)
        with suppress(PydanticSerializationError):
            BaseModel.model_dump(found, mode="json", include={name})
            continue
        break
    what = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    return (
        f"{name} of {function.__name__} is {what}, which no recipe can hold, and all arguments are "
        "kept in it, defaults too. Use numbers, texts, lists and dicts of them, e.g. its name, and "
        "make it in the function."
    )


def call(function: Function, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 (what it returns)
    """Call a function with the arguments of a recipe, each of the type of its parameter."""
    model = _validated(arguments_of(function), arguments)
    return function(**{name: getattr(model, name) for name in type(model).model_fields})


def _validated(model: type[Settings], given: dict[str, Any]) -> Settings:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise ConfigurationError(explained(model, error, "arguments").strip()) from None


def _annotation(function: Function, parameter: inspect.Parameter) -> Any:  # noqa: ANN401 (a type)
    found = parameter.annotation
    if found is parameter.empty:
        return Any
    if not isinstance(found, str):
        return found
    try:
        return eval(found, function.__globals__)
    except Exception as error:
        raise ConfigurationError(
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
