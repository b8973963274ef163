"""What ``mgd recipes NAME`` prints: a recipe with the meaning of every setting."""

import json
from dataclasses import asdict

from rich.table import Column, Table
from rich.text import Text

from engine.recipes.files import load_recipe, read_recipe_file
from engine.reports.explained_settings import DEFAULT, Explained, explained_settings
from flows.cli.terminal.screen import WIDE, Screen, say, tell, text

_RATIOS = {"value": 2, "from": 2, "meaning": 5}

_NARROW_RATIOS = {"value, and from": 11, "meaning": 17}
"""At 80 columns no key and no value of an enumeration is broken."""


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
    tell(f"{recipe.name}, of kind {recipe.kind}. {recipe.description}".rstrip())
    set_here = sum(each.origin != DEFAULT for each in rows)
    tell(
        f"{len(rows)} settings, of which {set_here} are set here (bold); `--set KEY=VALUE` changes "
        "one, in mgd run, plan, check and deploy."
    )
    groups: dict[str, list[Explained]] = {}
    for each in rows:
        groups.setdefault(each.key.rpartition(".")[0], []).append(each)
    for group, settings in groups.items():
        console.print()
        console.print(_table(group, settings, is_narrow=console.width < WIDE))


def _table(group: str, settings: list[Explained], *, is_narrow: bool) -> Table:
    ratios = _NARROW_RATIOS if is_narrow else _RATIOS
    columns = {group or "of the run": 10 if is_narrow else 3} | ratios
    table = Table(
        *(Column(name, overflow="fold", ratio=ratio) for name, ratio in columns.items()),
        expand=True,
    )
    for each in settings:
        style = "bold" if each.origin != DEFAULT else ""
        # Whole keys where one row is all that is copied; the group is in the heading already.
        name = Text.assemble((text(each.key.rpartition(".")[2]).plain, style))
        shown = Text.assemble((text(each.value).plain, style))
        if is_narrow:
            if not each.value:
                shown = Text("(empty)", style)
            table.add_row(name, shown.append(f"\n{_origin(each)}", "not bold dim"), each.meaning)
        else:
            table.add_row(name, shown, _origin(each), each.meaning)
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
