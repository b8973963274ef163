"""The base of all settings, and the digest that names them. This module does not know torch."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator


def digest(content: Any) -> str:  # noqa: ANN401 (any JSON value)
    """Return 64 hex digits that identify a JSON value, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_for_a_number(cls, value: Any, info: Any) -> Any:  # noqa: ANN401 (any input)
        """Refuse what Python would read as 0 or 1: a slip, e.g. of ``training.num_steps=yes``."""
        name = info.field_name or ""
        if isinstance(value, bool) and cls.model_fields[name].annotation is not bool:
            raise ValueError(f"{str(value).lower()} is neither a number nor a name")
        return value
