"""JSON schemas of the settings of a recipe, without references."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from engine.recipes.code.signatures import arguments_of
from engine.recipes.files import Recipe
from engine.recipes.problem_functions import arguments_schema, find_function
from engine.secret_urls import PLACE, is_place

_GROUPS_OF_OTHERS = {"kind", "name", "description", "problem", "folder", "code", "arguments"}
"""Settings of a recipe that no run changes, and the arguments, which the problem explains."""


def setting_schemas(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each setting of a recipe's kind, by key.

    Groups are taken apart; what may be empty is the schema of what it is otherwise, with
    ``nullable``. The recipe's own values are not in it.

    Raises:
        ConfigurationError: If the problem's function cannot be found.
    """
    arguments = arguments_schema(recipe.problem, recipe.folder)
    kind: type[Any] = type(recipe)
    return {
        **_apart(arguments["properties"], arguments.get("$defs", {}), "arguments."),
        **_of_kind(kind),
    }


@cache
def _of_kind(kind: type[Any]) -> dict[str, dict[str, Any]]:
    whole, left_out = kind.model_json_schema(), _GROUPS_OF_OTHERS | kind.takes_none_of
    own = {k: v for k, v in whole["properties"].items() if k not in left_out}
    return _apart(own, whole["$defs"], "")


def _apart(
    properties: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, given in properties.items():
        schema = _resolved(given, definitions)
        if "properties" in schema:
            found |= _apart(schema["properties"], definitions, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = schema
    return found


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with references resolved, and ``nullable`` for an alternative ``null``."""
    if "$ref" in schema:
        named = definitions[schema["$ref"].rpartition("/")[2]]
        return _resolved({**named, **{k: v for k, v in schema.items() if k != "$ref"}}, definitions)
    choices = schema.get("anyOf", [])
    rest = [each for each in choices if each.get("type") != "null"]
    if len(rest) == 1 and len(rest) < len(choices):
        more = {k: v for k, v in schema.items() if k != "anyOf"}
        return _resolved({**rest[0], **more, "nullable": True}, definitions)
    return dict(schema)


def argument_schemas(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return the schema of each argument of a recipe's problem, by name.

    A group of settings has them in ``properties``. Where a text may stand in its place, the value
    of the recipe decides which of the two it is; such a group is set as a ``whole``.

    Raises:
        ConfigurationError: If the problem's function cannot be found.
    """
    schema = arguments_schema(recipe.problem, recipe.folder)
    definitions = schema.get("$defs", {})
    return {
        name: _whole(given, definitions, recipe.arguments.get(name))
        for name, given in schema["properties"].items()
    }


def _whole(
    given: Mapping[str, Any], definitions: Mapping[str, Any], value: object
) -> dict[str, Any]:
    schema = _resolved(given, definitions)
    groups = [each for each in schema.get("anyOf", []) if "$ref" in each]
    if isinstance(value, Mapping) and len(groups) == 1:
        more = {name: each for name, each in schema.items() if name != "anyOf"}
        schema = _resolved({**groups[0], **more, "whole": True}, definitions)
    if "properties" in schema:
        inside = schema["properties"].items()
        schema |= {"properties": {name: _whole(each, definitions, None) for name, each in inside}}
    return schema


def places_among(recipe: Recipe) -> list[str]:
    """Return the arguments of a recipe's problem that are, or contain, places of data."""
    found = arguments_of(find_function(recipe.problem, recipe.folder))
    return [name for name, field in found.model_fields.items() if _has_place(field)]


def _has_place(field: Any) -> bool:  # noqa: ANN401 (a field of pydantic's)
    if is_place(field.annotation) or PLACE in field.metadata:
        return True
    inside = getattr(field.annotation, "model_fields", {})
    return any(map(_has_place, inside.values()))
