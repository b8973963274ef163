"""A recipe as a form: the few settings that users change as fields, all others by their keys.

A form has a field for each of ``FIELDS`` that the kind of recipe has, one for each of the first
arguments of its problem, and one list, ``settings``, for everything else. A field that is left
empty changes nothing, so that anyone who fills in one of them, for one run or for all runs of a
schedule, changes that one. Titles, bounds and explanations are those of the settings themselves.

Nothing here knows who shows the form: a schema is JSON's, and values are what a form sends.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from engine.errors import ConfigurationError
from engine.recipes.files import Recipe, changed
from engine.recipes.forms.schemas import argument_schemas, places_among, setting_schemas
from engine.recipes.reading.yaml import refuse_repeated
from engine.recipes.shipped_recipes import shipped_names

_Recipe = TypeVar("_Recipe", bound=Recipe)

FIELDS = {
    "outer_steps": ("outer.num_steps", "Outer steps, each a training and its reversal"),
    "queries": ("attribution.num_queries", "Queries"),
    "canaries": ("canaries.num_canaries", "Canaries"),
    "directions": ("smoothness.directions", "Random directions"),
    "seed": ("training.seed", "Seed of the training"),
    "device": ("training.device", "Device, cpu or cuda"),
    "max_seconds": ("budget.max_seconds", "Most computing time in seconds, no limit if empty"),
}
"""Name of a field to the setting that it sets, and to its title."""

MOST_FIELDS = 12
"""Fields of a form, at most: its own, those of ``FIELDS``, and arguments of the problem."""

_OWN = ("settings", "store")
"""Fields that every form has."""

ENOUGH_ARGUMENTS = 5
"""As many arguments are shown, if there is room, as the others are filled up to by those that
neither the recipe's file says nor tell where the data are; the rest are settings like any."""

MOST_NAMES = 5
"""Names of settings inside of a field in JSON that are told beside it; anyone who writes another
one is told all of them."""

_PLAIN = ("integer", "number", "string", "boolean")
"""Types of what is one field of a form, and one item of a list."""

_BOUNDS = (
    "type",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "items",
)
"""What a schema says of a value that a rule for it can say too."""

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

_SAYS_ALL = {
    *(FIELDS[name][1] for name in ("outer_steps", "seed", "device", "max_seconds")),
    *_ARGUMENTS.values(),
}
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


def fields(recipe: Recipe, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return fields of ``FIELDS`` for a recipe: name to JSON schema."""
    settings = setting_schemas(recipe)
    return {name: _field(settings[FIELDS[name][0]], FIELDS[name][1]) for name in names}


def argument_fields(recipe: Recipe, said: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return fields for the arguments of a recipe's problem: name to JSON schema.

    Numbers, texts, choices, switches and lists of them are fields as forms have them; a group of
    settings, or what is deeper still, is one field in JSON. First come those that say where the
    data are, then those that the recipe's own file says.

    Args:
        recipe: The recipe.
        said: Arguments that its file says.
    """
    schemas = argument_schemas(recipe)
    drawn = {name: field for name, schema in schemas.items() if (field := _drawn(schema))}
    places = [name for name in places_among(recipe) if name in drawn]
    first = [name for name in places if name in said] or places[:1]

    def rank(name: str) -> int:
        return 0 if name in first else 1 if name in said else 2

    settings = setting_schemas(recipe)
    room = MOST_FIELDS - len(_OWN) - sum(key in settings for key, _ in FIELDS.values())
    wanted = sorted(drawn, key=rank)[:room]
    chosen = [
        name for place, name in enumerate(wanted) if rank(name) < 2 or place < ENOUGH_ARGUMENTS
    ]
    return {
        name: _argument(drawn[name], _ARGUMENTS.get(name) or in_words(name))
        for name in drawn
        if name in chosen
    }


def _argument(schema: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Return the schema of an argument as that of a field."""
    field = _field(schema, title)
    if schema["type"] not in ("object", "array") or "items" in schema:
        return field
    names = list(schema.get("propertyNames", {}).get("enum", []))
    more = len(names) - MOST_NAMES
    told = ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
    if field["description"].rstrip(".") == title:
        del field["description"]  # it says no more
    return {**field, "title": f"{title} in JSON{': ' * bool(told)}{told}"}


def _drawn(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the schema of an argument as both of Prefect's forms can draw it; None if neither can.

    Their fields for what is inside of an argument would be as many as the form may have, and the
    first of them draws none for a choice of two types. So it is written as JSON, and the names in
    it are checked by a rule for names, which forms do not draw.
    """
    kind = schema.get("type")
    if kind in _PLAIN:
        return dict(schema)
    if kind == "array" and schema.get("items", {}).get("type") in _PLAIN:
        item = {name: schema["items"][name] for name in ("type", "enum") if name in schema["items"]}
        kept = {name: value for name, value in schema.items() if name not in ("items", "default")}
        return {**kept, "items": {"title": "One of them", **item}}
    inside = schema.get("properties")
    if kind not in ("object", "array") and not inside:
        return None
    if not inside:
        return {"type": kind, "description": schema.get("description", "")}
    return {
        "type": "object",
        "description": schema.get("description", ""),
        "propertyNames": {"enum": list(inside)},
        "patternProperties": {f"^{re.escape(each)}$": _bounds(inside[each]) for each in inside},
    }


def _bounds(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bounds of a value inside a group, as far as its type has any."""
    known = {name: schema[name] for name in _BOUNDS if name in schema}
    if "type" in known and schema.get("nullable"):
        known["type"] = [known["type"], "null"]
    if "enum" in known and schema.get("nullable"):
        known["enum"] = [*known["enum"], None]
    return known


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
            f"mgd recipes {_name_in_command(recipe)} lists the keys."
        ),
    }


def _name_in_command(recipe: Recipe) -> str:
    """Return the name of a recipe in a command; for a user's own file, words that stand for it."""
    return recipe.name if recipe.name in shipped_names() else "with the file of the recipe"


def any_setting() -> dict[str, Any]:
    """Return the field for one assignment, to a setting of whatever recipe is chosen."""
    checks = [_unless(r"^\s*[A-Za-z_][\w.-]*\s*=", "", "key=value, e.g. outer.num_steps=3")]
    return {"title": "key=value", "type": "string", "allOf": checks}


def _of_value(key: str, schema: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Return the pattern of an assignment's value, and words for it, if its type has one."""
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
    """Return the initial values of the fields of a recipe's form.

    Args:
        recipe: The recipe.
        names: Fields of ``FIELDS``.
        said: Arguments that its file says.
    """
    content = recipe.model_dump(mode="json")
    held = {name: _value(content, FIELDS[name][0]) for name in names}
    schemas = argument_schemas(recipe)
    arguments = {
        name: _without_defaults(recipe.arguments.get(name), schemas[name])
        for name in argument_fields(recipe, said)
    }
    return {**_without_empty(held), "arguments": _without_empty(arguments)}


def _without_defaults(value: Any, schema: Mapping[str, Any]) -> Any:  # noqa: ANN401 (any JSON value)
    """Return a value without what a group of settings has by default, but for its first one.

    That one is what the others are about: the name of a model.
    """
    inside = schema.get("properties")
    if not inside or not isinstance(value, Mapping) or schema.get("whole"):
        return value
    told = {
        name: _without_defaults(each, inside.get(name, {}))
        for place, (name, each) in enumerate(value.items())
        if not place or each != inside.get(name, {}).get("default")
    }
    return {name: each for name, each in told.items() if each not in (None, {})} or None


def _without_empty(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def filled_in(
    recipe: _Recipe,
    settings: Sequence[str] | None = (),
    arguments: Mapping[str, Any] | None = None,
    **given: Any,  # noqa: ANN401 (settings of any type)
) -> _Recipe:
    """Return a recipe with the settings of a form; an empty field leaves the recipe's own.

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
    # Only groups need the function, whose file a worker may not have (``workers.code``).
    schemas = argument_schemas(recipe) if has_groups(arguments) else {}
    wanted |= _inside("arguments", arguments or {}, schemas)
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


def has_groups(arguments: Mapping[str, Any] | None) -> bool:
    """Say whether some arguments of a form may be groups of settings, not told apart by values."""
    return any(isinstance(each, Mapping) for each in (arguments or {}).values())


def _inside(
    prefix: str, given: Mapping[str, Any], schemas: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the settings that groups of values say, each by its key; what is not said stays."""
    found: dict[str, Any] = {}
    for name, value in _without_empty(given).items():
        schema = schemas.get(name, {})
        if isinstance(value, Mapping) and "properties" in schema and not schema.get("whole"):
            found |= _inside(f"{prefix}.{name}", value, schema["properties"])
        else:
            found[f"{prefix}.{name}"] = value
    return found


def _value(content: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 (any setting)
    found: Any = content
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
