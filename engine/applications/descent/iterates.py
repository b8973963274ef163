"""The iterates of a descent, finished or not: their scores, their display and the choice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from engine.recipes.descent import OuterSettings
from engine.recipes.settings import Document
from engine.reports.curves import Curve
from engine.runs.outer_steps import OuterSteps
from engine.runs.run import Scores
from engine.stages.references import Ref


class Iterate(Document):
    """One point of the descent: z_n and the scores of the model trained with it."""

    outer_step: int
    """n; 0 is the set-up that the run started from."""

    value: Ref
    """z_n."""

    final: Ref
    """s_T."""

    gradient: Ref | None
    """Metagradient at z_n; none at the last iterate, from which no step is taken."""

    scores: dict[str, Scores]
    """Split (objective, validation, test) to scores."""


@dataclass(frozen=True)
class Iterates:
    """Iterates as people see them, with the methods of a ``FinishedRun`` that show a result.

    Attributes:
        found: They, in order.
        chosen: The outer step that was chosen; None while none is.
    """

    found: Sequence[Iterate]
    chosen: int | None = None

    def rows(self) -> list[dict[str, Any]]:
        """Return a row of numbers for each: ``outer_step``, ``<split>_<score>``, ``chosen``."""
        return [
            {
                "outer_step": each.outer_step,
                **{
                    f"{split}_{name}": value
                    for split, scores in each.scores.items()
                    for name, value in scores.items()
                },
                "chosen": each.outer_step == self.chosen,
            }
            for each in self.found
        ]

    def curves(self) -> list[Curve]:
        """Return every score on every split as a curve by outer step."""
        points: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for each in self.found:
            for split, scores in each.scores.items():
                for name, value in scores.items():
                    points.setdefault((split, name), []).append(
                        (float(each.outer_step), float(value))
                    )
        return [
            Curve(f"{split} {name}", "outer step", found) for (split, name), found in points.items()
        ]

    def arrays(self) -> dict[str, Ref]:
        """Return the stages of z, metagradient and final state of each, as ``z[0]``."""
        return {
            f"{what}[{each.outer_step}]": ref
            for each in self.found
            for what, ref in (
                ("z", each.value),
                ("metagradient", each.gradient),
                ("state", each.final),
            )
            if ref is not None
        }


def iterates_so_far(steps: OuterSteps) -> list[Iterate]:
    """Return the iterates of a descent that goes on; see ``engine.runs.outer_steps``."""
    found: list[Iterate] = []
    for number, each in enumerate(steps.so_far()):
        try:
            found.append(Iterate(outer_step=number, **vars(each)))
        except ValidationError:  # a record of another version says something else
            break
    return found


def choose(iterates: Sequence[Iterate], outer: OuterSettings) -> int:
    """Return the outer step with the lowest loss on the validation split, the earliest of equals.

    The objective never sees that split, so an iterate that over-fits the objective is not chosen.

    Args:
        iterates: z_0, ..., z_N.
        outer: Says whether something else than the loss chooses, and whether uphill.
    """
    return outer.best([each.scores["validation"][outer.choose_by] for each in iterates])
