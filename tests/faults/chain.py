"""A small metagradient descent as a chain of stages, without Prefect: what these faults hit."""

import json
import logging
from contextlib import contextmanager
from pathlib import Path

import torch

from engine.problems.segments import first_step, segments
from engine.recipes.files import load_recipe
from engine.recipes.settings import digest
from engine.stages import commits
from engine.stages import training as stages
from engine.stages.run import Run

SMALL = [
    "baselines=[]",
    "arguments.num_train=30",
    "arguments.num_objective=20",
    "arguments.num_validation=10",
    "arguments.num_test=10",
    "arguments.model.width=4",
    "arguments.model.depth=1",
    "training.num_steps=6",
    "training.batch_size=5",
    "training.threads=1",
    "metaparameters.injection_step=2",
    "outer.num_steps=1",
    "replay.steps_per_segment=2",
]
NUM_STAGES = 10


def recipe():
    """Return the set-up of every trial."""
    return load_recipe("digits-selection", SMALL)


def at_once(stage, *arguments):
    """Carry out a stage, once."""
    return stage(*arguments)


def run(store, call=at_once):
    """Carry out all stages of one outer step; return what they made, in order."""
    tiny = recipe()
    asked = Run(tiny, str(store))
    checks = call(stages.preflight, asked)
    value = call(stages.initial_value, asked)
    parts, borders = segments(tiny), [None]
    for part in parts:
        borders.append(call(stages.train_segment, asked, part, value, borders[-1]))
    made = [checks, value, *borders[1:], call(stages.seed, asked, value, borders[-1])]
    for part, start, end in reversed(list(zip(parts, borders, borders[1:], strict=False))):
        if part.start >= first_step(tiny):
            made.append(call(stages.reverse_segment, asked, part, value, start, end, made[-1]))
    made.append(call(stages.update, asked, 0, value, made[-1]))
    made.append(call(stages.evaluate, asked, borders[-1]))
    return made


def name_of(refs):
    """Return the digest of a run's results."""
    return digest([ref.model_dump() for ref in refs])


def content(store, refs):
    """Return every number that a run made: rows and scalars of each stage, read from the store."""
    rows = [
        {} if ref.stage in {"preflight", "evaluate"} else commits.read_rows(str(store), ref)
        for ref in refs
    ]
    return rows, [commits.read_scalars(str(store), ref) for ref in refs]


def is_same(one, other):
    """Whether two runs made the same numbers, bit for bit."""
    rows = zip(one[0], other[0], strict=True)
    return one[1] == other[1] and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in rows
    )


def committed(store):
    """Return the attempt that each committed stage of a local store has; garbage as it is."""
    found = {}
    for path in Path(store).glob("stages/*/*/record.json"):
        try:
            found[folder_name(path.parent)] = json.loads(path.read_text())["attempt"]
        except (ValueError, KeyError, TypeError):
            found[folder_name(path.parent)] = None
    return found


def folder_name(folder):
    """Return <stage>/<key> for the folder of a stage."""
    return "/".join(Path(folder).parts[-2:])


def stage_of(ref):
    """Return <stage>/<key>."""
    return f"{ref.stage}/{ref.key}"


@contextmanager
def warnings():
    """Collect what the engine says in warnings."""
    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("engine")
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


@contextmanager
def counted():
    """Collect the stages that are computed in the block, each as often as it is."""
    computed, attempt = [], commits._attempt

    def counting(declared, key, *arguments):
        computed.append(f"{declared.name}/{key}")
        return attempt(declared, key, *arguments)

    commits._attempt = counting
    try:
        yield computed
    finally:
        commits._attempt = attempt
