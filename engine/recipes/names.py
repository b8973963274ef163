"""The name of a run, made from its recipe."""

from engine.recipes.descent import DescentRecipe
from engine.recipes.settings import digest


def run_name(recipe: DescentRecipe) -> str:
    """Name a run by its recipe: the same settings are the same run, and go on where it stopped.

    Budget, workers, micro-batch and what follows a preflight are no part of it: a run may go on
    with a larger one, with others, in smaller pieces after its memory ran out, and all the same.
    """
    cost = {
        "budget": True,
        "workers": True,
        "preflight": True,
        "folder": True,
        "replay": {"micro_batch"},
    }
    settings = recipe.model_dump(mode="json", exclude=cost)
    outer = settings.get("outer", {})
    if (outer.get("choose_by"), outer.get("choose")) == ("loss", None):  # as it always was
        del outer["choose_by"], outer["choose"]
    return f"{recipe.name}-{digest(settings)[:8]}"
