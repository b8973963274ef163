"""The kinds of recipes that this application answers; loads nothing."""

from engine.recipes.kinds import Kind

KINDS = {
    "metasmoothness": Kind(
        recipe="engine.recipes.smoothness:MetasmoothnessRecipe",
        record="engine.applications.smoothness.record:SmoothnessRecord",
        flow="flows.metasmoothness:metasmoothness",
        works="engine.applications.smoothness.works:works",
    ),
    "smooth-search": Kind(
        recipe="engine.recipes.smoothness:SmoothSearchRecipe",
        record="engine.applications.smoothness.search:SearchRecord",
        flow="flows.smooth_search:smooth_search",
        works="engine.applications.smoothness.works:works_of_search",
    ),
}
