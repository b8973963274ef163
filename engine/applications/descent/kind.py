"""The kind of recipe that this application answers; loads nothing."""

from engine.recipes.kinds import Kind

KINDS = {
    "descent": Kind(
        recipe="engine.recipes.descent:DescentRecipe",
        record="engine.applications.descent.record:RunRecord",
        flow="flows.descent:descent",
        verify="engine.applications.descent.certificate:verify",
    )
}
