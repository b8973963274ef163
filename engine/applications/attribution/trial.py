"""Trial of an attribution: compares predicted and measured effects of a few removals.

The preflight's short twins cannot see how chaotic a run becomes in all of its steps, and the
weights of single examples are the most delicate question that one can ask.
"""

import torch

from engine.applications.attribution.scores import (
    datamodeling_scores,
    kept_weights,
    predicted_effects,
    query_losses,
    query_outputs,
)
from engine.preflight.verdict import Check, Verdict
from engine.problems.built import BuiltProblem
from engine.recipes.attribution import AttributionSettings, Queries, Removals
from engine.recipes.replay import ReplaySettings
from engine.recipes.training import Retraining
from engine.replay.batched import train_many
from engine.replay.metagradient import differentiate
from engine.replay.refusals.unbatched import refuse_unbatched

LIMIT, REFUSAL = 0.5, 0.3
"""Mean LDS below which a warning is due, and a refusal; runs that can be attributed have 0.9."""

ENOUGH = 12
"""Trainings from which on a trial may refuse: fewer rank too roughly.

A rank correlation over 12 of them that is 0.9 in truth has a spread of 0.07."""


def check_batched(settings: AttributionSettings, problem: BuiltProblem) -> None:
    """Refuse trainings without some examples that cannot go as one batch, if they should.

    Raises:
        ConfigurationError: If it is refused; names the reason, and the setting that trains them one
            by one.
    """
    removals = [*settings.removals, *([settings.trial[1]] if settings.trial_subsets else [])]
    at_once = max(settings.trainings_per_stage if settings.drops else 0, settings.trial_subsets)
    if settings.retraining is Retraining.LOOP or not removals or at_once < 2:
        return
    ((name, kind),) = problem.routine.metaparameters.items()
    points = [
        {name: kept_weights(removals[0], len(problem.routine), number).to(kind.value)}
        for number in (0, 1)
    ]
    refuse_unbatched(problem.routine, points, "attribution.retraining")


def try_removals(
    problem: BuiltProblem,
    queries: Queries,
    removals: Removals,
    num_subsets: int,
    retraining: Retraining,
    replay: ReplaySettings,
) -> Check:
    """Compare predicted and measured effects of a few removals on a few queries.

    Cost:
        The whole run: one training and one reverse sweep for the queries, and ``num_subsets``
        trainings. The sweep goes in memory, as one segment, as ``replay`` says.
    """
    routine = problem.routine
    ((name, kind),) = routine.metaparameters.items()
    found = differentiate(routine, query_outputs(problem, queries), None, replay)
    scores = torch.stack([each[name] for each in found])
    weights = torch.stack(
        [kept_weights(removals, len(routine), number) for number in range(num_subsets)]
    )
    points = [{name: row.to(kind.value)} for row in weights]
    states = train_many(routine, points, together=retraining.value)
    losses = torch.stack([query_losses(problem, queries, state) for state in states])
    each = datamodeling_scores(predicted_effects(scores, weights), losses)
    score = sum(each) / len(each)
    shown = (
        f"{num_subsets} trainings without {removals.percent:g} % of the examples rank the losses "
        f"of {queries.number} queries as the metagradient predicts with a correlation of "
        f"{score:.2f}"
    )
    if score >= LIMIT:
        return Check(
            name="removals", verdict=Verdict.PASS, value=score, limit=LIMIT, cause=f"{shown}."
        )
    refused = score < REFUSAL and num_subsets >= ENOUGH
    return Check(
        name="removals",
        verdict=Verdict.REFUSE if refused else Verdict.WARN,
        value=score,
        limit=LIMIT,
        cause=f"{shown}: the run answers the removal of few examples with chaos, so that its "
        "metagradient is true and predicts nothing.",
        remedy="Lower training.learning_rate.",
    )
