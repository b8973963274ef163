"""The settings of a recipe as rows: all of them, and those that differ from the defaults."""

import json
from collections.abc import Iterator
from typing import Any

from engine.recipes.descent import DescentRecipe
from engine.recipes.problem_functions import arguments_of, find_function, is_shipped
from engine.recipes.settings import Settings

NOT_ASKED = {"name", "kind", "description", "folder", "code", "workers", "budget"}
"""Settings that say nothing of what was asked."""

Row = tuple[str, str, str]
"""Dotted key as ``mgd run --set`` takes it, value, and meaning."""


def all_rows(recipe: DescentRecipe) -> list[Row]:
    """Return every setting but the description."""
    return [row for row in _rows(recipe) if row[0] != "description"]


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


def _rows(settings: Settings, prefix: str = "") -> Iterator[Row]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from _rows(value, f"{prefix}{name}.")
        elif name == "arguments" and isinstance(settings, DescentRecipe):
            yield from _arguments(settings)
        else:
            plain = settings.model_dump(mode="json")[name]
            yield prefix + name, write_setting(plain), (field.description or "").replace("``", "")


def _arguments(recipe: DescentRecipe) -> Iterator[Row]:
    """Yield the problem's arguments; code of one's own is not loaded for a report."""
    if is_shipped(recipe.problem):
        function = find_function(recipe.problem, None)
        yield from _rows(arguments_of(function)(**recipe.arguments), "arguments.")
        return
    for name, value in recipe.arguments.items():
        yield f"arguments.{name}", write_setting(value), ""


def write_setting(value: Any) -> str:  # noqa: ANN401 (any JSON value)
    """Return a setting as people write it: a list of words without the signs of JSON."""
    if value is None:
        return ""
    if isinstance(value, list) and not any(isinstance(each, list | dict) for each in value):
        return ", ".join(map(write_setting, value))
    return value if isinstance(value, str) else json.dumps(value)
