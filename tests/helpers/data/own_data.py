"""Strangers' data, and the same five questions about each: recipes without a line of Python.

A folder of photographs (Debian's package ``tuxpaint-stamps-default``), a Parquet table with words,
dates and missing values (scikit-learn's breast cancer study), and an instruction set (what the
standard library says of itself). Each is read by a problem that ships.
"""

import datetime
import importlib
import inspect
import json
import random
import shutil
from pathlib import Path

from tests.helpers.data import own_code

STAMPS = Path("/usr/share/tuxpaint/stamps")
CLASSES = {
    "birds": "animals/birds",
    "fruit": "food/fruit",
    "vegetables": "food/vegetables",
    "flowers": "plants/flowers",
}
"""Class to a folder of the package, of which the photographs are taken and not the drawings."""

MODULES = (
    *("math", "statistics", "random", "itertools", "functools", "operator", "os", "os.path"),
    *("shutil", "textwrap", "re", "bisect", "heapq", "collections", "decimal", "json", "csv"),
    *("time", "calendar", "glob", "fnmatch", "inspect"),
)
"""Modules of the standard library whose functions are asked about."""


def photographs(folder):
    """Copy the photographs into a folder with a subfolder for each class, and return its path."""
    for name, place in CLASSES.items():
        (folder / "photographs" / name).mkdir(parents=True)
        for picture in sorted((STAMPS / place).glob("*.png")):
            shutil.copy(picture, folder / "photographs" / name)
    return folder / "photographs"


def table(folder):
    """Write the table, and return its path; every ninth radius and every eleventh day is lost."""
    import pyarrow
    import pyarrow.parquet
    from sklearn.datasets import load_breast_cancer

    study = load_breast_cancer()
    order = random.Random(0).sample(range(len(study.target)), 180)
    first = datetime.date(1991, 3, 1)
    columns = {
        "patient": [f"patient {row:03}" for row in order],
        "seen on": [
            None if at % 11 == 0 else first + datetime.timedelta(days=3 * at + row % 7)
            for at, row in enumerate(order)
        ],
        "clinic": [("Madison", "Milwaukee", "Eau Claire")[row % 3] for row in order],
        "diagnosis": [str(study.target_names[study.target[row]]) for row in order],
    }
    for place, name in enumerate(study.feature_names[:8]):
        values = [float(study.data[row, place]) for row in order]
        if name == "mean radius":
            values = [None if at % 9 == 0 else value for at, value in enumerate(values)]
        columns[str(name)] = values
    path = folder / "study.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def instructions(folder):
    """Write instructions with responses as JSON lines, and return the path of the file."""
    rows = []
    for name in MODULES:
        module = importlib.import_module(name)
        for each in sorted(vars(module)):
            said = inspect.getdoc(getattr(module, each))
            is_function = callable(getattr(module, each)) and not each.startswith("_")
            if is_function and said and getattr(getattr(module, each), "__module__", ""):
                first = said.strip().splitlines()[0]
                rows.append({"instruction": f"What does {name}.{each} do?", "output": first})
    rows = random.Random(0).sample(rows, 100)
    path = folder / "library.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PLAIN = {"photographs": photographs, "table": table, "instructions": instructions}
MAKERS = PLAIN | own_code.MAKERS

PROBLEMS = {
    "photographs": """
problem: image_folder
arguments: {folder: DATA, size: 12, model: {name: mlp, width: 8, depth: 1, activation: gelu}}
optimizer: {name: sgd, momentum: 0.9}
""",
    "table": """
problem: table
arguments:
  url: DATA
  label: diagnosis
  names: patient
  model: {name: mlp, width: 8, depth: 1, activation: gelu}
optimizer: {name: sgd, momentum: 0.9}
""",
    "instructions": """
problem: instructions
arguments: {url: DATA, max_tokens: 32, vocabulary: 300, model: {width: 8, depth: 1, heads: 2}}
optimizer: {name: adamw, eps_root: 1.0e-6}
""",
}
"""Data to the part of a recipe that says what they are; ``DATA`` stands for the path."""

PROBLEMS |= own_code.PROBLEMS

TRAINING = """
training: {num_steps: 8, batch_size: 12, threads: 1, learning_rate: 0.02}
replay: {schedule: k-ary, arity: 3, steps_per_segment: 4}
preflight: advise
"""

QUESTIONS = {
    "selection": """
kind: descent
metaparameters: {name: counts}
outer: {num_steps: 1, update: masked-sign, probability: 0.5}
baselines: [random]
""",
    "weights": """
kind: descent
metaparameters: {name: weights}
outer: {num_steps: 1, update: sign, step_size: 0.5}
""",
    "schedule": """
kind: descent
metaparameters: {name: learning-rate, num_key_points: 3}
outer: {num_steps: 1, update: sign, step_size: 0.2}
""",
    "attribution": """
kind: attribution
metaparameters: {name: weights}
attribution:
  {num_queries: 3, drops: [10], num_subsets: 3, trainings_per_stage: 2, trial_subsets: 0,
   baselines: [final-gradient]}
""",
    "poison": """
kind: descent
metaparameters: {name: inputs, fraction: 0.1}
outer: {num_steps: 1, update: sign, step_size: STEP, maximize: true}
baselines: [random-pixels]
""",
}
"""Question to the part of a recipe that asks it."""


STEPS = {"photographs": "0.3", "table": "0.3", "instructions": "0.02"} | own_code.STEPS
"""Data to how far an outer step of a poison moves an input: a pixel, a number, an embedding."""


def _files(path):
    return [str(each.relative_to(path)) for each in path.glob("*/*.png")]


def _rows(path):
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path, columns=["patient"])["patient"].to_pylist()


def _texts(path):
    return [json.loads(line)["instruction"] for line in path.read_text().splitlines()]


NAMES = {"photographs": _files, "table": _rows, "instructions": _texts} | own_code.NAMES
"""Data to what maps its path to what people call its examples: files, rows, questions."""


WITH_PICTURES = ("photographs", "own-photographs")
"""Data whose reports show pictures."""


def questions_about(data):
    """Return the questions that can be asked about some data."""
    every = [*QUESTIONS, *(own_code.MORE if data in own_code.GROUPS else ())]
    return own_code.ASKED.get(data, every)


def why_not(data):
    """Say what is missing for some data; nothing where it is all there."""
    if data in WITH_PICTURES and not STAMPS.is_dir():
        return "the pictures of Debian's package tuxpaint-stamps-default are not installed"
    needed = {"photographs": ["PIL"], "table": ["pyarrow"], "instructions": ["transformers"]}
    needed["own-photographs"] = ["PIL"]
    return next(
        (f"{each} is missing" for each in needed.get(data, ()) if not _is_there(each)), None
    )


def _is_there(package):
    return importlib.util.find_spec(package) is not None


def write_recipe(folder, data, question, path):
    """Write the recipe of a question about data, as a stranger would, and return its path."""
    asked = (QUESTIONS | own_code.MORE)[question]
    text = f"name: {data}-{question}\n" + PROBLEMS[data] + TRAINING + asked
    recipe = folder / f"{data}-{question}.yaml"
    if data in own_code.SINGLY:
        text = text.replace("trial_subsets: 0", "trial_subsets: 0, retraining: loop")
    words = {"FOLDER": str(folder), "DATA": f'"{path}"', "STEP": STEPS[data]}
    words |= {"GROUPS": own_code.GROUPS.get(data, ""), "CHOICE": own_code.CHOICES.get(data, "")}
    for word, stands_for in words.items():
        text = text.replace(word, stands_for)
    recipe.write_text(text)
    return recipe
