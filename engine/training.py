"""Training a routine for its final state alone."""

from engine.diagnosis import asked_rightly
from engine.intake import point_from
from engine.oracle import train as train_unseen
from engine.precision import refuse_low_precision
from engine.routine import Routine
from engine.types import Metaparams, State
from engine.witness import testify


def train(routine: Routine, z: Metaparams | None = None, *, witness: bool = True) -> State:
    """Train all T steps at z and return s_T.

    Args:
        routine: The run; it needs no metaparameter.
        z: Metaparameters; the routine's own by default.
        witness: Whether the module that was handed in takes a step by itself, with which the
            engine's has to agree; see ``engine.witness``.

    Raises:
        WitnessError: If the module's own step is another one.
        NonFiniteError: If a loss is infinite or NaN; names the step.

    Cost:
        T plain steps, and three for the witness.
    """
    point = point_from(routine, z)
    with asked_rightly(routine, []):
        refuse_low_precision(routine, point)
    if witness:
        testify(routine, [], point)
    return train_unseen(routine, z)
