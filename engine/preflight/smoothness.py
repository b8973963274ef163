"""Metasmoothness along few directions: does a small change of z move the trained model evenly?"""

from engine.preflight.metasmoothness import INDEPENDENT, metasmoothness
from engine.preflight.verdict import Check, Verdict
from engine.recipes.smoothness import SmoothnessSettings
from engine.routine.routine import Routine
from engine.types import Output


def check_metasmoothness(routine: Routine, output: Output, num_directions: int = 2) -> Check:
    """Warn if the trained parameters answer a change of z as a random walk would."""
    settings = SmoothnessSettings(directions=num_directions)
    score = metasmoothness(routine, output, settings).definition_2
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
