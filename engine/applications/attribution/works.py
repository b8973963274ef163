"""Stages that a run of an attribution will carry out, for the estimate of the time left."""

from engine.applications.attribution.record import judged_baselines
from engine.applications.attribution.stages import Subsets
from engine.planning.expected import Expected
from engine.progress.time_left import Work
from engine.recipes.attribution import AttributionBaseline, AttributionRecipe, AttributionSettings


def works(recipe: AttributionRecipe, expected: Expected, store: str | None = None) -> list[Work]:
    """Return the stages of an attribution; those of the baselines depend on its problem.

    Args:
        recipe: Recipe of the attribution.
        expected: What one training of it takes.
        store: fsspec URL of the run's store, as for ``build_problem``.
    """
    settings = recipe.attribution
    found = [expected.preflight(), expected.guess("initial"), *expected.train(), expected.score()]
    if settings.trial_subsets:
        found.append(expected.trainings("trial", settings.trial_subsets, scored=True))
    for name, why_not in judged_baselines(recipe, store).items():
        if why_not is not None:
            continue
        kind = "final-gradients" if name is AttributionBaseline.FINAL_GRADIENT else "trak"
        found.append(expected.guess(kind, float(expected.recipe.training.num_steps)))
    found += [
        expected.trainings("train-without", each.stop - each.start, scored=True)
        for each in subsets(settings)
    ]
    if settings.basis is None:
        return [*found, expected.guess("seed-queries"), *expected.sweep(), expected.report()]
    seeds, scores = expected.guess("seed-basis"), expected.guess("basis-scores")
    return [*found, seeds, *expected.sweep(), scores, expected.report()]


def subsets(settings: AttributionSettings) -> list[Subsets]:
    """Return the random subsets of each size, in the groups that one stage trains without."""
    return [
        Subsets(
            removals=removals,
            start=start,
            stop=min(start + settings.trainings_per_stage, settings.num_subsets),
        )
        for removals in settings.removals
        for start in range(0, settings.num_subsets, settings.trainings_per_stage)
    ]
