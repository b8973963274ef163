"""Two runs of one step, which have to have the same bits."""

import torch

from engine.errors import ConfigurationError
from engine.routine.routine import Routine
from engine.types import State


def refuse_another(routine: Routine, step: int, first: State, second: State) -> None:
    """Refuse a step that was run twice and differs.

    Args:
        routine: The run.
        step: t.
        first: What the step led to, by name.
        second: The same, of the other run.

    Raises:
        ConfigurationError: Names the first number that differs.
    """
    for name, row in first.items():
        if torch.equal(row, second[name]):
            continue
        index = int((row != second[name]).flatten().nonzero()[0])
        raise ConfigurationError(
            f"Step {step}, run twice, gave two different states: {name} differs first at "
            f"{routine.place(name, index)}. A replayed step must repeat every bit. Draw random "
            "numbers from torch's global generator inside the model, or from the generator that "
            "augment gets, and keep no state outside the parameters."
        )
