"""The base of all settings, and the digest that names them. This module does not know torch."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, field_validator


def digest(content: Any) -> str:  # noqa: ANN401 (any JSON value)
    """Return 64 hex digits that identify a JSON value, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def with_setting(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return settings in which one is another, named by dots: ``arguments.model.width``.

    Raises:
        ValueError: If a part of the name is a single setting.
    """
    first, _, rest = key.partition(".")
    if not rest:
        return {**content, first: value}
    inner = content.get(first, {})
    if not isinstance(inner, dict):
        raise ValueError(f"{first!r} of {key!r} is a single setting, not a group of settings")  # noqa: TRY004 (pydantic takes it for a refusal)
    return {**content, first: with_setting(inner, rest, value)}


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),  # an argument may be called model_name
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_for_a_number(cls, value: Any, info: Any) -> Any:  # noqa: ANN401 (any input)
        """Refuse what Python would read as 0 or 1: a slip, e.g. of ``training.num_steps=yes``."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            if annotation is Any:
                return value
            raise ValueError(f"{str(value).lower()} is neither a number nor a name")
        return value


def refuse_unread(
    given: Settings, choice: str, reads: Mapping[Any, frozenset[str]], group: str = ""
) -> None:
    """Refuse a setting that was changed although what was chosen does not read it.

    Args:
        given: The settings.
        choice: Name of the setting that chooses.
        reads: What each choice reads. A setting that none of them names is read by all.
        group: What the names of the settings begin with in messages, ``training.`` for example.

    Raises:
        ValueError: Names the choices that read it.
    """
    chosen, fields = getattr(given, choice), type(given).model_fields
    for name in sorted(frozenset[str]().union(*reads.values())):
        value, readers = getattr(given, name), [each for each in reads if name in reads[each]]
        if chosen not in readers and value != fields[name].default:
            raise ValueError(
                f"{group}{name} is {value}, but {group}{choice} is {chosen.value}, which does not "
                f"read it. Use {' or '.join(sorted(readers))}, or leave it out."
            )
