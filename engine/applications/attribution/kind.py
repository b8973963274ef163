"""The kind of recipe that this application answers; loads nothing."""

from engine.recipes.kinds import Kind

KINDS = {
    "attribution": Kind(
        recipe="engine.recipes.attribution:AttributionRecipe",
        record="engine.applications.attribution.record:AttributionRecord",
        flow="flows.attribution:attribution",
        check="engine.applications.attribution.stages:preflight",
        works="engine.applications.attribution.works:works",
        verify="engine.applications.attribution.certificate:verify",
    )
}
