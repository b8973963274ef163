"""The stages of a comparison, besides those that a descent has as well.

A baseline is a point z like any other: once it is committed, it is trained and scored by the
stages of the descent, so that a report compares like with like.
"""

from typing import Any

from engine.baselines import BASELINES
from engine.commits import read_rows, run_stage
from engine.comparison import BaselineName
from engine.config import DescentRecipe
from engine.keys import Ref
from engine.problem import Problem
from engine.types import State


def baseline(
    recipe: DescentRecipe, store: str, which: BaselineName, start: Ref, final: Ref, chosen: Ref
) -> Ref:
    """Commit the metaparameters of a baseline; the record holds how many examples it keeps.

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        which: The baseline.
        start: z_0.
        final: s_T of z_0, by which examples are scored.
        chosen: z of the chosen iterate, which the baseline keeps as many examples as.
    """

    def compute(problem: Problem) -> tuple[State, dict[str, Any]]:
        kept = int((read_rows(store, chosen)["value"] > 0).sum())
        state = read_rows(store, final, problem.routine.device)
        value = BASELINES[which](problem, state, kept, recipe.metaparameters.seed)
        return {"value": value.reshape(-1)}, {}

    inputs = {"which": which.value, "start": start, "final": final, "chosen": chosen}
    return run_stage("baseline", recipe, store, inputs, compute)
