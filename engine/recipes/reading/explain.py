"""Sentences for settings that were refused: which one, its value, why, and what would be right."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from engine.errors import nearest
from engine.secret_urls import without_secrets


class NamedError(ValueError):
    """A refusal that names its settings itself."""


def explained(model: type[BaseModel], error: ValidationError, inside: str = "") -> str:
    """Return a line for each wrong setting.

    Args:
        model: What refused them.
        error: What it said.
        inside: Group that the settings are in, e.g. ``arguments``.
    """
    return "\n".join(_explain(model, each, inside) for each in error.errors())


def _explain(model: type[BaseModel], error: ErrorDetails, inside: str) -> str:
    *parents, last = [str(part) for part in error["loc"]] or [""]
    group: Any = model
    for parent in parents:
        group = _inside(group, parent)
    fields: dict[str, Any] = getattr(group, "model_fields", {})
    key = ".".join(part for part in (inside, *parents, last) if part)
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, NamedError):
        return f"  {cause}"
    if error["type"] == "extra_forbidden":
        here = f"Settings here: {', '.join(fields) or 'none'}."
        return f"  {key}: unknown setting. {here}{_suggestion(model, fields, last, key)}"
    if error["type"] == "value_error" and key == inside:
        return f"  {error['ctx']['error']}" if "ctx" in error else f"  {error['msg']}"
    if error["type"] == "value_error" and "ctx" in error and _is_group(group, last):
        text = str(error["ctx"]["error"])
        own = text.partition(" ")[0] in fields[last].annotation.model_fields
        return f"  {key}.{text}" if own else f"  {text}"  # a group may know its own name, or not
    if error["type"] in ("model_type", "model_attributes_type") and last in fields:
        inner = getattr(fields[last].annotation, "model_fields", {})
        example = f" Set one of them, e.g. {key}.{next(iter(inner))}." if inner else ""
        return (
            f"  {key} is {without_secrets(error['input'])!r}, but it is a group of settings."
            f"{example}"
        )
    if error["type"] == "missing":
        return f"  {key}: missing. Give it a value."
    described = fields[last].description if last in fields else None
    remedy = f" {key} means: {' '.join(described.split())}" if described else ""
    return f"  {key} is {without_secrets(error['input'])!r}: {said_of(error)}{remedy}"


def _inside(group: Any, name: str) -> Any:  # noqa: ANN401 (a type, or what is none)
    """Return the type of a setting of a group, or of a part of a list."""
    if name.isdecimal():
        return next(iter(get_args(group)), None)
    found = getattr(group, "model_fields", {}).get(name)
    return found.annotation if found is not None else None


def said_of(error: ErrorDetails) -> str:
    """Return pydantic's message on a value as a sentence, with the choice that was meant, if any.

    Names in it stay as they are written: some choices have capital letters.
    """
    words = error["msg"]
    expected = error.get("ctx", {}).get("expected", "")  # 'a', 'b' or 'c'
    choices = {each.lower(): each for each in expected.split("'")[1::2]}
    near = nearest(str(error["input"]).lower(), choices)
    meant = f" Did you mean {choices[near]!r}?" if near else ""
    return f"{words[:1].lower()}{words[1:]}.{meant}"


def _suggestion(model: type[BaseModel], fields: dict[str, Any], last: str, key: str) -> str:
    """Ask whether another setting was meant: one of the same group, or of this name elsewhere."""
    parents = key.rpartition(".")[0]
    near = nearest(last, fields, 0.7)
    elsewhere = [each for each in _keys(model) if each.rpartition(".")[2] == last]
    found = [f"{parents}.{near}".strip(".")] if near else elsewhere
    return f" Did you mean {' or '.join(found[:3])}?" if found else ""


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _is_group(parent: Any, name: str) -> bool:  # noqa: ANN401 (a model, or what is none)
    field = getattr(parent, "model_fields", {}).get(name)
    return field is not None and hasattr(field.annotation, "model_fields")
