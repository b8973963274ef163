"""All stages that the engine declares, found in its source and not in what happens to be loaded."""

import ast
from importlib import import_module
from pathlib import Path

import engine
from engine.stages.stage import STAGES

ROOT = Path(engine.__file__).parents[1]


def every_stage():
    """Return the stages of the engine by name; each has to be declared by the decorator."""
    names = set()
    for path in sorted((ROOT / "engine").rglob("*.py")):
        text = path.read_text()
        if "@stage(" not in text:
            continue
        found = [
            decorator.args[0].value
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef)
            for decorator in node.decorator_list
            if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "stage"
        ]
        if found:
            import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        assert len(names & {*found}) == 0
        names |= {*found}
    return {name: STAGES[name] for name in names}
