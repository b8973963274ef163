"""The stages of a comparison, besides those that a descent has as well.

A baseline is a point z like any other: once it is committed, it is trained and scored by the
stages of the descent, so that a report compares like with like.
"""

from typing import Any

from engine.applications.comparisons.baselines import BASELINES
from engine.applications.comparisons.poisons import with_flipped_labels
from engine.errors import ConfigurationError, NonFiniteError
from engine.problems.built import BuiltProblem, build_problem
from engine.recipes.comparisons import BaselineName, name_rerun
from engine.replay.interpreter import Sweep, check_losses, replay
from engine.schedules.trees import Forward
from engine.stages.commits import Made, read_rows
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.stage import stage

LAST = 0.1
"""Share of the steps, at the end, over which the training loss of a rerun is averaged."""


@stage("baseline")
def baseline(run: Run, which: BaselineName, final: Ref, chosen: Ref) -> Made:
    """Commit the metaparameters of a baseline, a z like any other.

    Args:
        run: The run.
        which: The baseline.
        final: s_T of z_0, by which examples are scored.
        chosen: z of the chosen iterate, which the baseline keeps as many examples as.
    """
    problem = run.problem
    kept = int((read_rows(run.store, chosen)["value"] > 0).sum())
    state = read_rows(run.store, final, problem.routine.device)
    value = BASELINES[which](problem, state, kept, run.recipe.metaparameters.seed)
    return {"value": value.reshape(-1)}, {}


@stage("retrain")
def retrain(run: Run, value: Ref, changes: dict[str, Any], *, flip_labels: bool = False) -> Made:
    """Train and score z by another routine, or on other labels; commit s_T and the scores.

    A training that diverges is a result too: then the record holds ``diverged`` and no scores, so
    that it can be told from a training that ends well and scores badly.

    Args:
        run: The run.
        value: z.
        changes: Settings of the routine, see ``DescentRecipe.rerun``.
        flip_labels: Give the examples whose inputs z sets another label.
    """
    other = _rerun(run, changes) if changes else run.problem
    routine = other.routine.at(read_rows(run.store, value)["value"])
    if flip_labels:
        routine = with_flipped_labels(other, routine, run.recipe.metaparameters.seed)
    sweep, last = Sweep(state=routine.initial_state()), routine.num_steps
    try:
        replay([Forward(0, last)], routine, routine.point(), {}, sweep)
        check_losses(sweep.losses, 0, last)
    except NonFiniteError as error:
        return {}, {"diverged": str(error)}
    state = sweep.state
    losses = [float(sweep.losses[step]) for step in range(int((1 - LAST) * last), last)]
    return state, {"training_loss": sum(losses) / len(losses), "splits": other.scores(state)}


def _rerun(run: Run, changes: dict[str, Any]) -> BuiltProblem:
    """Return the problem of another routine, which z fits only if its examples are the same."""
    other = build_problem(run.recipe.rerun(changes), run.store)
    if other.data.fingerprint != run.problem.data.fingerprint:
        raise ConfigurationError(
            f"reruns has {name_rerun(changes)}, which gives problem {run.recipe.problem} other "
            "examples, but z is one of those of the run. Change only what leaves the examples as "
            "they are."
        )
    return other
