"""What a measurement of metasmoothness leaves: its record, and a report with the landscape."""

from datetime import UTC, datetime
from typing import Any

from engine.applications.smoothness.figures import draw_landscape
from engine.preflight.metasmoothness import Metasmoothness, explain, gather
from engine.recipes.names import run_name
from engine.recipes.settings import Settings
from engine.recipes.smoothness import MetasmoothnessRecipe, SmoothSearchRecipe
from engine.reports.page import REPORT, Section, how_made, write_page
from engine.runs.endings import Ending, Finished
from engine.runs.finishing import Needs, finish
from engine.runs.run import Scores, Stages, begin_run
from engine.stages.commits import read_scalars
from engine.stages.keys import engine_version, run_environment
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.training import prepare as prepare_descent
from engine.storage.location import join
from engine.storage.places import run_folder
from engine.storage.records import write_bytes

BULKY = frozenset({"train", "train-at"})
"""Kinds of stages whose states only repeat a measurement."""

FIGURE = "landscape.png"
"""File in the run's folder, beside the report."""


class DefinitionRecord(Settings):
    """One definition of metasmoothness along several directions."""

    mean: float
    """Mean over the directions along which something moved."""

    spread: float | None
    """Standard deviation over them; none for a single one."""

    directions: list[float | None]
    """The value along each direction; none where nothing moved."""


class SmoothnessRecord(Finished):
    """Everything that is known of a finished measurement."""

    recipe: MetasmoothnessRecipe
    """The settings that made it."""

    definition_1: DefinitionRecord
    """Second difference of the output per h^2; lower is smoother."""

    definition_2: DefinitionRecord
    """Agreement of the parameters' moves, from -1 to 1; higher is smoother."""

    step: float
    """h."""

    scores: dict[str, Scores]
    """Split (objective, validation, test) to scores of the training at z."""

    landscape: list[tuple[float, float]]
    """Distance along the first direction, in units of it, to the output, in order."""

    summary: list[str]
    """What the numbers mean, in sentences."""

    stages: Stages
    """How many stages, cached and retried."""

    environment: dict[str, Any]
    """What the bits depend on besides the recipe."""

    def content(self, store: str) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        folder = run_folder(store, self.run)
        shown = {"run", "definition_1", "definition_2", "step", "landscape", "stages"}
        return {
            "recipe": self.recipe.name,
            "store": store,
            "seconds": round(self.seconds, 3),
            **self.model_dump(mode="json", include=shown),
            "validation": self.scores["validation"],
            "test": self.scores["test"],
            "report": join(folder, REPORT),
            "figure": join(folder, FIGURE) if self.landscape else None,
        }


def prepare(recipe: MetasmoothnessRecipe | SmoothSearchRecipe, store: str) -> None:
    """Refuse what cannot be measured, and keep the settings of what can.

    Raises:
        ConfigurationError: With the value, the reason and the remedy.
    """
    several = isinstance(recipe, SmoothSearchRecipe)
    tried = list(recipe.routines().values()) if several else [recipe.descent]
    for descent in tried:
        prepare_descent(Run(descent, store))
    begin_run(recipe, store)


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

    The result needs the points, comparisons and scores; the trainings only repeat it.

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
        run=run_name(recipe.descent),
        recipe=recipe,
        started=started,
        seconds=(datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds(),
        definition_1=DefinitionRecord.model_validate(found.definition_1.content()),
        definition_2=DefinitionRecord.model_validate(found.definition_2.content()),
        step=step,
        scores=read_scalars(store, scores),
        landscape=sorted(heights.items()),
        summary=_summary(found, read_scalars(store, scores)),
        stages=counts,
        environment={"engine": engine_version(), **run_environment(recipe.descent)},
    )
    ending = Ending(summary=record.summary, table=_directions(record))
    record = record.model_copy(update={"ending": ending})
    needs = Needs(BULKY, [*comparisons, *landscape.values(), scores])
    return finish(store, record, needs, lambda record: _write_pages(record, store, counts))


def _write_pages(record: SmoothnessRecord, store: str, counts: Stages) -> None:
    """Write the report, and the landscape beside it if there is one."""
    recipe, folder = record.recipe, run_folder(store, record.run)
    sections = [
        Section(lines=record.summary),
        Section(heading="Directions", table=_directions(record)),
    ]
    if record.landscape:
        image = draw_landscape(record.landscape, record.step, recipe.metaparameters.name)
        write_bytes(join(folder, FIGURE), image)
        sections.append(
            Section(heading="Landscape", image=image, caption="The output along one direction.")
        )
    made = {"Run": record.run, **how_made(record, counts)}
    write_page(folder, f"Metasmoothness of {recipe.name}", sections, made, recipe)


def _directions(record: SmoothnessRecord) -> list[dict[str, str]]:
    """Return both definitions along each direction, as a table."""
    pairs = zip(record.definition_1.directions, record.definition_2.directions, strict=True)
    return [
        {
            "direction": str(number),
            "Definition 1": "-" if first is None else f"{first:.3g}",
            "Definition 2": "-" if second is None else f"{second:.3f}",
        }
        for number, (first, second) in enumerate(pairs)
    ]


def _summary(found: Metasmoothness, scores: dict[str, Scores]) -> list[str]:
    losses = ", ".join(f"{split} {each['loss']:.4f}" for split, each in scores.items())
    return [*explain(found), f"Losses of the training at z: {losses}."]
