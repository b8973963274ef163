"""Training a routine for its final state alone."""

from functools import partial

from engine.errors import naming_arguments
from engine.progress.board import one_work
from engine.progress.counted import forward_work
from engine.progress.displays import Shown, showing
from engine.progress.meter import doing
from engine.replay.final_state import FinalState
from engine.replay.plain_training import train_unchecked
from engine.routine.diagnosis import asked_rightly, told_while_training
from engine.routine.intake import point_from
from engine.routine.routine import Routine
from engine.types import Metaparams
from engine.witness.derivatives.updates import refuse_misfit
from engine.witness.memory.asked import refuse_memory
from engine.witness.precision import refuse_low_precision
from engine.witness.repeated import FirstCalls
from engine.witness.witness import testify


@naming_arguments
def train(
    routine: Routine, z: Metaparams | None = None, *, witness: bool = True, progress: Shown = False
) -> FinalState:
    """Train all T steps at z and return s_T.

    Args:
        routine: The run; it needs no metaparameter.
        z: Metaparameters; the routine's own by default.
        witness: Whether the module that was handed in takes a step by itself, with which the
            engine's has to agree; see ``engine.witness.witness``.
        progress: As for ``metagradient``.

    Raises:
        WitnessError: If the module's own step is another one, or what it computes depends on how
            often it was called.
        NonFiniteError: If a loss is infinite or NaN; names the step.

    Cost:
        T plain steps, and about three for the witness.
    """
    point = point_from(routine, z)
    if witness:
        refuse_memory(routine, point)
    refuse_misfit(routine, point)
    with showing(progress, "train"):
        with asked_rightly(routine, []):
            first = FirstCalls(routine, refuse_low_precision(routine, point))
        if witness:
            with doing("a step of the module by itself"):
                testify(routine, [], point)
            first.refuse_other_hooks()
        with one_work(partial(forward_work, routine.num_steps), "training"), told_while_training():
            return FinalState(train_unchecked(routine, z, first))
