"""What a run of each shipped recipe takes on one CPU core, which ``mgd recipes`` lists.

Steps are measured by the processor's clock, so that other programs on the machine count little; the
rest is the plan of ``mgd plan``, with the preflight and the report. Recipes whose data are not on
the machine keep what was written of them before.

Usage: ``python -m tests.bench.bench_recipes``.
"""

import json
import tempfile
import time
from types import SimpleNamespace

from engine.applications.kinds import plan_recipe
from engine.errors import EngineError
from engine.numerics.process import prepare_cpu
from engine.planning.counted import must_be_counted
from engine.planning.expected import Expected
from engine.recipes.files import load_recipe
from engine.recipes.kinds import find, kinds
from engine.recipes.shipped_recipes import EXPECTED, expected_seconds, shipped_names
from engine.replay import step_costs
from engine.step import measured


def seconds(name):
    """Return what a run is expected to take; None where its data are not on this machine."""
    recipe = load_recipe(name, ["training.device=cpu", "training.threads=1"])
    if must_be_counted(recipe.descent):  # for another machine than this one
        return None
    with tempfile.TemporaryDirectory() as store:
        try:
            found = plan_recipe(recipe, store)
        except (EngineError, ImportError, OSError):
            return None
    descent = recipe.descent
    replay = found.resolved(descent.replay)
    expected = Expected(descent.model_copy(update={"replay": replay}), found, recipe.num_outputs)
    works = find(kinds()[recipe.kind].works)(recipe, expected)
    rest = sum(each.weight for each in works if each.kind in ("preflight", "report"))
    return round(found.seconds.run + rest, 1)


def main():
    """Measure what can be measured, and write the file."""
    clock = SimpleNamespace(perf_counter=time.process_time)
    step_costs.time = measured.time = clock
    prepare_cpu(1)
    known = expected_seconds()
    for name in shipped_names():
        if (found := seconds(name)) is not None:
            known[name] = found
    EXPECTED.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
