"""A store with a run of each standing, small enough to be read thousands of times."""

import json
from pathlib import Path
from typing import Any

from engine.preflight.verdict import Verdict
from engine.recipes.files import load_recipe
from engine.runs.certificates import Certificate
from engine.runs.run import note_parts
from engine.schedules.segments import Segment
from tests.faults.opened_reads import unfinished
from tests.helpers.runs.finished import finish

RECIPE = [
    *(
        "baselines=[]",
        "arguments.num_train=40",
        "arguments.num_objective=20",
        "arguments.num_validation=20",
    ),
    *(
        "arguments.num_test=20",
        "arguments.model.width=4",
        "arguments.model.depth=1",
        "training.num_steps=4",
    ),
    *("training.batch_size=10", "outer.num_steps=1", "replay.steps_per_segment=2"),
    *("training.threads=1", "metaparameters.injection_step=2"),
]


def finished_store(folder: Path) -> str:
    """Make a store with a finished descent, a plan, a certificate and a budget; return the run.

    Beside it lie another finished run, which it calls a part of it, and one that was stopped.
    """
    recipe, other, third = (
        load_recipe("digits-selection", [*RECIPE, f"training.seed={seed}"]) for seed in (0, 1, 2)
    )
    store = str(folder)
    record = finish(recipe, store)
    part = finish(other, store)
    unfinished(third, store)
    run = Path(store, "runs", record.run)
    reverse = next(each.gradient for each in record.iterates if each.gradient is not None)
    certificate = Certificate(
        run=record.run,
        verdict=Verdict.PASS,
        made=record.started,
        seed=1,
        outer_step=0,
        segment=Segment(start=2, stop=4),
        checks=[],
        environment={"reverse": reverse.key},
    )
    _write(run / "certificate.json", certificate.model_dump(mode="json"))
    _write(run / "budget.json", {"granted_seconds": 1.5})
    seconds = {"outer_step": 1.0, "run": 2.0}
    plan = {
        **{"schedule": "recompute", "segments": 2, "unroll": 1, "forward_steps": 4},
        **{"reverse_steps": 4, "peak_bytes": {"graphs": 1, "device": 1, "host": 0, "store": 1}},
        **{"written_bytes": 1, "seconds": seconds, "alternatives": []},
        "settings": {"replay.schedule": "recompute", "replay.steps_per_segment": 2},
    }
    _write(run / "plan.json", plan)
    note_parts(store, record.run, {part.run: "another seed", record.run: "itself"})
    return record.run


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
