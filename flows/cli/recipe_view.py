"""What ``mgd recipes`` prints: the recipes, or one of them with the meaning of every setting."""

import json
from dataclasses import asdict

from rich.table import Column, Table
from rich.text import Text

from engine.recipes.files import list_recipes, load_recipe, read_recipe_file
from engine.reports.explained_settings import DEFAULT, Explained, explained_settings
from flows.cli.screen import Screen, say, text

_NEXT = (
    "The digits need no file and no GPU; of the others, `mgd recipes NAME` says where their data "
    "are looked for (arguments) and on which device they run.",
    "What one costs on this machine: `mgd plan NAME`.",
)


def show_recipes(*, as_json: bool) -> None:
    """List the recipes that ship."""
    recipes = list_recipes()
    if as_json:
        rows = [
            {"recipe": name, "kind": each.kind, "description": each.description}
            for name, each in recipes.items()
        ]
        say(json.dumps(rows))
        return
    table = Table("recipe", "kind", "what it does")
    for name, recipe in recipes.items():
        table.add_row(name, recipe.kind, recipe.description)
    console = Screen()
    console.print(table)
    for line in _NEXT:
        console.print(line, soft_wrap=True)


def show_recipe(name: str, changes: list[str], *, as_json: bool) -> None:
    """Show every setting of a recipe: value, default, where the value is from, and its meaning.

    Args:
        name: Of a shipped recipe, or the path of a file.
        changes: Assignments ``dotted.key=value``, as of ``mgd run --set``.
        as_json: Print one JSON object instead.
    """
    recipe = load_recipe(name, changes)
    _, content = read_recipe_file(name)
    _, changed = read_recipe_file(name, changes)
    rows = explained_settings(recipe, content, changed)
    if as_json:
        settings = [asdict(each) for each in rows]
        about = {"recipe": recipe.name, "kind": recipe.kind, "description": recipe.description}
        say(json.dumps({**about, "settings": settings}))
        return
    console = Screen()
    console.print(f"{recipe.name}, of kind {recipe.kind}. {recipe.description}", soft_wrap=True)
    set_here = sum(each.origin != DEFAULT for each in rows)
    console.print(
        f"{len(rows)} settings, of which {set_here} are set here (bold); --set KEY=VALUE changes "
        "one, in mgd run, plan, check and deploy.",
        soft_wrap=True,
    )
    groups: dict[str, list[Explained]] = {}
    for each in rows:
        groups.setdefault(each.key.rpartition(".")[0], []).append(each)
    for group, settings in groups.items():
        console.print()
        console.print(_table(group, settings))


def _table(group: str, settings: list[Explained]) -> Table:
    table = Table(
        Column(group or "of the run", overflow="fold", ratio=3),
        Column("value", overflow="fold", ratio=2),
        Column("from", ratio=2),
        Column("meaning", ratio=5),
        expand=True,
    )
    for each in settings:
        style = "bold" if each.origin != DEFAULT else ""
        # Whole keys where one row is all that is copied; the group is in the heading already.
        table.add_row(
            Text.assemble((text(each.key.rpartition(".")[2]).plain, style)),
            Text.assemble((text(each.value).plain, style)),
            _origin(each),
            each.meaning,
        )
    return table


def _origin(each: Explained) -> str:
    if each.origin == DEFAULT:
        return DEFAULT
    if each.default is None:
        return f"{each.origin}; no default"
    same = each.default == each.value
    return (
        f"{each.origin}, as the default"
        if same
        else f"{each.origin}; default {each.default or 'none'}"
    )
