"""Records of descents that nobody ran, for tests of what is said and drawn of them."""

import struct

import torch

from engine.applications.descent.iterates import Iterate, choose
from engine.applications.descent.material import Curves, Material
from engine.applications.descent.record import RunRecord
from engine.applications.descent.report import report_of
from engine.problems.data.splits import DataSet, Examples
from engine.recipes.descent import DescentRecipe
from engine.reports.page import as_html
from engine.runs.report import compose
from engine.runs.run import Stages
from engine.stages.references import Ref

FALLING = [(0.8, 0.9, 0.85), (0.6, 0.7, 0.65), (0.4, 0.5, 0.45)]

NUM_STEPS = 8

KINDS = {
    "counts": {},
    "weights": {"metaparameters": {"name": "weights"}, "outer": {"update": "Adam"}},
    "learning-rate": {
        "metaparameters": {"name": "learning-rate", "num_key_points": 3},
        "outer": {"update": "sign"},
    },
    "scalars": {
        "metaparameters": {"name": "scalars", "scalars": ["weight_decay", "momentum"]},
        "outer": {"update": "sign"},
    },
    **{
        name: {"metaparameters": {"name": name}, "outer": {"update": "sign"}}
        for name in ("group-weights", "inputs", "initial-parameters")
    },
}


def make_recipe(kind="counts", **settings):
    content = {"name": "small", "training": {"num_steps": NUM_STEPS}, **KINDS[kind], **settings}
    return DescentRecipe.model_validate(content)


def make_record(losses=FALLING, *, kind="counts", selection=None, accuracy=True, **settings):
    """A record whose iterates have these (objective, validation, test) losses."""

    def scores(loss):
        return {"loss": loss, "accuracy": 1 - loss / 2} if accuracy else {"loss": loss}

    def ref(stage, step):
        return Ref(stage=stage, key=f"{step:032x}", content=f"{step:016x}")

    last = len(losses) - 1
    iterates = [
        Iterate(
            outer_step=step,
            value=ref("update", step),
            final=ref("train", step),
            gradient=ref("reverse", step) if step < last else None,
            scores={
                split: scores(loss)
                for split, loss in zip(("objective", "validation", "test"), row, strict=True)
            },
        )
        for step, row in enumerate(losses)
    ]
    return RunRecord(
        run="small-01234567",
        recipe=make_recipe(kind, **settings),
        started="2025-11-23T13:30:05+00:00",
        seconds=83.0,
        iterates=iterates,
        chosen=choose(iterates, make_recipe(kind, **settings).outer),
        selection=selection,
        stages=Stages(total=9, cached=4, retried=1),
        digest="ab" * 32,
        environment={"torch": "2.13.0", "threads": 2, "cuda": None},
    )


def size_of(png):
    """Width and height of a PNG, from its header."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


def make_curves(kind="counts", **fields):
    initial, value = {
        "counts": (torch.ones(4), torch.tensor([0.0, 1.0, 2.0, 0.0])),
        "weights": (torch.ones(4), torch.tensor([0.0, 0.4, 1.7, 2.0])),
        "learning-rate": (torch.full((3,), -3.0), torch.tensor([-3.0, -1.0, -5.0])),
        "scalars": (torch.tensor([-5.0, 2.0]), torch.tensor([-6.0, 3.0])),
        "group-weights": (torch.zeros(3), torch.tensor([0.0, 1.0, -1.0])),
        "inputs": (torch.zeros(2, 1, 4, 4), torch.rand(2, 1, 4, 4)),
        "initial-parameters": (torch.zeros(9), torch.linspace(-1, 1, 9)),
    }[kind]
    losses = [1.0 / (1 + step) for step in range(NUM_STEPS)]
    known = {
        "initial_value": initial,
        "value": value,
        "corrupted": torch.tensor([True, False, False, False]),
        "losses_before": losses,
        "losses_after": losses[::-1],
        "adjoint_norms": {step: 2.0**-step for step in range(5, NUM_STEPS)},
    }
    return Curves(**{**known, **fields})


def make_material(record, curves=None, data=None, first_gradient=None):
    """What the sections of a report are made from, of a record that nobody ran."""
    curves = make_curves() if curves is None else curves
    if data is None:
        split = {"train": Examples(torch.zeros(4, 2), torch.arange(4))}
        data = DataSet(split, 4, curves.corrupted, "", ids=torch.arange(4))
    score = torch.linspace(-1, 1, 4) if first_gradient is None else first_gradient
    return Material(record, curves, data, score)


def render(record, curves=None, **material):
    """The report of a record that nobody ran, as HTML."""
    run = make_material(record, curves or make_curves(kind_of(record)), **material)
    return as_html(compose("/nowhere", record, report_of(run, {})))


def kind_of(record):
    return record.recipe.metaparameters.name.value
