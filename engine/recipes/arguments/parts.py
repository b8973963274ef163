"""Types of the arguments of shipped problems, and how these become groups of settings.

Nothing here knows tensors.
"""

from typing import Annotated, Any

from pydantic import Field

Number = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def part(settings: type, given: dict[str, Any], **more: Any) -> Any:  # noqa: ANN401 (settings)
    """Return the arguments that belong to a group of settings."""
    fields = settings.model_fields  # pyright: ignore[reportAttributeAccessIssue] (of pydantic)
    return settings(**{key: value for key, value in given.items() if key in fields}, **more)
