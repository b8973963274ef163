"""The settings of a recipe as rows: all of them, and those that differ from the defaults."""

import json
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from engine.recipes.code.signatures import arguments_of
from engine.recipes.descent import DescentRecipe
from engine.recipes.problem_functions import find_function, is_shipped
from engine.recipes.settings import Settings

NOT_ASKED = {"name", "kind", "description", "folder", "code", "workers", "budget"}
"""Settings that say nothing of what was asked."""

Row = tuple[str, str, str]
"""Dotted key as ``mgd run --set`` takes it, value, and meaning."""


class Setting(NamedTuple):
    """One setting of a recipe."""

    key: str
    """Dotted, as ``--set`` takes it."""

    value: str
    """As people write it; empty for none."""

    default: str | None
    """What it is where nobody says anything; ``None`` if it has to be said."""

    meaning: str
    """In one or two sentences; empty for an argument without a description."""

    type: Any
    """What it may be; ``None`` for an argument of code that is not loaded."""


def all_rows(recipe: DescentRecipe, unread: Collection[str] = ()) -> list[Row]:
    """Return every setting but the description.

    Args:
        recipe: The settings.
        unread: Those that nothing read, since the problem has its own; a group stands for all in
            it. Of what belongs together one row says so, and the others are left out: their values
            had no part in the run.
    """
    rows = [row for row in _rows(recipe) if row[0] != "description"]
    return [
        (key, OWN, meaning) if is_unread(key, unread) else (key, value, meaning)
        for key, value, meaning in rows
        if key in _FIRST or not is_unread(key, unread)
    ]


def is_unread(key: str, unread: Collection[str]) -> bool:
    """Return whether a setting is one of those, or in one of those groups."""
    return any(key == each or key.startswith(f"{each}.") for each in unread)


OWN = "the problem's own"
"""What stands in place of a setting that nothing read, since the problem has its own."""

_FIRST = frozenset({"optimizer.name", "training.learning_rate"})
"""The setting that says so for all that belong to it."""


def _rows(recipe: DescentRecipe) -> Iterator[Row]:
    return ((each.key, each.value, each.meaning) for each in every_setting(recipe))


def changed_rows(recipe: DescentRecipe) -> list[Row]:
    """Return the settings that differ from the defaults; those without a default are among them."""
    content = recipe.model_dump(mode="json", exclude_defaults=True)
    if is_shipped(recipe.problem):
        made = arguments_of(find_function(recipe.problem, None))(**recipe.arguments)
        content["arguments"] = made.model_dump(mode="json", exclude_defaults=True)
    changed = {key for key in _keys(content) if key.partition(".")[0] not in NOT_ASKED}
    return [row for row in _rows(recipe) if row[0] in changed | {"problem"}]


def _keys(content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in content.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")


def every_setting(
    settings: Settings, defaults: object = None, prefix: str = ""
) -> Iterator[Setting]:
    """Yield the settings of a group and of the groups in it, in the order of their declaration.

    Args:
        settings: As they are.
        defaults: The group as it is where nobody says anything, if that has a value.
        prefix: What their keys begin with.
    """
    same = isinstance(defaults, type(settings))
    base = defaults if same and isinstance(defaults, Settings) else type(settings).model_construct()
    now, before = (each.model_dump(mode="json", warnings=False) for each in (settings, base))
    unread = settings.takes_none_of if isinstance(settings, DescentRecipe) else frozenset[str]()
    for name, field in type(settings).model_fields.items():
        if name in unread:
            continue
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from every_setting(value, getattr(base, name, None), f"{prefix}{name}.")
        elif name == "arguments" and isinstance(settings, DescentRecipe):
            yield from _arguments(settings)
        else:
            default = written(before[name]) if name in before else None
            key, meaning = prefix + name, meaning_of(field)
            yield Setting(key, written(now[name]), default, meaning, field.annotation)


def _arguments(recipe: DescentRecipe) -> Iterator[Setting]:
    """Yield the problem's arguments; code of a user's own is not loaded to describe them."""
    if is_shipped(recipe.problem):
        function = find_function(recipe.problem, None)
        yield from every_setting(arguments_of(function)(**recipe.arguments), None, "arguments.")
        return
    for name, value in recipe.arguments.items():
        yield Setting(f"arguments.{name}", written(value), None, "", None)


def meaning_of(field: FieldInfo) -> str:
    """Return the meaning of a setting in a line; empty for an argument without a description."""
    return " ".join((field.description or "").replace("``", "").split())


def written(value: Any) -> str:  # noqa: ANN401 (any JSON value)
    """Return a setting as users write it: a list of words without the signs of JSON."""
    if value is None:
        return ""
    if isinstance(value, list) and not any(isinstance(each, list | dict) for each in value):
        return ", ".join(map(written, value))
    return value if isinstance(value, str) else json.dumps(value)
