"""What a measurement of metasmoothness leaves: its record, and a report with the landscape."""

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.commits import read_scalars
from engine.config import DescentRecipe
from engine.keys import Ref, engine_version, run_environment
from engine.location import join
from engine.metasmoothness import Metasmoothness, explain, gather
from engine.records import write_bytes, write_record
from engine.runs import Scores, Stages, run_folder, run_name
from engine.settings import Settings
from engine.smooth_recipes import MetasmoothnessRecipe, SmoothSearchRecipe
from engine.smoothness_figures import draw_landscape
from engine.stages import prepare as prepare_descent

REPORT, FIGURE = "report.html", "landscape.png"
"""Files in the run's folder."""


class DefinitionRecord(Settings):
    """One definition of metasmoothness along several directions."""

    mean: float
    """Mean over the directions along which something moved."""

    spread: float | None
    """Standard deviation over them; none for a single one."""

    directions: list[float | None]
    """The value along each direction; none where nothing moved."""


class SmoothnessRecord(Settings):
    """Everything that is known of a finished measurement."""

    run: str
    """Name of the run."""

    recipe: MetasmoothnessRecipe
    """The settings that made it."""

    started: str
    """UTC, ISO 8601."""

    seconds: float
    """Wall clock of the flow."""

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
        prepare_descent(descent, store)
    folder = run_folder(store, run_name(recipe.descent))
    write_record(join(folder, "recipe.json"), recipe.model_dump(mode="json"))


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
    folder = run_folder(store, record.run)
    images = {}
    if record.landscape:
        images[FIGURE] = draw_landscape(record.landscape, step, recipe.metaparameters.name)
    write_page(folder, f"Metasmoothness of {recipe.name}", record.summary, [], images, recipe)
    write_record(join(folder, "run.json"), record.model_dump(mode="json"))
    return record


def write_page(
    folder: str,
    title: str,
    lines: list[str],
    table: list[dict[str, Any]],
    images: dict[str, bytes],
    recipe: DescentRecipe,
) -> None:
    """Write images and an HTML report that holds them into a run's folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sources = [
        "data:image/png;base64," + base64.b64encode(image).decode() for image in images.values()
    ]
    page = pages.get_template("smoothness.html").render(
        title=title,
        lines=lines,
        table=table,
        images=sources,
        settings=recipe.model_dump_json(indent=2),
    )
    for name, image in images.items():
        write_bytes(join(folder, name), image)
    write_bytes(join(folder, REPORT), page.encode())


def _summary(found: Metasmoothness, scores: dict[str, Scores]) -> list[str]:
    losses = ", ".join(f"{split} {each['loss']:.4f}" for split, each in scores.items())
    return [*explain(found), f"Losses of the training at z: {losses}."]
