"""The flow of privacy canaries, on Prefect's own engine."""

import re

import pytest

from engine.applications.canaries.record import BEFORE, OWN, WRONG
from engine.recipes.files import validate_recipe
from engine.runs.run import find_run, read_recipe
from flows.canaries import canaries

TINY = {
    "kind": "canaries",
    "name": "tiny",
    "arguments": {
        "num_train": 120,
        "num_objective": 30,
        "num_validation": 30,
        "model": {"width": 16, "depth": 1},
    },
    "training": {"num_steps": 20, "batch_size": 40, "threads": 1, "learning_rate": 0.3},
    "outer": {"update": "Adam", "num_steps": 4, "step_size": 0.2},
    "replay": {"schedule": "store-all"},
    "canaries": {"num_canaries": 20, "num_audits": 6},
}


@pytest.mark.slow
def test_canaries_widen_the_gap_on_fresh_trainings(prefect_server, tmp_path):
    """At a bounded size; one step more reuses those that were made, and so do the baselines."""
    recipe, store = validate_recipe(TINY, "test"), str(tmp_path)

    found = canaries(recipe, store)
    more = canaries(
        validate_recipe({**TINY, "outer": {**TINY["outer"], "num_steps": 5}}, "test"), store
    )

    assert found.audits.keys() == {OWN, BEFORE, WRONG}
    assert found.audits[OWN].gap > 2 * found.audits[BEFORE].gap
    assert more.steps[:4] == found.steps
    # The fifth step, and the audit of what it made.
    assert more.stages.total - more.stages.cached == 2
    content = found.content(store)
    assert content["gap"] == found.audits[OWN].gap
    assert content["baselines"].keys() == {BEFORE, WRONG}
    assert read_recipe(store, find_run(store, found.run)) == recipe
    with open(content["report"]) as file:
        page = file.read()
    assert page.count("<svg ") == 2
    (row, *_), own = found.rows(), found.audits[OWN]
    assert (row["gap_nats"], row["gap_low_nats"], row["gap_high_nats"]) == (
        *(own.gap, own.low, own.high),
    )
    assert (row["canaries"], row["auc"], row["loss_out_nats"]) == (OWN, own.auc, own.loss_out)
    assert re.findall(r'alt="canary \d+, (before|after|change[^"]*)"', page)
