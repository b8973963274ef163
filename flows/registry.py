"""Which flow runs a recipe of which kind."""

from typing import Any

from prefect import Flow

from flows.attribution import attribution
from flows.canaries import canaries
from flows.clean import clean
from flows.descent import descent
from flows.metasmoothness import metasmoothness
from flows.replicas import replicas
from flows.smooth_search import smooth_search
from flows.trust import check, plan, smoothness, verify

FLOWS: dict[str, Flow[..., Any]] = {
    "descent": descent,
    "metasmoothness": metasmoothness,
    "smooth-search": smooth_search,
    "attribution": attribution,
    "canaries": canaries,
}
"""Kind of recipe to flow; each takes ``recipe`` and ``store``."""

HOUSEKEEPING: dict[str, Flow[..., Any]] = {"clean": clean}
"""Flows of a store instead of a recipe; each takes ``store``."""

TRUST: dict[str, Flow[..., Any]] = {
    "check": check,
    "plan": plan,
    "verify": verify,
    "smoothness": smoothness,
}
"""Flows of the commands of these names, which are told the name of a recipe or a run."""

REPLICAS: dict[str, Flow[..., Any]] = {"descent": replicas}
"""Kind of recipe to the flow that runs it for several seeds; each takes ``seeds`` as well."""
