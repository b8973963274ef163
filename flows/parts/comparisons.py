"""Comparisons of a descent: set-ups that are trained and scored by its own stages."""

from engine.applications.comparisons.results import Baseline, Comparisons, Rerun
from engine.applications.descent.iterates import Iterate, choose
from engine.recipes.comparisons import BaselineName, is_initial, name_rerun
from engine.schedules.segments import Segment
from flows.parts.rate_search import search_schedules
from flows.parts.training import hand_in_training
from tasks import comparisons as comparison
from tasks import training
from tasks.running.runner import StageFuture, StageRunner


def compare(stages: StageRunner, parts: list[Segment], iterates: list[Iterate]) -> Comparisons:
    """Do all that the recipe asks a descent to be compared with, after it has ended."""
    baselines = train_baselines(stages, parts, iterates)
    grid, optuna = search_schedules(stages)
    return Comparisons(
        baselines=baselines, reruns=rerun(stages, iterates), grid=grid, optuna=optuna
    )


def train_baselines(
    stages: StageRunner, parts: list[Segment], iterates: list[Iterate]
) -> list[Baseline]:
    """Train and score the baselines of a recipe, all handed in before any is waited for.

    Args:
        stages: Stages of the descent, which has ended.
        parts: Segments of a training.
        iterates: z_0, ..., z_N; the baselines keep as many examples as the chosen one.
    """
    recipe, first = stages.recipe, iterates[0]
    chosen = _chosen(stages, iterates)
    handed = {
        name: _hand_in(stages, parts, name, first, chosen)
        for name in recipe.baselines
        if not is_initial(name, recipe.metaparameters.kept)
    }
    found: list[Baseline] = []
    for name in recipe.baselines:
        if is_initial(name, recipe.metaparameters.kept):
            value, final, scores = first.value, first.final, first.scores
        else:
            made, trained, scored = handed[name]
            value = first.value if made is None else made.result()
            final, scores = trained.result(), scored.result()
        found.append(
            comparison.read_baseline(recipe, stages.store, name.value, value, final, scores)
        )
    return found


def rerun(stages: StageRunner, iterates: list[Iterate]) -> list[Rerun]:
    """Train the first and the chosen z by the other routines of a recipe."""
    pair = (iterates[0], _chosen(stages, iterates))
    handed = [
        [
            stages.submit(
                comparison.retrain,
                f"rerun[{name_rerun(changes)}] of outer step {each.outer_step}",
                value=each.value,
                changes=changes,
                flip_labels=False,
            )
            for each in pair
        ]
        for changes in stages.recipe.reruns
    ]
    return [
        comparison.read_rerun(stages.store, name_rerun(changes), before.result(), after.result())
        for changes, (before, after) in zip(stages.recipe.reruns, handed, strict=True)
    ]


def _chosen(stages: StageRunner, iterates: list[Iterate]) -> Iterate:
    return iterates[choose(iterates, stages.recipe.outer)]


def _hand_in(
    stages: StageRunner, parts: list[Segment], name: BaselineName, first: Iterate, chosen: Iterate
) -> tuple[StageFuture | None, StageFuture, StageFuture]:
    """Hand in what makes z (None for the initial one), s_T and the scores of a baseline."""
    if name is BaselineName.LABEL_FLIP:
        trained = stages.submit(
            comparison.retrain,
            f"retrain[{name.value}]",
            value=first.value,
            changes={},
            flip_labels=True,
        )
        return None, trained, trained
    value = stages.submit(
        comparison.baseline,
        f"baseline {name.value}",
        which=name,
        final=first.final,
        chosen=chosen.value,
    )
    final = hand_in_training(stages, parts, f"[{name.value}]", value=value)
    scores = stages.submit(training.evaluate, f"evaluate[{name.value}]", final=final)
    return value, final, scores
