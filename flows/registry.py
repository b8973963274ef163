"""Which flow runs a recipe of which kind."""

from typing import Any

from prefect import Flow

from flows.descent import descent

FLOWS: dict[str, Flow[..., Any]] = {"descent": descent}
"""Kind of recipe to flow; each takes ``recipe`` and ``store``."""
