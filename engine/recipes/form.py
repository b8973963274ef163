"""A recipe as a form: the few settings that people change as fields, all others by their keys.

A form has a field for each of ``FIELDS`` that the kind of recipe has, one for each plain argument
of its problem, and one list, ``settings``, for everything else. A field that is left empty changes
nothing, so that whoever fills in one of them, for one run or for all runs of a schedule, changes
that one. Titles, bounds and explanations are those of the settings themselves.

Nothing here knows who shows the form: a schema is JSON's, and values are what a form sends.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from engine.errors import ConfigurationError
from engine.recipes.files import Recipe, changed
from engine.recipes.problem_functions import arguments_schema
from engine.recipes.reading.yaml import refuse_repeated
from engine.recipes.shipped_recipes import shipped_names

_Recipe = TypeVar("_Recipe", bound=Recipe)

FIELDS = {
    "outer_steps": ("outer.num_steps", "Outer steps"),
    "queries": ("attribution.num_queries", "Queries"),
    "canaries": ("canaries.num_canaries", "Canaries"),
    "directions": ("smoothness.directions", "Random directions"),
    "seed": ("training.seed", "Seed of the training"),
    "device": ("training.device", "Device"),
    "max_seconds": ("budget.max_seconds", "Most computing time in seconds, no limit if empty"),
}
"""Name of a field to the setting that it sets, and to its title."""

MOST_ARGUMENTS = 5
"""Fields for arguments of the problem, at most; the others are settings like any."""

_GROUPS_OF_OTHERS = {"kind", "name", "description", "problem", "folder", "code", "arguments"}
"""Settings of a recipe that no run changes, and the arguments, which the problem explains."""

_ARGUMENTS = {
    "num_train": "Training examples",
    "num_objective": "Objective examples, whose loss is differentiated",
    "num_validation": "Validation examples, which choose the iterate",
    "num_test": "Test examples, all others if empty",
    "flip_fraction": "Share of wrong labels",
    "seed": "Seed of the data",
}
"""Titles of arguments of problems whose names are short for something, in place of what explains
them: a line less for each, so that the form has two screens in Prefect's first UI too."""

_SAYS_ALL = {FIELDS["seed"][1], FIELDS["max_seconds"][1], *_ARGUMENTS.values()}
"""Titles that need no explanation."""


_INITIALS = {"url", "csv", "lr", "id"}
"""Words of names that are read letter by letter."""


def in_words(name: str) -> str:
    """Return a title for a name of Python's: ``num_train``, ``ModelSettings``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).strip("_")
    words = spaced.replace("-", "_").lower().split("_")
    if words[-1] == "settings" and len(words) > 1:
        words.pop()
    if words[0] == "num" and len(words) > 1:
        words = ["number", "of", *words[1:]]
    first, *rest = words
    said = [first.capitalize(), *rest]
    return " ".join(each.upper() if each.lower() in _INITIALS else each for each in said)


def setting_schemas(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return what may be said of each setting of a recipe's kind: its key to its JSON schema.

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
    """Return a schema with what it refers to in its place, and without ``or nothing``."""
    if "$ref" in schema:
        named = definitions[schema["$ref"].rpartition("/")[2]]
        return _resolved({**named, **{k: v for k, v in schema.items() if k != "$ref"}}, definitions)
    choices = schema.get("anyOf", [])
    rest = [each for each in choices if each.get("type") != "null"]
    if len(rest) == 1 and len(rest) < len(choices):
        more = {k: v for k, v in schema.items() if k != "anyOf"}
        return _resolved({**rest[0], **more, "nullable": True}, definitions)
    return dict(schema)


def fields(recipe: Recipe, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return fields of ``FIELDS`` for a recipe: name to JSON schema."""
    settings = setting_schemas(recipe)
    return {name: _field(settings[FIELDS[name][0]], FIELDS[name][1]) for name in names}


def argument_fields(recipe: Recipe, said: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return fields for the arguments of a recipe's problem: name to JSON schema.

    Only for those that are one number, text, choice or switch; those that the recipe's own file
    says come first.

    Args:
        recipe: The recipe.
        said: Arguments that its file says.
    """
    settings = setting_schemas(recipe)
    plain = {
        key.removeprefix("arguments."): schema
        for key, schema in settings.items()
        if key.count(".") == 1 and key.startswith("arguments.")
    }
    chosen = [
        name
        for name in sorted(plain, key=lambda each: each not in said)
        if plain[name].get("type") in ("integer", "number", "string", "boolean")
    ][:MOST_ARGUMENTS]
    return {
        name: _field(plain[name], _ARGUMENTS.get(name) or in_words(name))
        for name in plain
        if name in chosen
    }


def _field(schema: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Return the schema of a setting as that of a field, which may be left empty."""
    kept = {
        key: value
        for key, value in schema.items()
        if key not in ("default", "title", "nullable", "description")
    }
    described = " ".join(schema.get("description", "").split())
    if "pattern" in kept:
        kept |= {"allOf": [_unless(kept.pop("pattern"), "", described)]}
    return {"title": title, **kept, **({} if title in _SAYS_ALL else {"description": described})}


def settings_field(recipe: Recipe) -> dict[str, Any]:
    """Return the field for all other settings: a list of assignments, whose keys are checked.

    An assignment to what is no setting is told the settings of the group that it names, or the
    groups; that is as near as a schema comes to "did you mean".
    """
    schemas = setting_schemas(recipe)
    keys = list(schemas)
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(key.partition(".")[0] if "." in key else "", []).append(key)
    names = [name for name in groups if name]
    alone = groups.get("", [])
    first = "|".join(map(re.escape, [*(f"{name}." for name in names), *alone]))
    checks = [
        _unless(
            rf"^\s*({first})",
            "",
            f"key=value, whose key begins with one of {', '.join([*names, *alone])}",
        )
    ]
    for name in names:
        known = "|".join(re.escape(key) for key in groups[name])
        # A group of free entries, such as a mapping, has keys of its own below.
        checks.append(
            _unless(
                rf"^\s*({known})\s*(\.[^=]*)?=",
                rf"^\s*{re.escape(name)}\.",
                "one of " + ", ".join(f"{key}=..." for key in groups[name]),
            )
        )
    checks += [_unless(*check) for check in map(_of_value, keys, schemas.values()) if check]
    return {
        "title": "Other settings",
        "type": "array",
        "items": {
            "title": "key=value",
            "type": "string",
            "allOf": checks,
        },
        "description": (
            "Anything else, arguments too, one key=value each, e.g. training.num_steps=100. "
            f"mgd recipes {_called(recipe)} lists the keys."
        ),
    }


def _called(recipe: Recipe) -> str:
    """Return what a command calls a recipe: its name, or in words a file of somebody's own."""
    return recipe.name if recipe.name in shipped_names() else "with the file of the recipe"


def any_setting() -> dict[str, Any]:
    """Return the field for one assignment, to a setting of whatever recipe is chosen."""
    checks = [_unless(r"^\s*[A-Za-z_][\w.-]*\s*=", "", "key=value, e.g. outer.num_steps=3")]
    return {"title": "key=value", "type": "string", "allOf": checks}


def _of_value(key: str, schema: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Return what the value of an assignment has to look like, as far as its type says so."""
    described = {
        "integer": (r"[-+]?[0-9_]+", "a whole number"),
        "number": (r"[-+]?[0-9_.]+(e[-+]?[0-9]+)?", "a number"),
        "boolean": ("true|false", "true or false"),
    }
    words, kind = described.get(schema.get("type", ""), ("", ""))
    if "enum" in schema:
        words = "|".join(re.escape(str(each)) for each in schema["enum"])
        kind = f"one of {', '.join(map(str, schema['enum']))}"
    if not words:
        return None
    if schema.get("nullable"):
        words, kind = f"{words}|null|~|", f"{kind}, or null"
    start = rf"^\s*{re.escape(key)}\s*="
    return rf"{start}\s*(['\"]?)({words})\1\s*(#.*)?$", start, f"{key}= and {kind}"


def _unless(pattern: str, concerned: str, expected: str) -> dict[str, Any]:
    """Return a schema that expects certain words of a text that has not the pattern.

    A validator that misses a pattern prints the pattern, which nobody can read; a constant that it
    misses it prints as it is.
    """
    unlike: dict[str, Any] = {"not": {"pattern": pattern}}
    about = {"allOf": [{"pattern": concerned}, unlike]} if concerned else unlike
    return {"if": about, "then": {"const": expected}}


def values(recipe: Recipe, names: Iterable[str], said: Sequence[str]) -> dict[str, Any]:
    """Return what the fields of a recipe's form hold before anybody changes them.

    Args:
        recipe: The recipe.
        names: Fields of ``FIELDS``.
        said: Arguments that its file says.
    """
    content = recipe.model_dump(mode="json")
    held = {name: _value(content, FIELDS[name][0]) for name in names}
    arguments = {name: recipe.arguments.get(name) for name in argument_fields(recipe, said)}
    return {**_without_empty(held), "arguments": _without_empty(arguments)}


def _without_empty(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def filled_in(
    recipe: _Recipe,
    settings: Sequence[str] | None = (),
    arguments: Mapping[str, Any] | None = None,
    **given: Any,  # noqa: ANN401 (settings of any type)
) -> _Recipe:
    """Return a recipe with what a form says in place of its own; an empty field says nothing.

    Args:
        recipe: What the form was made of.
        settings: Assignments ``dotted.key=value``.
        arguments: Arguments of its problem by name.
        **given: Fields by name; see ``FIELDS``.

    Raises:
        ConfigurationError: If something cannot be, or a field and an assignment say different
            things of one setting.
    """
    wanted = {FIELDS[name][0]: value for name, value in _without_empty(given).items()}
    wanted |= {f"arguments.{k}": value for k, value in _without_empty(arguments or {}).items()}
    content = recipe.model_dump(mode="json")
    other = {key: value for key, value in wanted.items() if _value(content, key) != value}
    assigned = [each for each in settings or () if each and each.strip()]
    refuse_repeated(assigned)
    for each in assigned:
        set_here = each.partition("=")[0].strip()  # a setting, or a group of them
        for key, value in other.items():
            if f"{key}.".startswith(f"{set_here}."):
                raise ConfigurationError(
                    f"A field of the form says that {key} is {value!r}, and settings says "
                    f"{each.strip()!r}. Say it once."
                )
    return changed(recipe, assigned, other)


def _value(content: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 (any setting)
    found: Any = content
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
