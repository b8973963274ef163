"""Settings of metasmoothness: how it is measured, and the search for a smooth routine."""

import itertools
import math
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from engine.recipes.descent import DescentRecipe, OuterSettings
from engine.recipes.problem_functions import refuse_other_code
from engine.recipes.settings import Settings, digest, with_setting
from engine.recipes.training import Retraining


class DirectionKind(StrEnum):
    """How a random direction of z is drawn."""

    EXAMPLE = "example"
    """Every coordinate by itself, from a standard normal distribution."""

    GROUP = "group"
    """One draw for each group (class) of examples."""

    COORDINATE = "coordinate"
    """One coordinate, drawn at random, moves by 1."""


class SmoothnessSettings(Settings):
    """How metasmoothness is measured."""

    directions: Annotated[int, Field(ge=1)] = 4
    """Random directions; each takes two trainings besides the one at z."""

    step: Annotated[float, Field(gt=0)] = 0.05
    """h: the trainings are at z, z + h v and z + 2 h v."""

    by: DirectionKind | None = None
    """Kind of direction; empty means by group (class) where z has one number for each example,
    else by example. Directions by example are mostly noise where examples are many."""

    landscape: Annotated[int, Field(ge=0)] = 6
    """More trainings along the first direction, for the figure."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seeds the directions."""

    retraining: Retraining = Retraining.BATCHED
    """Whether the trainings go one after the other, or as one batched run where the model is small
    enough and comes to the same."""

    def naming_settings(self) -> dict[str, Any]:
        """Return the settings that name a run: how trainings are carried out, if not by default."""
        default = type(self).model_fields["retraining"].default
        hidden = {"retraining"} if self.retraining is default else set[str]()
        return self.model_dump(mode="json", exclude=hidden)


_MENU = ("arguments", "optimizer", "training", "metaparameters")

_MOST_ROUTINES = 1000
"""Combinations of a grid; they are all validated when a recipe is read."""


class MetasmoothnessRecipe(DescentRecipe):
    """Metasmoothness of one routine, which is set up as for a descent."""

    kind: Literal["metasmoothness"] = "metasmoothness"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Which flow runs this recipe."""

    outer: OuterSettings = OuterSettings()
    """Outer descent of the recipe that a search writes; measuring does not read it."""

    smoothness: SmoothnessSettings = SmoothnessSettings()
    """How metasmoothness is measured."""

    @property
    def descent(self) -> DescentRecipe:
        """The recipe of a descent with the same training, under the name of this measurement."""
        return descent_of(self, f"{self.name}-{digest(self.smoothness.naming_settings())[:4]}")


class SearchSettings(Settings):
    """The design menu to try: a grid, a list, or both."""

    grid: dict[str, list[Any]] = {}
    """Setting, e.g. arguments.model.activation, to the values to try; all combinations are
    tried."""

    candidates: list[dict[str, Any]] = []
    """Routines to try besides: settings to their values."""

    learning_rates: list[Annotated[float, Field(gt=0)]] = []
    """Rates to re-tune each routine over, to compare routines at the same validation loss; empty
    means half, once, twice, four and eight times training.learning_rate."""

    tolerance: Annotated[float, Field(ge=0)] = 0.1
    """The smoothest routine is chosen among those whose validation loss is within this share of
    the lowest."""


class SmoothSearchRecipe(DescentRecipe):
    """A search over the design menu, from the settings of this recipe."""

    kind: Literal["smooth-search"] = "smooth-search"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Which flow runs this recipe."""

    outer: OuterSettings = OuterSettings()
    """Outer descent of the recipe that is written."""

    smoothness: SmoothnessSettings = SmoothnessSettings(landscape=0)
    """How metasmoothness is measured."""

    search: SearchSettings = SearchSettings()
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

    @property
    def descent(self) -> DescentRecipe:
        """The recipe of a descent with the unchanged training, under the name of this search."""
        settings = self.model_dump(mode="json", include={"search"})
        settings["smoothness"] = self.smoothness.naming_settings()
        return descent_of(self, f"{self.name}-{digest(settings)[:4]}")

    def trainings(self) -> list[DescentRecipe]:
        """Return the routines to try."""
        return list(self.routines().values())

    def changes_to_try(self) -> list[tuple[str, Any]]:
        """Return the changes that the grid and the list ask for."""
        listed = (pair for each in self.search.candidates for pair in each.items())
        return [*self.search.grid.items(), *listed]

    def measurement(self, descent: DescentRecipe) -> MetasmoothnessRecipe:
        """Return the recipe that measures a routine."""
        shared = descent.model_dump(mode="json", exclude={"kind"})
        smoothness = self.smoothness.model_dump(mode="json")
        return MetasmoothnessRecipe.model_validate({**shared, "smoothness": smoothness})

    def routines(self) -> dict[str, DescentRecipe]:
        """Return the routines to try by a name that says what is changed, the unchanged first.

        Raises:
            ValueError: If a change is of no setting, or to an impossible value.
        """
        number = math.prod(len(values) for values in self.search.grid.values())
        if number > _MOST_ROUTINES:
            raise ValueError(
                f"search.grid has {number} combinations, and each is trained several times. Name "
                f"fewer values, for at most {_MOST_ROUTINES} combinations."
            )
        combinations = itertools.product(*self.search.grid.values())
        grid = [dict(zip(self.search.grid, values, strict=True)) for values in combinations]
        unchanged = descent_of(self, self.name)
        base = unchanged.model_dump(mode="json")
        found: dict[str, DescentRecipe] = {"baseline": unchanged}
        for changes in [*grid, *self.search.candidates]:
            recipe = DescentRecipe.model_validate(_changed(base, changes))
            if recipe not in found.values():
                words = [f"{key.split('.')[-1]} {value}" for key, value in changes.items()]
                found[", ".join(words)] = recipe
        return found


def descent_of(recipe: DescentRecipe, name: str) -> DescentRecipe:
    """Return the recipe of a descent with the same training, data and cost, by another name."""
    shared = recipe.model_dump(mode="json", include=set(DescentRecipe.model_fields) - {"kind"})
    return DescentRecipe.model_validate({**shared, "name": name})


def at_rate(recipe: DescentRecipe, learning_rate: float) -> DescentRecipe:
    """Return the recipe with another learning rate."""
    changes = {"training.learning_rate": learning_rate}
    return DescentRecipe.model_validate(_changed(recipe.model_dump(mode="json"), changes))


def _changed(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    changed = content
    for key, value in changes.items():
        if "." not in key or key.partition(".")[0] not in _MENU:
            raise ValueError(
                f"search names {key!r}, which is not a setting of the menu. Write it as "
                f"group.setting with a group of {', '.join(_MENU)}, e.g. "
                "arguments.model.activation."
            )
        refuse_other_code(content, key, value, "search")
        changed = with_setting(changed, key, value)
    return changed
