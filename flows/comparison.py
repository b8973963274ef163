"""What a descent is compared with: trained and scored by the stages of the descent itself."""

from engine.compared import Baseline
from engine.comparison import BaselineName, is_initial
from engine.config import DescentRecipe
from engine.runs import Iterate, choose
from engine.segments import Segment
from tasks import comparison, training
from tasks.runner import StageFuture, StageRunner


def num_comparison_stages(recipe: DescentRecipe, num_parts: int) -> int:
    """Return how many stages a comparison has."""
    return sum(
        num_parts + 2
        for name in recipe.baselines
        if not is_initial(name, recipe.metaparameters.kept)
    )


def compare(stages: StageRunner, parts: list[Segment], iterates: list[Iterate]) -> list[Baseline]:
    """Train and score the baselines of a recipe, all handed in before any is waited for.

    Args:
        stages: Of the descent, which has ended.
        parts: Segments of a training.
        iterates: z_0, ..., z_N; the baselines keep as many examples as the chosen one.
    """
    recipe, first = stages.recipe, iterates[0]
    chosen = iterates[choose(iterates, maximize=recipe.outer.maximize)]
    handed = {
        name: _hand_in(stages, parts, name, first, chosen)
        for name in recipe.baselines
        if not is_initial(name, recipe.metaparameters.kept)
    }
    found: list[Baseline] = []
    for name in recipe.baselines:
        if is_initial(name, recipe.metaparameters.kept):
            value, final, scores = first.value, first.final, None
        else:
            value, final, scores = (future.result() for future in handed[name])
        found.append(
            comparison.read_baseline(
                recipe, stages.store, name.value, value, final, scores or first.scores
            )
        )
    return found


def _hand_in(
    stages: StageRunner, parts: list[Segment], name: BaselineName, first: Iterate, chosen: Iterate
) -> tuple[StageFuture, StageFuture, StageFuture]:
    """Hand in what makes z, s_T and the scores of a baseline."""
    value = stages.submit(
        comparison.baseline,
        f"baseline {name.value}",
        which=name,
        start=first.value,
        final=first.final,
        chosen=chosen.value,
    )
    final: StageFuture | None = None
    for part in parts:
        final = stages.submit(
            training.train_segment,
            f"train[{name.value}] {part.start}-{part.stop}",
            segment=part,
            value=value,
            start=final,
        )
    assert final is not None  # a run has at least one segment
    scores = stages.submit(training.evaluate, f"evaluate[{name.value}]", value=value, final=final)
    return value, final, scores
