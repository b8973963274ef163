"""What ``mgd recipes`` prints: the recipes that ship. It loads none of their kinds."""

import json

from rich.table import Column, Table

from engine.recipes.shipped_recipes import shipped_summaries
from flows.cli.terminal.screen import WIDE, Screen, say, tell

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
    console = Screen()
    meaning = Column("what it does", overflow="fold")
    is_narrow = console.width < WIDE
    table = Table("recipe, of kind", meaning) if is_narrow else Table("recipe", "kind", meaning)
    for each in recipes:
        name = [each["recipe"], each["kind"]]
        table.add_row(*(["\n".join(name)] if is_narrow else name), each["description"])
    console.print(table)
    for line in _NEXT:
        tell(line)
