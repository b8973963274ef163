"""Last stage of a measurement of metasmoothness: gathers it and writes record and report."""

from typing import TYPE_CHECKING

from engine.applications.smoothness.figures import draw_directions, draw_landscape
from engine.applications.smoothness.record import (
    FIGURE,
    DefinitionRecord,
    SmoothnessRecord,
    Trained,
)
from engine.preflight.metasmoothness import gather
from engine.recipes.smoothness import MetasmoothnessRecipe
from engine.reports.canvas import png
from engine.reports.sections import Figure, Section, Table
from engine.reports.vector import vector
from engine.runs.finished import how_made
from engine.runs.finishing import finish
from engine.runs.report import Report
from engine.runs.run import Stages
from engine.stages.commits import read_scalars
from engine.stages.references import Ref

if TYPE_CHECKING:
    import matplotlib.figure


def conclude(  # noqa: PLR0913 (what a measurement is made of)
    recipe: MetasmoothnessRecipe,
    store: str,
    trained: Trained,
    scores: Ref,
    counts: Stages,
    started: str,
    one_by_one: str | None = None,
) -> SmoothnessRecord:
    """Gather the measurement and write ``run.json``, ``report.html`` and ``landscape.png``.

    Args:
        recipe: What was measured.
        store: fsspec URL of the store.
        trained: The stages that compared trainings along the directions.
        scores: The evaluation at z.
        counts: How the stages were done.
        started: UTC time of the start, ISO 8601.
        one_by_one: Why the trainings were no batched run, if they were asked to be.
    """
    compared = trained.compared(store)
    step = recipe.smoothness.step
    found = gather(
        [each["definition_1"] for each in compared],
        [each["definition_2"] for each in compared],
        step,
    )
    heights = trained.outputs(store)
    if heights:
        heights |= dict(zip((0.0, step, 2 * step), compared[0]["outputs"], strict=True))
    record = SmoothnessRecord(
        **how_made(recipe, started),
        stages=counts,
        compared=trained.directions,
        heights=[ref for ref in trained.heights.values() if ref not in trained.directions],
        scored=scores,
        definition_1=DefinitionRecord.model_validate(found.definition_1.content()),
        definition_2=DefinitionRecord.model_validate(found.definition_2.content()),
        step=step,
        scores=read_scalars(store, scores),
        landscape=sorted(heights.items()),
        one_by_one=one_by_one,
    )
    return finish(store, record, _report)


def _report(record: SmoothnessRecord) -> Report:
    """Return the directions, and the landscape if there is one, also as a file."""
    name, files, sections = record.recipe.metaparameters.name, {}, []
    if record.landscape:

        def draw() -> "matplotlib.figure.Figure":
            return draw_landscape(record.landscape, record.step, name)

        files[FIGURE] = png(draw())
        figure = Figure(
            vector(draw),
            f"Objective loss along one direction of {name.value}, with the three points that are "
            "compared marked",
            "The objective of trainings along one random direction v from z. A smooth training "
            "gives a curve without jumps, almost straight over the three marked points; a chaotic "
            "one jumps between neighbours.",
        )
        sections.append(Section("Landscape", figures=[figure]))
    agreements = record.definition_2.directions
    figure = Figure(
        vector(lambda: draw_directions(agreements, record.definition_2.mean)),
        f"Definition 2 along each of {len(agreements)} directions, beside the values that "
        "independent increments and chaos would have",
        "Definition 2 along each direction: how far the parameters move alike in the first and in "
        "the second step along it. Dashed: what it is where a training answers evenly, where both "
        "moves have nothing to do with one another, and where the training is chaotic.",
    )
    sections.append(Section("Directions", figures=[figure], tables=[Table(record.table())]))
    return Report(f"Metasmoothness of {record.recipe.name}", sections, files=files)
