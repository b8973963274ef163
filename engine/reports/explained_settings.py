"""Every setting of a recipe with what it means, what it would be, and where its value is from."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from pydantic_core import PydanticUndefined

from engine.recipes.descent import DescentRecipe
from engine.recipes.settings import Settings
from engine.reports.settings_rows import Setting, every_setting, meaning_of, written

_NOT_SET = {"name", "kind", "description", "folder", "code"}
"""Fields of a recipe that say what it is called, and are nothing to set."""

OVERRIDE, RECIPE, DEFAULT = "override", "recipe", "default"
"""Where a value is from: a change that was asked for, the recipe's file, or neither."""


@dataclass(frozen=True)
class Explained:
    """One setting.

    Attributes:
        key: Dotted, as ``--set`` takes it.
        value: As people write it; empty for none.
        default: What it is where nobody says anything; ``None`` if it has to be said.
        origin: ``override``, ``recipe`` or ``default``.
        meaning: Meaning in one or two sentences; empty for an argument without a description.
        words: What it may be, if that is one of some words.
    """

    key: str
    value: str
    default: str | None
    origin: str
    meaning: str
    words: tuple[str, ...] = ()


def explained_settings(
    recipe: DescentRecipe, content: Mapping[str, Any], changed: Mapping[str, Any] | None = None
) -> list[Explained]:
    """Return all settings of a recipe, in the order in which it declares them.

    Args:
        recipe: As it was validated, of any kind.
        content: What its file says.
        changed: What the file says with the changes that were asked for; the same by default.
    """
    said, asked = _flat(content), _flat(content if changed is None else changed)

    def origin(key: str) -> str:
        if key in asked and (key not in said or asked[key] != said[key]):
            return OVERRIDE
        return RECIPE if key in said else DEFAULT

    return [
        _explained(each, origin(each.key))
        for each in every_setting(recipe)
        if each.key not in _NOT_SET
    ]


def explained_defaults(model: type[DescentRecipe]) -> list[Explained]:
    """Return the settings of a kind of recipe with their defaults, without those of a problem."""
    found: list[Explained] = []
    for name, field in model.model_fields.items():
        if name in {*_NOT_SET, "arguments", *model.takes_none_of}:
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, Settings):
            rows = every_setting(default, default, f"{name}.")
            found += [_explained(each, DEFAULT) for each in rows]
        elif default is not PydanticUndefined:
            text = written(_plain(default))
            row = Setting(name, text, text, meaning_of(field), field.annotation)
            found.append(_explained(row, DEFAULT))
    return found


def _explained(one: Setting, origin: str) -> Explained:
    words = _words(one.type)
    return Explained(one.key, one.value, one.default, origin, one.meaning, words)


def _words(annotation: Any) -> tuple[str, ...]:  # noqa: ANN401 (any type)
    """Return the values that a setting may have, if its type lists them."""
    if annotation is bool:
        return "true", "false"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return tuple(str(each.value) for each in annotation)
    if get_origin(annotation) is Literal:
        return tuple(map(str, get_args(annotation)))
    found: tuple[str, ...] = ()
    if get_origin(annotation) is not dict:
        for each in get_args(annotation):
            found += () if get_origin(annotation) in (list, tuple) else _words(each)
    return found


def _plain(value: Any) -> Any:  # noqa: ANN401 (any default)
    """Return a default as a JSON value."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested settings by dotted key; groups are there as well."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        found[f"{prefix}{name}"] = value
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
    return found
