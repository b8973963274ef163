"""Shell completion: names of recipes and of runs, and keys of settings with their values.

It answers while the user types, so it loads no torch, and what takes long is kept in a cache of the
user's, for as long as the files that it was made from stay as they are. Nothing that goes wrong
here may be seen: then there is nothing to complete.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from flows.cli.terminal.colours import use_in_help

Found = list[tuple[str, str]]
"""What may be typed, each with what it is; shells that can show that do."""


_AS_TYPED = re.compile(r"[\w.,:/@%+=-]*", re.ASCII)
"""Values that mean the same to every shell as to us. Others are not offered: a shell takes what it
is offered as it is, and a file of another user could say ``$(...)``."""

_REGISTER = "compdef %(complete_func)s %(prog_name)s"

_REGISTER_AND_CALL = f"""\
{_REGISTER}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  %(complete_func)s "$@"
fi"""
"""What is read by ``source`` is registered; what is loaded as a function is called as well."""

_cut: list[str] = []
"""The key whose value bash completes, if it has cut that off."""

_ARGUMENTS = Path(__file__).parents[2] / "engine" / "problems" / "shipped.py"
"""Whose signatures are the arguments of the problems that ship."""


class Commands(TyperGroup):
    """Commands whose words are whole, also where bash asks what to complete."""

    def main(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 (Typer's)
        """Carry a command out, or answer a shell."""
        _join_words(os.environ)
        if "_MGD_COMPLETE" not in os.environ:
            use_in_help()
        if any(word.endswith("-completion") for word in sys.argv[1:2]):
            _complete_from_the_first_tab()
        return super().main(*args, **options)


def _complete_from_the_first_tab() -> None:
    """Give zsh a script that completes when it is loaded.

    A shell loads the file at the first Tab, as the body of the function that it then calls. Typer's
    file only defines another function and registers that, so the first Tab of each shell did
    nothing, as if nothing were installed. Typer has no public place for a user's own script.
    """
    with suppress(ImportError, AttributeError, KeyError):
        from typer import _completion_shared

        scripts = _completion_shared._completion_scripts  # pyright: ignore[reportPrivateUsage]
        scripts["zsh"] = scripts["zsh"].replace(_REGISTER, _REGISTER_AND_CALL)


def _join_words(environment: MutableMapping[str, str]) -> None:
    """Make one word again of ``key=value``, which bash has cut in three.

    It completes the part behind the last cut. Of a value, then, the word to complete is the value
    alone, and its key is kept for ``complete_change``.
    """
    _cut.clear()
    if environment.get("_MGD_COMPLETE") != "complete_bash":
        return
    with suppress(KeyError, ValueError):
        words, place = environment["COMP_WORDS"].split("\n"), int(environment["COMP_CWORD"])
        joined: list[str] = []
        for word in words[:place]:
            if joined and (word == "=" or joined[-1].endswith("=")):
                joined[-1] += word
            else:
                joined.append(word)
        last = "".join(words[place : place + 1])
        if joined and (last == "=" or joined[-1].endswith("=")):
            _cut.append(joined.pop().removesuffix("="))
            last = last.removeprefix("=")
        environment["COMP_WORDS"] = "\n".join([*joined, last])
        environment["COMP_CWORD"] = str(len(joined))


def complete_recipe(incomplete: str) -> Found:
    """Return the shipped recipes that begin so; for anything else the shell looks for files."""
    from engine.recipes.shipped_recipes import shipped_names

    return [(name, "") for name in shipped_names() if name.startswith(incomplete)]


def complete_run(ctx: typer.Context, incomplete: str) -> Found:
    """Return the runs of a local store that begin so, the one that was active last first."""
    from engine.storage.names import is_run
    from engine.storage.places import RECIPE, RUN, run_file, runs_folder

    store = str(ctx.params.get("store") or os.environ.get("MGD_STORE") or "mgd-store")
    if "://" in store:
        return []  # may be far away
    place = str(Path(store).expanduser().absolute())
    with suppress(OSError):
        names = [each.name for each in os.scandir(runs_folder(place)) if is_run(each.name)]
        runs = [
            name
            for name in names
            if name.startswith(incomplete) and os.path.isfile(run_file(place, name, RECIPE))
        ]
        runs.sort(key=lambda name: -os.stat(run_file(place, name, RECIPE)).st_mtime)
        return [
            (name, "finished" if os.path.isfile(run_file(place, name, RUN)) else "not finished")
            for name in runs
        ]
    return []


def complete_change(ctx: typer.Context, incomplete: str) -> Found:
    """Return settings of the recipe as ``key=value``, with the value that they have now.

    Where a setting is one of some words, each of them is there. Keys come a group at a time.
    """
    # An option whose value is being typed ends the parsing before arguments are taken.
    words = [word for word in ctx.args if not word.startswith("-")]
    recipe = str(words[0] if words else ctx.params.get("recipe") or "digits-selection")
    with suppress(Exception):  # of a recipe that cannot be read there is nothing to say
        found = _settings(recipe)
        key, given, value = (*_cut, "=", incomplete) if _cut else incomplete.partition("=")
        if given:
            before = "" if _cut else f"{key}="
            words = found.get(key, {}).get("words", [])
            return [(before + word, "") for word in words if word.startswith(value)]
        return list(dict.fromkeys(_below(found, incomplete)))
    return []


def _below(found: dict[str, dict[str, Any]], start: str) -> Iterable[tuple[str, str]]:
    """Yield groups that begin so, or the keys of the one that was named."""
    inside = start.rpartition(".")[0]
    for key, each in found.items():
        if not key.startswith(start):
            continue
        rest = key[len(inside) + 1 :] if inside else key
        group, is_group, _ = rest.partition(".")
        if is_group and not inside:
            yield f"{group}.", f"settings of {group}"
        else:
            value = each["value"] if _AS_TYPED.fullmatch(each["value"]) else ""
            yield f"{key}={value}", each["meaning"]


def _settings(recipe: str) -> dict[str, dict[str, Any]]:
    """Return value, meaning and words of each setting of a recipe, from the cache if there."""
    from engine.recipes import shipped_recipes

    path = (
        shipped_recipes.RECIPES / f"{recipe}.yaml"
        if recipe in shipped_recipes.shipped_names()
        else Path(recipe)
    )
    sources = [path, *sorted(Path(shipped_recipes.__file__).parent.rglob("*.py")), _ARGUMENTS]
    stamps = [(str(each), each.stat().st_mtime_ns, each.stat().st_size) for each in sources]
    digest = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]
    cache = _cache_folder() / f"settings-{path.stem}.json"
    with suppress(OSError, ValueError, KeyError):
        kept = json.loads(cache.read_text(encoding="utf-8"))
        if kept["made_from"] == digest:
            return kept["settings"]
    found = _read_settings(recipe)
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        part = cache.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps({"made_from": digest, "settings": found}), encoding="utf-8")
        part.replace(cache)
    return found


def _read_settings(recipe: str) -> dict[str, dict[str, Any]]:
    """Read a recipe, which loads its kind and its problem's signature; code of one's own is not."""
    from engine.recipes.files import KINDS, read_recipe_file, validate_recipe
    from engine.recipes.problem_functions import names_code
    from engine.reports.explained_settings import explained_defaults, explained_settings

    path, content = read_recipe_file(recipe)
    if names_code(content.get("problem"), content.get("arguments")):
        rows = explained_defaults(KINDS[content.get("kind", "descent")])
    else:
        rows = explained_settings(validate_recipe(content, str(path)), content)
    return {
        row.key: {"value": row.value, "meaning": row.meaning, "words": list(row.words)}
        for row in rows
    }


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "mgd"
