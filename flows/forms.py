"""The forms of deployments: what Prefect's UI asks for before a run, and what a schedule may set.

Prefect would make a form of a flow's signature: all settings of a recipe, named by classes and
parameters. These have the fields of ``engine.recipes.forms.fields``, with titles in words. Prefect
merges what a run or a schedule gives into the parameters of its deployment key by key and no
deeper, so every field is a key by itself; the recipe is a parameter too, but no field, and nobody
loses parts of it. Nothing is required that the deployment has already.
"""

from collections.abc import Sequence
from typing import Any

from prefect import Flow
from prefect.utilities.callables import ParameterSchema

from engine.recipes.files import Recipe
from engine.recipes.forms.fields import (
    FIELDS,
    any_setting,
    argument_fields,
    fields,
    in_words,
    settings_field,
    values,
)

_HIDDEN = {"recipe"}
"""Parameters that a deployment has, and a form does not show."""

_TITLES = {
    "store": "Store, a folder or URL for results",
    "directions": FIELDS["directions"][1],
    "price": "Price of an hour",
    "trusted": "Trust the store",
    "older_than_days": "Free what is older, in days",
    "keep": "Runs to keep",
    "intermediate": "Free what finished runs could be repeated from",
    "grace_hours": "Leave alone what is new, in hours",
}
"""Titles of parameters whose names say too little beside their explanations."""

_IN_A_DEPLOYMENT = {"recipe", "store"}
"""Parameters that a deployment has a value for, so that a schedule need not."""


def form(flow: Flow[..., Any], recipes: Sequence[str] = ()) -> ParameterSchema:
    """Return the form of a flow that is about no particular recipe.

    Args:
        flow: The flow.
        recipes: What it offers to choose from, where it takes the name of a recipe.
    """
    own, needed = _own_fields(flow), flow.parameters.required
    last = {"store": own.pop("store")}  # as in the form of a recipe
    if not recipes:
        return _form(own | last, [name for name in needed if name not in _IN_A_DEPLOYMENT])
    chosen = {
        "title": "Recipe",
        "type": "string",
        "enum": list(recipes),
        "description": "Those that ship, and files that this deployment was made with.",
    }
    settings = {
        **own.pop("settings"),
        "title": "Other settings",
        "items": any_setting(),
        "description": (
            "Anything of the recipe, one key=value each, e.g. training.num_steps=100. mgd recipes "
            "NAME lists the keys."
        ),
    }
    return _form({"recipe": chosen, **own, "settings": settings, **last})


def recipe_form(flow: Flow[..., Any], recipe: Recipe, said: Sequence[str]) -> ParameterSchema:
    """Return the form of a recipe's flow.

    Args:
        flow: What runs it.
        recipe: The recipe.
        said: Arguments that its file says, which come first.
    """
    own = _own_fields(flow)
    arguments = argument_fields(recipe, said)
    few = fields(recipe, _few(own))
    last = {"settings": settings_field(recipe), "store": own["store"]}
    group = {
        "arguments": {
            "title": f"Problem: {recipe.problem}",
            "type": "object",
            "properties": _in_order(arguments),
        }
    }
    more = {name: schema for name, schema in own.items() if name not in FIELDS | group | last}
    return _form(more | few | (group if arguments else {}) | last)


def recipe_values(flow: Flow[..., Any], recipe: Recipe, said: Sequence[str]) -> dict[str, Any]:
    """Return the values of a recipe's form before anybody changes them."""
    return values(recipe, _few(_own_fields(flow)), said)


def _few(own: dict[str, Any]) -> list[str]:
    return [name for name in FIELDS if name in own]


def _own_fields(flow: Flow[..., Any]) -> dict[str, dict[str, Any]]:
    """Return a flow's parameters as fields: in words, and without ``or nothing``."""
    found = flow.parameters.properties
    return {name: _plain(name, given) for name, given in found.items() if name not in _HIDDEN}


def _plain(name: str, given: dict[str, Any]) -> dict[str, Any]:
    rest = [each for each in given.get("anyOf", []) if each.get("type") != "null"]
    kept = {k: v for k, v in given.items() if k not in ("anyOf", "default", "position")}
    if name == "store":
        del kept["description"]  # its title says it, and a form has two screens
    return {
        **kept,
        **(rest[0] if len(rest) == 1 else {}),
        "title": _TITLES.get(name) or in_words(name),
    }


def _in_order(properties: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return properties with the place that each has on the page."""
    return {
        name: {**schema, "position": position}
        for position, (name, schema) in enumerate(properties.items())
    }


def _form(properties: dict[str, dict[str, Any]], required: Sequence[str] = ()) -> ParameterSchema:
    # Prefect sends what was set, and its first UI shows JSON in place of a form that is no object.
    return ParameterSchema(
        title="Parameters", type="object", properties=_in_order(properties), required=list(required)
    )
