"""What a run is compared with, as its record holds it."""

from engine.commits import read_rows
from engine.config import DescentRecipe, MetaparameterName, Settings
from engine.keys import Ref
from engine.problem import build_problem


class Baseline(Settings):
    """One set-up made without a metagradient."""

    name: str
    """What it is called, e.g. random."""

    value: Ref
    """Its metaparameters."""

    final: Ref
    """s_T."""

    scores: dict[str, dict[str, float]]
    """Split (objective, validation, test) to ``loss``, and ``accuracy`` for classifiers."""

    examples: int | None = None
    """Examples that it trains on, for selections."""

    corrupted: int | None = None
    """Those of them whose label is wrong, for selections."""


def count_examples(recipe: DescentRecipe, store: str, value: Ref) -> tuple[int | None, int | None]:
    """Return how many examples z keeps, and how many of those have a wrong label, if any has.

    Both are None for metaparameters that select no examples.
    """
    selecting = (MetaparameterName.COUNTS, MetaparameterName.WEIGHTS)
    if recipe.metaparameters.name not in selecting:
        return None, None
    kept = read_rows(store, value)["value"] > 0
    corrupted = build_problem(recipe).data.corrupted
    return int(kept.sum()), int((kept & corrupted).sum()) if corrupted.any() else None
