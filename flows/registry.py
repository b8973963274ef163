"""Registry of flows: the flow of each kind of recipe.

A flow is loaded when it is asked for: each brings what its kind of run computes with, and a command
runs one of them.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from prefect import Flow

from engine.recipes.kinds import kinds


class Flows(Mapping[str, Flow[..., Any]]):
    """Flows by name, each loaded when it is looked up; iterating over the names loads none.

    Args:
        places: Name to ``module:flow``.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> Flow[..., Any]:
        module, _, flow = self._places[name].partition(":")
        return getattr(import_module(module), flow)

    def of_function(self, function: str) -> str | None:
        """Return the name of the flow that a function makes; None if none of these does."""
        found = (name for name, place in self._places.items() if place.endswith(f":{function}"))
        return next(found, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places


FLOWS = Flows({kind: each.flow for kind, each in kinds().items()})
"""Kind of recipe to flow; each takes ``recipe`` and ``store``."""

HOUSEKEEPING = Flows({"clean": "flows.clean:clean"})
"""Flows of a store instead of a recipe; each takes ``store``."""

TRUST = Flows({name: f"flows.trust:{name}" for name in ("check", "plan", "verify", "smoothness")})
"""Flows of the commands of these names, which are told the name of a recipe or a run."""

REPLICAS = Flows({"descent": "flows.replicas:replicas"})
"""Kind of recipe to the flow that runs it for several seeds; each takes ``seeds`` as well."""

EVERY = (FLOWS, HOUSEKEEPING, TRUST, REPLICAS)
"""All flows that can be deployed."""
