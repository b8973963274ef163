"""Messages that a notebook can meet speak of its arguments; keys of a recipe stand apart."""

import ast
import re
from functools import cache
from pathlib import Path

import engine
from engine.errors import ConfigurationError
from engine.preflight.verdict import Check, CheckReport, Verdict
from engine.recipes.descent import DescentRecipe

ROOT = Path(engine.__file__).parent
STARTS = (
    *("replay.metagradient", "preflight.checkup", "preflight.oracle", "metaparameters.scalars"),
    *("routine.routine", "routine.outputs", "routine.coupled_loss", "routine.optimizers"),
)
RECIPES = {"recipes", "models", "problems"}
"""Packages that hold what recipes say, or build it, where keys belong."""

OPTIONS = {"recipes.replay", "recipes.settings"}
"""Modules of them that are the options of a call as well."""


def keys():
    """Every dotted key of a recipe."""
    for group, field in DescentRecipe.model_fields.items():
        for name in getattr(field.annotation, "model_fields", {}):
            yield f"{group}.{name}"


KEY = re.compile(r"--set\b|\b(" + "|".join([*map(re.escape, keys()), r"arguments\.\w+"]) + r")\b")


def path_of(module):
    parts = ROOT.joinpath(*module.split("."))
    return parts / "__init__.py" if parts.is_dir() else parts.with_suffix(".py")


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("engine"):
            name = (node.module or "").removeprefix("engine").lstrip(".")
            yield from [name] if name else [each.name for each in node.names]


@cache
def modules():
    """What a call in a notebook can reach."""
    waiting, found = list(STARTS), {}
    while waiting:
        name = waiting.pop()
        apart = name.partition(".")[0] in RECIPES and name not in OPTIONS
        if name in found or apart or not path_of(name).exists():
            continue
        found[name] = ast.parse(path_of(name).read_text())
        waiting += imported(found[name])
    return found


def shown(tree):
    """Yield the text of a module that people may read: no docstring, and nothing in settings=."""
    apart = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            apart.add(node.value)
        if isinstance(node, ast.keyword) and node.arg == "settings":
            apart.update(ast.walk(node.value))
        if isinstance(node, ast.Tuple) and all(isinstance(e, ast.Constant) for e in node.elts):
            apart.update(node.elts)
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "settings":
                    apart.update(ast.walk(value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in apart:
            yield node.lineno, node.value


def test_messages_of_a_notebook_name_no_key_of_a_recipe():
    """A notebook has no training.learning_rate, so a remedy that names it helps nobody there."""
    found = [
        (name, line, key)
        for name, tree in modules().items()
        for line, text in shown(tree)
        for key in KEY.findall(text)
    ]

    assert found == []


def test_the_search_finds_a_key_and_reaches_the_engine():
    """A search that cannot find anything would pass for ever."""
    tree = ast.parse('raise ValueError("Lower training.learning_rate.")')

    assert [text for _, text in shown(tree) if KEY.search(text)]
    assert {
        "replay.interpreter",
        "routine.validate",
        "routine.intake",
        "preflight.training",
    } <= modules().keys()


def test_a_recipe_is_told_its_keys_besides():
    """Who wrote a recipe has to find the line to change."""
    check = Check(
        name="training", verdict=Verdict.REFUSE, value=None, limit=1, cause="It diverged.",
        remedy="Lower learning_rate.", settings=("training.learning_rate",),
    )  # fmt: skip

    (sentence,) = CheckReport.of([check]).sentences()

    assert sentence.endswith("Lower learning_rate. (In a recipe: training.learning_rate.)")
    assert ConfigurationError("No.").in_recipe() == "No."
