"""The end of a measurement of metasmoothness: put together, and shown in a report."""

from engine.applications.smoothness.figures import draw_landscape
from engine.applications.smoothness.record import FIGURE, DefinitionRecord, SmoothnessRecord
from engine.preflight.metasmoothness import gather
from engine.recipes.smoothness import MetasmoothnessRecipe
from engine.reports.sections import Figure, Section, Table
from engine.runs.finished import how_made
from engine.runs.finishing import finish
from engine.runs.report import Report
from engine.runs.run import Stages
from engine.stages.commits import read_scalars
from engine.stages.references import Ref


def conclude(  # noqa: PLR0913 (what a measurement is made of)
    recipe: MetasmoothnessRecipe,
    store: str,
    comparisons: list[Ref],
    landscape: dict[float, Ref],
    scores: Ref,
    counts: Stages,
    started: str,
) -> SmoothnessRecord:
    """Put the measurement together; write ``run.json``, ``report.html`` and ``landscape.png``.

    Args:
        recipe: What was measured.
        store: fsspec URL of the store.
        comparisons: One stage for each direction.
        landscape: Distance along the first direction to the stage that has the output there.
        scores: The evaluation at z.
        counts: How the stages were done.
        started: UTC time of the start, ISO 8601.
    """
    compared = [read_scalars(store, ref) for ref in comparisons]
    step = recipe.smoothness.step
    found = gather(
        [each["definition_1"] for each in compared],
        [each["definition_2"] for each in compared],
        step,
    )
    heights = {distance: read_scalars(store, ref)["output"] for distance, ref in landscape.items()}
    if heights:
        heights |= dict(zip((0.0, step, 2 * step), compared[0]["outputs"], strict=True))
    record = SmoothnessRecord(
        **how_made(recipe, started),
        stages=counts,
        compared=comparisons,
        heights=list(landscape.values()),
        scored=scores,
        definition_1=DefinitionRecord.model_validate(found.definition_1.content()),
        definition_2=DefinitionRecord.model_validate(found.definition_2.content()),
        step=step,
        scores=read_scalars(store, scores),
        landscape=sorted(heights.items()),
    )
    return finish(store, record, _report)


def _report(record: SmoothnessRecord) -> Report:
    """Return the directions, and the landscape if there is one, also as a file."""
    sections, files = [Section("Directions", tables=[Table(record.table())])], {}
    if record.landscape:
        name = record.recipe.metaparameters.name
        files[FIGURE] = draw_landscape(record.landscape, record.step, name)
        shown = Figure(
            files[FIGURE],
            f"Objective loss along one direction of {name.value}, with the three points that are "
            "compared marked",
            "The output along one direction.",
        )
        sections.insert(0, Section("Landscape", figures=[shown]))
    return Report(f"Metasmoothness of {record.recipe.name}", sections, files=files)
