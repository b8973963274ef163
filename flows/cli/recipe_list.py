"""What ``mgd recipes`` prints: the recipes that ship. It loads none of their kinds."""

import json

from rich.table import Table

from engine.recipes.where import shipped_summaries
from flows.cli.screen import Screen, say


def show_recipes(*, as_json: bool) -> None:
    """List the recipes that ship."""
    recipes = shipped_summaries()
    if as_json:
        say(json.dumps(recipes))
        return
    table = Table("recipe", "kind", "what it does")
    for each in recipes:
        table.add_row(each["recipe"], each["kind"], each["description"])
    Screen().print(table)
