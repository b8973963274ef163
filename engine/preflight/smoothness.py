"""Metasmoothness along a few directions: whether a small change of z moves the model evenly."""

from collections.abc import Sequence
from functools import partial

from engine.errors import ConfigurationError
from engine.preflight.metasmoothness import INDEPENDENT, Score, metasmoothness
from engine.preflight.training import LongRun
from engine.preflight.verdict import Check, Verdict
from engine.recipes.smoothness import SmoothnessSettings
from engine.replay.at_once import at_once
from engine.replay.batched import Together, train_many
from engine.replay.plain_training import train_unchecked
from engine.routine.idle import skipping_never_used
from engine.routine.routine import Routine
from engine.types import Metaparams, Output, State


def check_metasmoothness(run: LongRun, output: Output, num_directions: int = 2) -> Check:
    """Warn if the trained parameters answer a change of z as a random walk would.

    Args:
        run: A twin, trained at z, which is the first of the trainings.
        output: phi.
        num_directions: Along which z is moved twice each.

    Cost:
        2 trainings for each direction; small ones go through their steps together.
    """
    score = _score(run, output, num_directions, batched=_go_together(run.routine, num_directions))
    if score.mean < INDEPENDENT:  # a batched run lets pass, and never warns alone
        score = _score(run, output, num_directions, batched=False)
    named = {"name": "metasmoothness", "value": score.mean, "limit": INDEPENDENT}
    found = [f"{value:.2f}" for value in score.directions if value is not None]
    shown = f"{', '.join(found)} along {num_directions} directions"
    if score.mean < INDEPENDENT:
        return Check(
            **named,
            verdict=Verdict.WARN,
            cause=f"Metasmoothness is {shown}, where a random walk has {INDEPENDENT:.2f}: the "
            "trained model does not answer a change of z evenly, so that following the "
            "metagradient helps little.",
            remedy="Use a smooth activation such as gelu, scale the last layer's output by 0.1, or "
            "lower learning_rate.",
            settings=(
                "arguments.model.activation",
                "arguments.model.output_scale",
                "training.learning_rate",
            ),
        )
    cause = f"Metasmoothness is {shown}; a random walk has {INDEPENDENT:.2f}."
    return Check(**named, verdict=Verdict.PASS, cause=cause)


def _go_together(routine: Routine, num_directions: int) -> bool:
    """Say whether all trainings fit into one batched run, with memory to spare."""
    return at_once(routine) >= 4 * num_directions


def _score(run: LongRun, output: Output, num_directions: int, *, batched: bool) -> Score:
    settings = SmoothnessSettings(directions=num_directions)
    trainer = partial(_trained, run, batched)
    return metasmoothness(run.routine, output, settings, trainer=trainer).definition_2


def _trained(
    run: LongRun, batched: bool, routine: Routine, points: Sequence[Metaparams]
) -> list[State]:
    """Train at all points but the first, which the twin was trained at."""
    own = skipping_never_used(routine) is None  # else a training ends where the twin does not
    first = [run.states[-1]] if own else [train_unchecked(routine, points[0])]
    if batched and own:
        try:
            return first + train_many(routine, points[1:], together=Together.BATCHED)
        except ConfigurationError:  # what is wrong with the runs themselves is said by the loop
            pass
    return first + [train_unchecked(routine, point) for point in points[1:]]
