"""The stages of a comparison, besides those that a descent has as well.

A baseline is a point z like any other: once it is committed, it is trained and scored by the
stages of the descent, so that a report compares like with like.
"""

from typing import Any

from engine.applications.comparisons.baselines import BASELINES
from engine.applications.comparisons.poisons import with_flipped_labels
from engine.errors import ConfigurationError, NonFiniteError
from engine.problems.problem import BuiltProblem, build_problem
from engine.recipes.comparisons import BaselineName, name_rerun
from engine.recipes.descent import DescentRecipe
from engine.replay.interpreter import Sweep, check_losses, replay
from engine.schedules.trees import Forward
from engine.stages.commits import read_rows, run_stage
from engine.stages.references import Ref
from engine.types import State

LAST = 0.1
"""Share of the steps, at the end, over which the training loss of a rerun is averaged."""


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

    def compute(problem: BuiltProblem) -> tuple[State, dict[str, Any]]:
        kept = int((read_rows(store, chosen)["value"] > 0).sum())
        state = read_rows(store, final, problem.routine.device)
        value = BASELINES[which](problem, state, kept, recipe.metaparameters.seed)
        return {"value": value.reshape(-1)}, {}

    inputs = {"which": which.value, "start": start, "final": final, "chosen": chosen}
    return run_stage("baseline", recipe, store, inputs, compute)


def retrain(
    recipe: DescentRecipe,
    store: str,
    value: Ref,
    changes: dict[str, Any],
    *,
    flip_labels: bool = False,
) -> Ref:
    """Train and score z by another routine, or on other labels; commit s_T and the scores.

    A training that diverges is a result too: then the record holds ``diverged`` and no scores, so
    that it can be told from a training that ends well and scores badly.

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        value: z.
        changes: Settings of the routine, see ``DescentRecipe.rerun``.
        flip_labels: Give the examples whose inputs z sets another label.
    """

    def compute(problem: BuiltProblem) -> tuple[State, dict[str, Any]]:
        other = _rerun(recipe, problem, changes) if changes else problem
        routine = other.routine_at(read_rows(store, value)["value"])
        if flip_labels:
            routine = with_flipped_labels(other, routine, recipe.metaparameters.seed)
        sweep, last = Sweep(state=routine.initial_state()), routine.num_steps
        try:
            replay([Forward(0, last)], routine, routine.point(), {}, sweep)
            check_losses(sweep.losses, 0, last)
        except NonFiniteError as error:
            return {}, {"diverged": str(error)}
        state = sweep.state
        losses = [float(sweep.losses[step]) for step in range(int((1 - LAST) * last), last)]
        return state, {"training_loss": sum(losses) / len(losses), "splits": other.scores(state)}

    inputs = {"value": value, "changes": changes, "flip_labels": flip_labels}
    return run_stage("retrain", recipe, store, inputs, compute)


def _rerun(recipe: DescentRecipe, problem: BuiltProblem, changes: dict[str, Any]) -> BuiltProblem:
    """Return the problem of another routine, which z fits only if its examples are the same."""
    other = build_problem(recipe.rerun(changes))
    if other.data.fingerprint != problem.data.fingerprint:
        raise ConfigurationError(
            f"reruns has {name_rerun(changes)}, which gives problem {recipe.problem} other "
            "examples, but z is one of those of the run. Change only what leaves the examples as "
            "they are."
        )
    return other
