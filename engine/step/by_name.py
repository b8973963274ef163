"""Ways to reverse a step, by name.

All compute the product of ``engine.step.reference.step_vjp``, to rounding. Each is compared with it
at the first step that it reverses, and is not used if the two disagree.
"""

from functools import partial

from engine.errors import ConfigurationError
from engine.recipes.replay import VjpMode
from engine.step.batched_outputs import BatchedPull
from engine.step.compiled import CompiledVjp
from engine.step.measured import Fits, MeasuredVjp
from engine.step.reference import StepVjp, step_vjp
from engine.step.two_stage import TwoStageVjp, pull_forward, pull_reverse


def make_vjp(
    mode: VjpMode | str,
    *,
    micro_batch: int | None = None,
    num_uses: int = 1,
    fits: Fits | None = None,
) -> StepVjp:
    """Return the way to reverse a step that a name stands for.

    Args:
        mode: One of ``VjpMode``.
        micro_batch: Examples reversed at a time; all at once by default.
        num_uses: Steps that will be reversed, over which compiling has to pay.
        fits: Says whether the graphs of several outputs fit, so that ``auto`` may try one pass.

    Raises:
        ConfigurationError: If there is no such mode, or it takes no micro-batches.
    """
    names = [name.value for name in VjpMode]
    if mode not in names:
        raise ConfigurationError(f"There is no vjp {mode!r}. Use one of {', '.join(names)}.")
    if micro_batch is not None and micro_batch < 1:
        raise ConfigurationError(f"micro_batch is {micro_batch}. Use 1 example or more.")
    match VjpMode(mode):
        case VjpMode.FORWARD_OVER_REVERSE:
            return TwoStageVjp(pull_forward, micro_batch)
        case VjpMode.REVERSE_OVER_REVERSE:
            return step_vjp if micro_batch is None else TwoStageVjp(pull_reverse, micro_batch)
        case VjpMode.COMPILED | VjpMode.BATCHED | VjpMode.AUTO if micro_batch is not None:
            raise ConfigurationError(
                f"micro_batch is {micro_batch}, but vjp={mode} reverses a step as one piece. "
                f"Use vjp={VjpMode.FORWARD_OVER_REVERSE} or {VjpMode.REVERSE_OVER_REVERSE}, or "
                "leave micro_batch out."
            )
        case VjpMode.COMPILED:
            return CompiledVjp()
        case VjpMode.BATCHED:
            return partial(step_vjp, pull=BatchedPull())
        case VjpMode.AUTO:
            return MeasuredVjp(num_uses, fits)
