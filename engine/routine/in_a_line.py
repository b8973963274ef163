"""A routine described in one line, and as a table: model, examples, steps and metaparameters."""

import math
from typing import TYPE_CHECKING

from engine.shown.html import curve, pairs_html
from engine.shown.line import in_words, shown_value

if TYPE_CHECKING:
    from engine.routine.routine import Routine


def in_a_line(routine: "Routine") -> str:
    """Return model, examples, steps, optimizer and metaparameters of a routine."""
    return in_words(routine, lambda: _line(routine))


def _line(routine: "Routine") -> str:
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


def as_table(routine: "Routine") -> str:
    """Return the parts of a routine as a table of HTML, the learning rate as a curve."""
    layout, rate = routine.layout, routine.learning_rate
    parameters = sum(map(math.prod, layout.shapes.values()))
    pairs: dict[str, object] = {
        "model": f"{type(routine.model).__name__}, {parameters:,} parameters that train in "
        f"{len(layout.shapes)} tensors, {str(layout.dtype).removeprefix('torch.')} on "
        f"{routine.device}",
        "examples": f"{len(routine):,}",
        "steps": f"{routine.num_steps:,} of {routine.batch_size:,} examples, seed {routine.seed}",
        "optimizer": repr(routine.optimizer),
        "learning rate": rate
        if isinstance(rate, int | float)
        else curve([float(each) for each in rate], "Learning rate by step"),
    }
    pairs |= {f"z: {name}": repr(kind) for name, kind in routine.metaparameters.items()}
    return pairs_html("Routine", pairs)
