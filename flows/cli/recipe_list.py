"""What ``mgd recipes`` prints: the recipes that ship. It loads none of their kinds."""

import json

from rich.table import Table

from engine.recipes.where import shipped_summaries
from flows.cli.screen import Screen, say

_NEXT = (
    "The digits need no file and no GPU; of the others, `mgd recipes NAME` says where their data "
    "are looked for (arguments) and on which device they run.",
    "What one costs on this machine: `mgd plan NAME`.",
)


def show_recipes(*, as_json: bool) -> None:
    """List the recipes that ship."""
    recipes = shipped_summaries()
    if as_json:
        say(json.dumps(recipes))
        return
    table = Table("recipe", "kind", "what it does")
    for each in recipes:
        table.add_row(each["recipe"], each["kind"], each["description"])
    console = Screen()
    console.print(table)
    for line in _NEXT:
        console.print(line, soft_wrap=True)
