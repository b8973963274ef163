"""Which flow runs a recipe of which kind."""

from typing import Any

from prefect import Flow

from flows.clean import clean
from flows.descent import descent

FLOWS: dict[str, Flow[..., Any]] = {"descent": descent}
"""Kind of recipe to flow; each takes ``recipe`` and ``store``."""

HOUSEKEEPING: dict[str, Flow[..., Any]] = {"clean": clean}
"""Flows of a store instead of a recipe; each takes ``store``."""
