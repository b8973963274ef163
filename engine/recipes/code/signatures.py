"""The arguments of a problem's function as settings: names, types, defaults and descriptions.

Types and defaults are those of the signature, descriptions those of the docstring.
"""

import inspect
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Optional
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import PydanticSerializationError

from engine.errors import ConfigurationError
from engine.recipes.reading.explain import explained
from engine.recipes.settings import Settings
from engine.secret_urls import refuse_secrets_in

Function = Callable[..., Any]


class _Arguments(Settings):
    """Base of a function's arguments. No source has their descriptions.

    Pydantic would look for one in every frame and every loaded module, for tenths of a second.
    """

    model_config = ConfigDict(use_attribute_docstrings=False)


_MADE: WeakKeyDictionary[Function, type[Settings]] = WeakKeyDictionary()
"""Arguments of each function; a file whose source changed is loaded anew, as other functions."""


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
                f"{function.__name__} takes {parameter}, but a recipe passes arguments by name. "
                "Give every parameter a name, without * and /."
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
    """Return the message about an argument that a recipe cannot hold."""
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
    """Return the description of each parameter from the section ``Args`` of a docstring."""
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
