"""The kind of recipe that this application answers; loads nothing."""

from engine.recipes.kinds import Kind

KINDS = {
    "canaries": Kind(
        recipe="engine.recipes.canaries:CanariesRecipe",
        record="engine.applications.canaries.record:CanariesRecord",
        flow="flows.canaries:canaries",
        works="engine.applications.canaries.works:works",
    )
}
