"""Output of ``mgd recipes``: the recipes that ship. It loads none of their kinds."""

import json
from collections.abc import Mapping
from typing import Any

from rich.table import Column, Table

from engine.progress.names import about
from engine.recipes.shipped_recipes import shipped_summaries
from flows.cli.terminal.screen import WIDE, Screen, say, tell

_NEXT = (
    "Takes: rough time of a run on one CPU core, after a start of ten to twenty seconds; `mgd plan "
    "NAME` measures it on this machine.",
    "Needs: data that must be present, and a GPU if a run would be too slow without one; "
    "`mgd recipes NAME` shows where the data are read from (arguments).",
)


def show_recipes(*, as_json: bool) -> None:
    """List the recipes that ship."""
    recipes = shipped_summaries()
    if as_json:
        say(json.dumps(recipes))
        return
    console = Screen()
    meaning = Column("what it does", overflow="fold")
    is_narrow = console.width < WIDE
    table = (
        Table("recipe, of kind", meaning, show_lines=True)
        if is_narrow
        else Table("recipe", "kind", "takes", "needs", meaning)
    )
    for each in recipes:
        cells = [each["recipe"], each["kind"], _takes(each), _needs(each)]
        if is_narrow:
            name, kind, takes, needs = cells
            cells = [f"{name}\n{kind}\ntakes: {takes}\nneeds: {needs}"]
        table.add_row(*cells, each["description"])
    console.print(table)
    for line in _NEXT:
        tell(line)


def _takes(recipe: Mapping[str, Any]) -> str:
    """Write about how long a run takes, as far as anybody has measured."""
    seconds = recipe["seconds"]
    return "-" if seconds is None else about(max(seconds, 10.0)).removeprefix("about ")


def _needs(recipe: Mapping[str, Any]) -> str:
    needs = [each for each in [recipe["data"]] if each != "none"]
    return ", ".join([*needs, *(["GPU"] if recipe["gpu"] else [])]) or "nothing"
