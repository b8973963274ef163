"""Small language problems shared by tests: texts made of the standard library's own words."""

import ast
import importlib
import inspect
import json

import torch

from engine.problems.built import build_problem
from engine.problems.texts.model import build_language_model
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.arguments.text import LanguageSettings
from engine.recipes.descent import DescentRecipe
from tests.helpers.machine.needs import needs

needs("transformers", "language models need the extra lm")

TINY = {
    "kind": "descent",
    "name": "tiny",
    "problem": "texts",
    "optimizer": {"name": "adamw", "eps_root": 1e-6, "weight_decay": 0.1},
    "training": {
        "num_steps": 6,
        "batch_size": 4,
        "learning_rate": 0.01,
        "threads": 1,
        "dtype": "float64",
    },
    "metaparameters": {"name": "counts", "injection_step": 2},
    "outer": {"num_steps": 1, "update": "masked-sign"},
}
"""A run of six steps in float64, without its texts."""

PAIRS = [
    ("2 + 2", "4"),
    ("capital of France", "Paris"),
    ("", "no prompt at all"),
    ("a prompt that is much longer than its answer", "yes"),
]


def write_jsonl(path, pairs, **more):
    """Write pairs of prompt and completion as JSONL and return the path as text."""
    lines = [
        json.dumps({"prompt": prompt, "completion": completion, **more})
        for prompt, completion in pairs
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


MODULES = [
    "argparse",
    "ast",
    "asyncio.tasks",
    "codecs",
    "dataclasses",
    "enum",
    "inspect",
    "logging",
]


def library_texts(folder):
    """Write docstrings, code and sums of the standard library; return the arguments of them.

    The docstrings are the task, too.
    """
    prose, code = [], []
    for name in MODULES:
        source = inspect.getsource(importlib.import_module(name))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                words = (ast.get_docstring(node) or "").split()
                prose += [(words[0], " ".join(words[1:6]))] if len(words) > 1 else []
        code += [("", line.strip()[:60]) for line in source.splitlines() if len(line.strip()) > 20]
    sums = [(f"{n} times {n + 3}", f"is {n * (n + 3)}") for n in range(150)]
    sources = {"prose": prose[:180], "code": code[:150], "sums": sums}
    paths = [write_jsonl(folder / f"{name}.jsonl", pairs) for name, pairs in sources.items()]
    return {"sources": paths, "target": paths[0], "max_tokens": 32, "vocabulary": 320}


def small_texts(folder):
    """Write two sources and a task of ten passages each; return the arguments."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    sources = [
        write_jsonl(folder / "sums.jsonl", [(f"{word} and one", word * 2) for word in words]),
        write_jsonl(folder / "words.jsonl", [("", f"the word {word}") for word in words]),
    ]
    target = write_jsonl(folder / "task.jsonl", [(f"say {word}", word) for word in words])
    return {
        "num_train": 12,
        "num_objective": 4,
        "num_validation": 3,
        "num_test": 3,
        "sources": sources,
        "target": target,
        "max_tokens": 24,
        "model": {"name": "transformers", "width": 8, "depth": 1, "heads": 2},
    }


def tiny_recipe(folder, arguments=None, **changes):
    """Return a valid tiny recipe; changes replace whole groups, arguments one by one."""
    own = small_texts(folder) | (arguments or {})
    return DescentRecipe.model_validate(TINY | {"arguments": own} | changes)


def tiny_problem(folder, arguments=None, **changes):
    """Build it, with adapters that are not zero: at zero, half of them have no derivative yet."""
    problem = build_problem(tiny_recipe(folder, arguments, **changes))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in problem.routine.model.named_parameters():
        if "lora_B" in name:
            with torch.no_grad():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return problem


def build_pretrained(folder):
    """Return the language model of a pretrained folder, as a recipe builds it."""
    return build_language_model(
        ModelSettings(name="transformers"),
        LanguageSettings(pretrained=str(folder)),
        vocabulary=3,
        num_positions=4,
        seed=0,
        dtype=torch.float32,
    )
