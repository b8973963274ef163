"""Records of descents that nobody ran, for tests of what is said and drawn of them."""

import struct

from engine.applications.descent.record import Iterate, RunRecord, choose
from engine.recipes.descent import DescentRecipe
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
        chosen=choose(iterates),
        selection=selection,
        stages=Stages(total=9, cached=4, retried=1),
        digest="ab" * 32,
        environment={"torch": "2.13.0", "threads": 2, "cuda": None},
    )


def size_of(png):
    """Width and height of a PNG, from its header."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])
