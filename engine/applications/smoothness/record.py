"""Record of a finished measurement of metasmoothness."""

from typing import Any

from engine.preflight.metasmoothness import Metasmoothness, explain, gather, what_it_means
from engine.recipes.settings import Document
from engine.recipes.smoothness import MetasmoothnessRecipe, SmoothSearchRecipe
from engine.reports.curves import Curve
from engine.reports.sections import Number
from engine.reports.units import write_number
from engine.runs.finished import FinishedRun
from engine.runs.run import Scores, begin_run
from engine.stages.commits import read_scalars
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.training import prepare as prepare_descent

FIGURE = "landscape.png"
"""File in the run's folder, beside the report."""


class Trained(Document):
    """The stages that compared the trainings along the directions: one for all, or one for each."""

    directions: list[Ref]
    """What compared the trainings along a direction, or along all of them."""

    heights: dict[float, Ref]
    """Distance along the first direction to what has the output there, besides those compared."""

    def compared(self, store: str) -> list[dict[str, Any]]:
        """Return definitions and outputs along each direction."""
        found = [read_scalars(store, ref) for ref in self.directions]
        return [each for one in found for each in one.get("compared", [one])]

    def outputs(self, store: str) -> dict[float, float]:
        """Return the output at each of the distances."""
        together = [ref for ref in self.heights.values() if ref in self.directions]
        if together:
            outputs = read_scalars(store, together[0])["outputs"]
            return dict(zip(self.heights, outputs, strict=True))
        return {
            distance: read_scalars(store, ref)["output"] for distance, ref in self.heights.items()
        }


class DefinitionRecord(Document):
    """One definition of metasmoothness along several directions."""

    mean: float
    """Mean over the directions along which something moved."""

    spread: float | None
    """Standard deviation over them; none for a single one."""

    directions: list[float | None]
    """The value along each direction; none where nothing moved."""


class SmoothnessRecord(FinishedRun):
    """Settings, results and stages of a finished measurement."""

    bulky = frozenset({"train", "train-at"})

    recipe: MetasmoothnessRecipe  # pyright: ignore[reportIncompatibleVariableOverride] (it is frozen)
    """The settings that made it."""

    compared: list[Ref]
    """One stage for each direction, or one for all."""

    heights: list[Ref]
    """The stages that have the output along the first direction."""

    scored: Ref
    """The evaluation at z."""

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

    one_by_one: str | None = None
    """Why the trainings went one by one, where they were asked to go as one batched run."""

    def refs_to_keep(self, store: str) -> list[Ref]:  # noqa: ARG002 (asked of any kind)
        """Return comparisons, points and scores; the trainings only repeat them."""
        return [*self.compared, *self.heights, self.scored]

    @property
    def metasmoothness(self) -> Metasmoothness:
        """Both definitions as they were measured."""
        first = [0.0 if each is None else each for each in self.definition_1.directions]
        return gather(first, self.definition_2.directions, self.step)

    def headline(self) -> str:
        """Return the verdict of Definition 2 on the training, in a sentence."""
        return what_it_means(self.definition_2.mean)

    def numbers(self) -> list[Number]:
        """Return both definitions, and the validation loss of the training."""
        return [
            Number(
                "Metasmoothness (Definition 2)",
                f"{self.definition_2.mean:.3f}",
                "1 is a linear response",
            ),
            Number(
                "Curvature (Definition 1)", f"{self.definition_1.mean:.3g}", "lower is smoother"
            ),
            Number("Validation loss at z", f"{self.scores['validation']['loss']:.4f}"),
        ]

    def findings(self) -> list[str]:
        """Say what the numbers mean, next to those of independent and of chaotic trainings."""
        losses = ", ".join(f"{split} {each['loss']:.4f}" for split, each in self.scores.items())
        lines = [*explain(self.metasmoothness), f"Losses of the training at z: {losses}."]
        if self.one_by_one is not None:
            lines.append(f"The trainings went one by one: {self.one_by_one}")
        return lines

    def table(self) -> list[dict[str, Any]]:
        """Return both definitions along each direction."""
        pairs = zip(self.definition_1.directions, self.definition_2.directions, strict=True)
        return [
            {
                "direction": str(number),
                "Definition 1": "-" if first is None else write_number(first),
                "Definition 2": "-" if second is None else f"{second:.3f}",
            }
            for number, (first, second) in enumerate(pairs)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row of numbers for each direction; None where nothing moved along it."""
        pairs = zip(self.definition_1.directions, self.definition_2.directions, strict=True)
        return [
            {"direction": number, "definition_1": first, "definition_2": second}
            for number, (first, second) in enumerate(pairs)
        ]

    def curves(self) -> list[Curve]:
        """Return the output along the first direction; none if it was not drawn."""
        if not self.landscape:
            return []
        return [Curve("output", "distance along the first direction", self.landscape)]

    def outcome(self) -> dict[str, Any]:
        """Return both definitions and the landscape."""
        shown = {"definition_1", "definition_2", "step", "landscape"}
        return {
            **self.model_dump(mode="json", include=shown),
            "validation": self.scores["validation"],
            "test": self.scores["test"],
        }

    def content(self, store: str) -> dict[str, Any]:
        """Return the record as the JSON object that ``--json`` prints."""
        figure = self.url(store, FIGURE) if self.landscape else None
        return {**super().content(store), "figure": figure}


def prepare(recipe: MetasmoothnessRecipe | SmoothSearchRecipe, store: str) -> None:
    """Refuse a recipe that cannot be measured, and keep the settings of any other.

    A rough run is what there is to measure. One that is not the user's is not: so the witness is
    asked, of what a preflight would ask.

    Raises:
        ConfigurationError: If a setting is refused; names its value, the reason and the remedy.
        WitnessError: If a step that the module takes by itself differs from the engine's.
    """
    for descent in recipe.trainings():
        prepare_descent(Run(descent, store), witness=True)
    begin_run(recipe, store)
