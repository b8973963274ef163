"""Growth of an adjoint on its way back through a run, and how to read it.

Backwards through plain gradient descent the adjoint is multiplied by 1 - r H at each step, with the
learning rate r and the curvature H. Where r times an eigenvalue of H passes 2, that factor is below
-1: the adjoint grows at every step, as do small differences between two trainings.
"""

import math
from collections.abc import Mapping

GROWTH_LIMIT = 1.2
"""Growth of the adjoint per step, sustained over a window, above which training is chaotic.

Digits, MLP, T = 200, momentum: rates whose metagradient agrees with central differences reach 1.09,
the first that does not 1.4.
"""

WINDOW = 24
"""Steps over which growth is measured.

With momentum 0.9 the adjoint swings over 10 to 20 steps, and one step that overshoots is common and
harmless."""


def growth_per_step(norms: Mapping[int, float], window: int = WINDOW) -> float:
    """Return the fastest sustained growth of the adjoint per step backwards; 1 is none.

    The largest, over all windows of that many steps, of exp(least-squares slope of log norm).

    Args:
        norms: Norm of lambda_t by t.
        window: Steps in a window; a shorter run is one window.
    """
    steps = sorted(step for step, norm in norms.items() if norm > 0 and math.isfinite(norm))
    size = min(window + 1, len(steps))
    if size < 3:
        return 1.0
    slopes = [
        _slope(chosen, [math.log(norms[step]) for step in chosen])
        for chosen in (steps[start : start + size] for start in range(len(steps) - size + 1))
    ]
    return math.exp(min(-min(slopes), 50.0))


def _slope(places: list[int], values: list[float]) -> float:
    middle, mean = sum(places) / len(places), sum(values) / len(values)
    above = sum(
        (place - middle) * (value - mean) for place, value in zip(places, values, strict=True)
    )
    return above / sum((place - middle) ** 2 for place in places)
