"""Output of ``mgd recipes NAME``: a recipe, and the meaning of its settings.

It begins with those that users change, which are the fields of its form in Prefect's UI too. The
others are there by name, in their groups; a group, or all of them, is explained if it is asked for.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from engine.errors import ConfigurationError, did_you_mean
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import load_recipe, read_recipe_file
from engine.recipes.forms.fields import FIELDS, argument_fields
from engine.reports.explained_settings import DEFAULT, Explained, explained_settings
from flows.cli.terminal.screen import WIDE, Screen, say, tell, text

_RATIOS = {"value": 2, "from": 2, "meaning": 5}

_NARROW_RATIOS = {"value, and from": 11, "meaning": 17}
"""At 80 columns no key and no value of an enumeration is broken."""

_OF_THE_RUN = "of the run"
"""Stands for the group of settings that are in none."""


def show_recipe(
    name: str, changes: list[str], *, as_json: bool, everything: bool = False, group: str | None
) -> None:
    """Show a recipe: the settings that users change, and the names of all others.

    Args:
        name: Name of a shipped recipe, or the path of a file.
        changes: Assignments ``dotted.key=value``, as of ``mgd run --set``.
        as_json: Print one JSON object with every setting instead.
        everything: Explain all settings.
        group: Explain those of a group and of the groups in it, e.g. ``training``.

    Raises:
        ConfigurationError: If there is no such recipe, setting or group.
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
    groups = _in_groups(rows)
    if group is not None:
        groups = _below(groups, group)
    tell(f"{recipe.name}, of kind {recipe.kind}. {recipe.description}".rstrip())
    if everything or group is not None:
        _explain(console, rows, groups)
    else:
        _begin(console, name, groups, _few(recipe, content, rows))


def _begin(
    console: Screen, name: str, groups: Mapping[str, list[Explained]], few: list[Explained]
) -> None:
    """Print the settings that users change, and the names of the others."""
    is_narrow = console.width < WIDE
    console.print()
    console.print(_few_as_table(few, is_narrow=is_narrow))
    shown = {each.key for each in few}
    others = Table(Column("more, by group", overflow="fold"), Column("settings", overflow="fold"))
    for group, settings in groups.items():
        words = [_setting_name(each) for each in settings if each.key not in shown]
        if words:
            others.add_row(group or _OF_THE_RUN, Text(", ").join(words))
    console.print()
    console.print(others)
    tell(
        "What this recipe sets has its value beside it. `--set KEY=VALUE` changes a setting, in "
        "mgd run, plan ..."
    )
    tell(f"What they mean: `mgd recipes {name} --group training`, or `--all` of them.")


def _explain(console: Screen, rows: list[Explained], groups: Mapping[str, list[Explained]]) -> None:
    """Print settings with what they mean, a table for each group."""
    set_here = sum(each.origin != DEFAULT for each in rows)
    tell(
        f"{len(rows)} settings, of which {set_here} are set here, as is said beside each; "
        "`--set KEY=VALUE` changes one, in mgd run, plan, check and deploy."
    )
    for group, settings in groups.items():
        console.print()
        console.print(_table(group, settings, is_narrow=console.width < WIDE))


def _few(
    recipe: DescentRecipe, content: Mapping[str, Any], rows: list[Explained]
) -> list[Explained]:
    """Return the settings that a form has fields for, in its order."""
    said = content.get("arguments")
    arguments = argument_fields(recipe, list(said) if isinstance(said, Mapping) else [])
    keys = [*(key for key, _ in FIELDS.values()), *(f"arguments.{each}" for each in arguments)]
    found = {each.key: each for each in rows}
    return [found[key] for key in keys if key in found]


def _in_groups(rows: list[Explained]) -> dict[str, list[Explained]]:
    groups: dict[str, list[Explained]] = {}
    for each in rows:
        groups.setdefault(each.key.rpartition(".")[0], []).append(each)
    return groups


def _below(groups: dict[str, list[Explained]], wanted: str) -> dict[str, list[Explained]]:
    """Return a group and the groups in it.

    Raises:
        ConfigurationError: If there is none of that name.
    """
    name = "" if wanted == _OF_THE_RUN else wanted
    found = {
        group: settings
        for group, settings in groups.items()
        if group == name or (name and group.startswith(f"{name}."))
    }
    if not found:
        known = [group for group in groups if group]
        raise ConfigurationError(
            f"--group {wanted!r} is not a group of settings of this recipe. Its groups are "
            f"{', '.join(known)}.{did_you_mean(wanted, known)}"
        )
    return found


def _setting_name(each: Explained) -> Text:
    """Return the name of a setting, with its value where the recipe sets it."""
    name = each.key.rpartition(".")[2]
    if each.origin == DEFAULT:
        return Text(name)
    return Text(f"{name}={text(each.value or 'null').plain}", "bold")


def _few_as_table(settings: list[Explained], *, is_narrow: bool) -> Table:
    """Return settings of several groups by their whole keys, which are what people copy."""
    heads = ["what people change"] if is_narrow else ["what people change", "value", "from"]
    longest = max(len(each.key) for each in settings)
    first, *others = (Column(head, overflow="fold") for head in heads)
    first.min_width = longest
    table = Table(first, *others, "meaning")
    for each in settings:
        style = "bold" if each.origin != DEFAULT else ""
        key, value = Text(text(each.key).plain, style), Text(text(each.value).plain, style)
        if is_narrow:
            said = Text(each.value and f"= {text(each.value).plain}", style)
            below = Text(f"{' ' * bool(each.value)}({_origin(each)})", "dim")
            table.add_row(Text("\n").join([key, said + below]), each.meaning)
        else:
            table.add_row(key, value, _origin(each), each.meaning)
    return table


def _table(heading: str, settings: list[Explained], *, is_narrow: bool) -> Table:
    ratios = _NARROW_RATIOS if is_narrow else _RATIOS
    columns = {heading or _OF_THE_RUN: 10 if is_narrow else 3} | ratios
    table = Table(
        *(Column(name, overflow="fold", ratio=ratio) for name, ratio in columns.items()),
        expand=True,
    )
    for each in settings:
        style = "bold" if each.origin != DEFAULT else ""
        # The group is in the heading already.
        name = Text(text(each.key.rpartition(".")[2]).plain, style)
        shown = Text(text(each.value).plain, style)
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
