"""The iterates of a descent that has not finished."""

from pydantic import ValidationError

from engine.applications.descent.record import Iterate
from engine.runs.outer_steps import OuterSteps


def iterates_so_far(steps: OuterSteps) -> list[Iterate]:
    """Return the iterates that have been scored, in order; see ``engine.runs.outer_steps``."""
    found: list[Iterate] = []
    for number, each in enumerate(steps.so_far()):
        try:
            found.append(Iterate(outer_step=number, **vars(each)))
        except ValidationError:  # a record of another version says something else
            break
    return found
