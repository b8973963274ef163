"""Commands in the documents are commands: their names, options, values and settings are read."""

import re
import shlex
from pathlib import Path

import pytest
import typer

import engine
from engine.recipes.files import list_recipes, load_recipe
from flows.cli.app import app

ROOT = Path(engine.__file__).parents[1]
DOCUMENTS = [
    *("README.md", "engine/README.md", "deployments/README.md"),
    *sorted(str(each.relative_to(ROOT)) for each in (ROOT / "engine" / "docs").glob("*.md")),
]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
STARTS = re.compile(r"(?:^|&& )(?:\.venv/bin/)?mgd( .*?)?(?=$|  +#| #|&&)", re.MULTILINE)
INLINE = re.compile(r"`mgd( [^`]*)?`")
OWN = ("flowers", "flowers.yaml")
"""A reader's own recipe, in the examples."""

WORDS = ("1", "clean", "check", "plan", "verify", "smoothness")
"""What stands in the place of a recipe: a placeholder, and what else is deployed."""


def words(text):
    """Return the words of a command: what may be left out is there, a placeholder is a number."""
    plain = re.sub(r"[\[\]]| \.\.\.", "", text)
    return ["1" if re.fullmatch(r"[A-Z]+", word) else word for word in shlex.split(plain)]


def commands():
    """Yield the words of each command that stands in a document."""
    for name in DOCUMENTS:
        text = (ROOT / name).read_text()
        found = [each for block in BLOCK.findall(text) for each in STARTS.findall(block)]
        found += INLINE.findall(BLOCK.sub("", text))
        for each in dict.fromkeys(found):
            yield pytest.param(words(each), id=f"{name}: mgd{each}")


COMMANDS = list(commands())


@pytest.mark.parametrize("given", COMMANDS)
def test_a_command_of_a_document_is_read(given):
    """Whoever pastes it meets no unknown option, no unknown recipe and no unknown setting."""
    if not given or given[0].startswith("--"):
        return
    group = typer.main.get_command(app)
    command = group.commands[given[0]]

    bare = len(given) == 1  # it is spoken of, and not to be pasted
    context = command.make_context(given[0], given[1:], resilient_parsing=bare)

    if bare:
        return
    named = [context.params[each] for each in ("recipe", "name") if each in context.params]
    named += context.params.get("names") or []
    if given[0] != "new":
        assert set(named) - {None} <= {*list_recipes(), *OWN, *WORDS}
    if changes := context.params.get("changes"):
        (recipe,) = set(named) - set(OWN) or {"1"}
        load_recipe("digits-selection" if recipe == "1" else recipe, changes)


def test_commands_are_found():
    """Without this, another way to write them would leave nothing to read, and pass."""
    assert len(COMMANDS) > 60
    assert {"run", "check", "deploy", "clean"} <= {each.values[0][0] for each in COMMANDS
                                                   if each.values[0]}  # fmt: skip
