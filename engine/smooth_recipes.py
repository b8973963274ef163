"""Settings of metasmoothness: how it is measured, and the search for a smooth routine."""

import itertools
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from engine.config import (
    DataConfig,
    DescentRecipe,
    MetaparametersConfig,
    OptimizerConfig,
    OuterConfig,
    OuterUpdate,
    ReplayConfig,
    TrainingConfig,
)
from engine.menu import ModelConfig
from engine.settings import Settings


class DirectionKind(StrEnum):
    """How a random direction of z is drawn."""

    EXAMPLE = "example"
    """Every coordinate by itself, from a standard normal distribution."""

    GROUP = "group"
    """One draw for each group (class) of examples."""

    COORDINATE = "coordinate"
    """One coordinate, drawn at random, moves by 1."""


class SmoothnessConfig(Settings):
    """How metasmoothness is measured."""

    directions: Annotated[int, Field(ge=1)] = 4
    """Random directions; each takes two trainings besides the one at z."""

    step: Annotated[float, Field(gt=0)] = 0.05
    """h: the trainings are at z, z + h v and z + 2 h v."""

    by: DirectionKind = DirectionKind.GROUP
    """Kind of direction. Directions by example measure noise for any routine with many examples."""

    landscape: Annotated[int, Field(ge=0)] = 6
    """More trainings along the first direction, for the figure."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seeds the directions."""


class SmoothRecipe(Settings):
    """What recipes about smoothness have in common: the training, as a descent has it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Name in run names and reports: lower-case letters, digits and hyphens."""

    description: str = ""
    """One sentence for people."""

    data: DataConfig = DataConfig()
    """Examples and splits."""

    model: ModelConfig = ModelConfig()
    """Model."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """Inner optimizer."""

    training: TrainingConfig = TrainingConfig()
    """Inner run."""

    metaparameters: MetaparametersConfig = MetaparametersConfig()
    """What is perturbed."""

    outer: OuterConfig = OuterConfig(update=OuterUpdate.SIGN)
    """Outer descent, for the recipe that a search writes; nothing else reads it."""

    replay: ReplayConfig = ReplayConfig()
    """The size of the stages."""

    smoothness: SmoothnessConfig = SmoothnessConfig()
    """How metasmoothness is measured."""

    @property
    def descent(self) -> DescentRecipe:
        """The recipe of a descent with the same training."""
        shared = self.model_dump(include=set(DescentRecipe.model_fields) - {"kind"})
        return DescentRecipe.model_validate(shared)

    @model_validator(mode="after")
    def _trains(self) -> "SmoothRecipe":
        _ = self.descent  # refuses what does not fit together
        return self


class MetasmoothnessRecipe(SmoothRecipe):
    """Metasmoothness of one routine."""

    kind: Literal["metasmoothness"] = "metasmoothness"
    """Which flow runs this recipe."""


class SearchConfig(Settings):
    """The design menu to try: a grid, a list, or both."""

    grid: dict[str, list[Any]] = {}
    """Setting, e.g. model.activation, to the values to try; all combinations are tried."""

    candidates: list[dict[str, Any]] = []
    """Routines to try besides: settings to their values."""

    learning_rates: list[Annotated[float, Field(gt=0)]] = []
    """Rates to re-tune each routine over, to compare routines at the same validation loss; empty
    means half, once, twice, four and eight times training.learning_rate."""

    tolerance: Annotated[float, Field(ge=0)] = 0.1
    """The smoothest routine is chosen among those whose validation loss is within this share of
    the lowest."""


class SmoothSearchRecipe(SmoothRecipe):
    """A search over the design menu, from the settings of this recipe."""

    kind: Literal["smooth-search"] = "smooth-search"
    """Which flow runs this recipe."""

    search: SearchConfig = SearchConfig()
    """What to try."""

    @model_validator(mode="after")
    def _can_be_tried(self) -> "SmoothSearchRecipe":
        _ = self.routines()
        return self

    @property
    def learning_rates(self) -> list[float]:
        """Rates to re-tune over, with the default filled in."""
        nominal = self.training.learning_rate
        return self.search.learning_rates or [factor * nominal for factor in (0.5, 1, 2, 4, 8)]

    def routines(self) -> dict[str, DescentRecipe]:
        """Return the routines to try by a name that says what is changed, the unchanged first.

        Raises:
            ValueError: If a change is of no setting, or to an impossible value.
        """
        combinations = itertools.product(*self.search.grid.values())
        grid = [dict(zip(self.search.grid, values, strict=True)) for values in combinations]
        base = self.descent.model_dump(mode="json")
        found: dict[str, DescentRecipe] = {"baseline": self.descent}
        for changes in [*grid, *self.search.candidates]:
            recipe = DescentRecipe.model_validate(_changed(base, changes))
            if recipe not in found.values():
                found[
                    ", ".join(f"{key.split('.')[-1]} {value}" for key, value in changes.items())
                ] = recipe
        return found


def at_rate(recipe: DescentRecipe, learning_rate: float) -> DescentRecipe:
    """Return the recipe with another learning rate."""
    changes = {"training.learning_rate": learning_rate}
    return DescentRecipe.model_validate(_changed(recipe.model_dump(mode="json"), changes))


def _changed(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    changed = {
        key: dict(value) if isinstance(value, dict) else value for key, value in content.items()
    }
    for key, value in changes.items():
        group, _, name = key.partition(".")
        if not name or group not in ("model", "optimizer", "training", "metaparameters"):
            raise ValueError(
                f"search names {key!r}, which is no setting of the menu. Write it as group.setting "
                "with a group of model, optimizer, training or metaparameters."
            )
        changed[group][name] = value
    return changed
