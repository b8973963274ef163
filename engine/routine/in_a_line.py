"""A routine in one line: what trains, on what, how long, and what is differentiated."""

import math
from typing import TYPE_CHECKING

from engine.numerics.shown import shown_value

if TYPE_CHECKING:
    from engine.routine.routine import Routine


def in_a_line(routine: "Routine") -> str:
    """Return model, examples, steps, optimizer and metaparameters of a routine."""
    layout = routine.layout
    parameters = sum(map(math.prod, layout.shapes.values()))
    dtype = str(layout.dtype).removeprefix("torch.")
    parts = [
        f"{type(routine.model).__name__} with {parameters:,} parameters in {dtype}",
        f"{len(routine):,} examples",
        f"{routine.num_steps:,} steps of {routine.batch_size:,}",
        f"{routine.optimizer.name} at rate {shown_value(routine.learning_rate)}",
        *(f"{name}: {kind!r}" for name, kind in routine.metaparameters.items()),
    ]
    return f"Routine({'; '.join(parts)})"
