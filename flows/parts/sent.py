"""Values that forms send, converted to parameters of a flow.

Prefect's forms send a field that is written as JSON with a mark, ``{"__prefect_kind": "json",
"value": "..."}``, and with the mark alone if it is left empty. Prefect's server takes the marks
away where a run is started from a form, and not where a schedule starts it: the second of its UIs
puts such a mark into every schedule that changes any field at all.
"""

from typing import Annotated, Any

from prefect.utilities.schema_tools.hydration import (
    HydrationContext,
    HydrationError,
    hydrate,
)
from pydantic import BeforeValidator


def as_meant(sent: Any) -> Any:  # noqa: ANN401 (whatever a form sends; pydantic judges it)
    """Return the value of a parameter without marks; fields that were left empty are not in it.

    Raises:
        ValueError: If what is marked as JSON is none.
    """
    if not isinstance(sent, dict):
        return sent
    try:
        return hydrate(sent, HydrationContext(raise_on_error=True))
    except HydrationError as error:
        raise ValueError(f"{error}; it came from a field of a form in JSON") from None


Arguments = Annotated[dict[str, Any] | None, BeforeValidator(as_meant)]
"""Arguments of a recipe's problem by name, as a form or a schedule gives them to a flow."""
