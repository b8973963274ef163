"""A run as every stage is given it: a recipe on a store."""

from dataclasses import dataclass
from functools import cached_property

from engine.planning.plan import settled
from engine.problems.built import BuiltProblem, build_problem
from engine.recipes.descent import DescentRecipe
from engine.recipes.names import run_name
from engine.stages.same_data import agrees, check_data
from engine.storage.places import run_file, run_folder


@dataclass(frozen=True)
class Run:
    """A recipe on a store.

    Making one costs nothing; what a recipe stands for is read when it is asked for.

    Attributes:
        recipe: The set-up.
        store: fsspec URL of the store.
    """

    recipe: DescentRecipe
    store: str

    @cached_property
    def problem(self) -> BuiltProblem:
        """What the recipe stands for, on its device; see ``build_problem`` for what it raises.

        It is compared with what the run began with, see ``engine.stages.same_data``. A worker that
        has built it for an earlier start, with other data, builds it once more.
        """
        found = build_problem(self.recipe, self.store)
        if not agrees(self.store, self.name, found):
            found = build_problem(self.recipe, self.store, anew=True)
        check_data(self.store, self.name, found, self.recipe.problem)
        return found

    @property
    def settled(self) -> DescentRecipe:
        """The recipe with the product of a step named; see ``engine.planning.plan.settled``."""
        return settled(self.recipe, self.store)

    @property
    def name(self) -> str:
        """What the run is called in its store."""
        return run_name(self.recipe)

    @property
    def folder(self) -> str:
        """Where its files lie."""
        return run_folder(self.store, self.name)

    def file(self, name: str) -> str:
        """Return where a file of the run lies, by a name of ``engine.storage.places``."""
        return run_file(self.store, self.name, name)
