"""A problem that is another one each time: when its function is called again, or its loss."""

from typing import TYPE_CHECKING

from engine.errors import ConfigurationError
from engine.problems.data.own_examples import drawn_when_read
from engine.problems.identity.names import BEHAVIOUR
from engine.problems.identity.tried import behaviour
from engine.recipes.descent import DescentRecipe

if TYPE_CHECKING:
    from engine.problems.built import BuiltProblem

_KEPT = (
    "something that is kept between calls (a counter, a cache, a value that only the first call "
    "sets), a clock, or random numbers that nobody seeds"
)


def check_alike(recipe: DescentRecipe, one: "BuiltProblem", other: "BuiltProblem") -> None:
    """Refuse a problem that two calls made differently, or whose steps differ when tried again.

    What differs with the number of calls would not be seen in two calls of the function: each
    begins to count anew, and the first step of a run has been tried before it.

    Args:
        recipe: Names the problem.
        one: What a call of its function made.
        other: What another call made, under the same seeds.

    Raises:
        ConfigurationError: Says what differs.

    Cost:
        Two training steps.
    """
    differing = [
        what for what in {**one.digests, **other.digests}
        if one.digests.get(what) != other.digests.get(what)
    ]  # fmt: skip
    drawn = drawn_when_read(one.data.splits) if "examples" in differing else []
    if drawn:
        raise ConfigurationError(
            f"The examples of {' and '.join(drawn)} of problem {recipe.problem} are others each "
            "time that they are read, but a step that is run again has to read what it read. A "
            "data set or collate function must draw no random numbers: do that in "
            "`augment(batch, generator)` of the engine.Problem, with that generator, which is "
            "seeded by the step."
        )
    if differing and differing != [BEHAVIOUR]:
        raise ConfigurationError(
            f"Two calls of the function of problem {recipe.problem} returned different "
            f"{' and '.join(differing)}, although torch, numpy and random were seeded alike. Draw "
            "from those generators, or from one that the function seeds itself, and read no clock."
        )
    if differing or behaviour(recipe, one) != one.digests.get(BEHAVIOUR, ""):
        raise ConfigurationError(
            f"The code of problem {recipe.problem} computes something else when the same steps are "
            f"tried again: other {BEHAVIOUR}. Its loss, update, output or a score depends on "
            f"{_KEPT}. A step that is run again, by a worker too, has to compute what it computed. "
            "Make it a function of the model, the batch and, where a run has one, the `state`; "
            "leave a score that measures time out; and draw random numbers from torch, whose "
            "generator is seeded by the step."
        )
