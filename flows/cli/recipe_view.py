"""What ``mgd recipes NAME`` prints: a recipe with the meaning of every setting."""

import json
from dataclasses import asdict

from rich.table import Column, Table
from rich.text import Text

from engine.recipes.files import load_recipe, read_recipe_file
from engine.reports.explained_settings import DEFAULT, Explained, explained_settings
from flows.cli.screen import Screen, say, text


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
