"""Last stage of a search over the design menu: table, figure, Pareto set and chosen recipe."""

from typing import TYPE_CHECKING, Any

import yaml

from engine.applications.smoothness.figures import Point, draw_search
from engine.applications.smoothness.record import SmoothnessRecord
from engine.applications.smoothness.works import parts_of
from engine.errors import NonFiniteError
from engine.preflight.metasmoothness import CHAOS, INDEPENDENT
from engine.recipes.descent import DescentRecipe
from engine.recipes.settings import Document
from engine.recipes.smoothness import SmoothSearchRecipe, descent_of
from engine.reports.canvas import png
from engine.reports.sections import Figure, Number, Section, Table
from engine.reports.units import write_percent
from engine.reports.vector import vector
from engine.runs.finished import FinishedRun, how_made
from engine.runs.finishing import finish
from engine.runs.report import Report
from engine.stages.references import Ref
from engine.storage.location import join
from engine.storage.places import run_folder

if TYPE_CHECKING:
    import matplotlib.figure

FIGURE, CHOSEN = "search.png", "chosen.yaml"
"""Files in the run's folder."""

_RATES = {"nominal": "its own", "matched": "re-tuned"}
"""The two learning rates at which a routine is measured, in words."""

_NUMBERS = ("learning_rate", "validation", "test", "definition_1", "definition_2")
"""What is measured of a routine at a learning rate."""

_COLUMNS = (
    "Metasmoothness: higher is smoother, 1 is a linear response. Curvature: lower is smoother. The "
    "Pareto set has the routines than which no other is both smoother and better."
)


class Measured(Document):
    """A routine at one learning rate."""

    learning_rate: float
    """The rate."""

    validation: float
    """Validation loss of the training at z."""

    test: float
    """Test loss."""

    definition_1: float
    """Mean over the directions; lower is smoother."""

    definition_2: float
    """Mean over the directions; higher is smoother."""

    run: str
    """The measurement's own run, with its figure."""

    pareto: bool = False
    """Whether no other routine is both smoother and better."""


class Trial(Document):
    """Result of one routine of the menu."""

    name: str
    """What is changed."""

    nominal: Measured | None
    """At the learning rate that its settings name; none if the training diverged."""

    rates: dict[str, float | None]
    """Learning rate to validation loss; none where the training diverged."""

    matched: Measured | None
    """At the rate whose validation loss is closest to the baseline's."""

    failed: str | None = None
    """Why there is no measurement."""


class SearchRecord(FinishedRun):
    """Everything that is known of a finished search."""

    recipe: SmoothSearchRecipe  # pyright: ignore[reportIncompatibleVariableOverride] (it is frozen)
    """The settings that made it."""

    trials: list[Trial]
    """The routines, the baseline first."""

    target: float
    """Validation loss that the rates are re-tuned for."""

    chosen: str
    """Name of the chosen routine."""

    learning_rate: float
    """Its learning rate."""

    recipe_url: str
    """The chosen routine as a recipe for ``mgd run``."""

    bulky = frozenset({"train"})

    def refs_to_keep(self, store: str) -> list[Ref]:  # noqa: ARG002 (asked of any kind)
        """Return none: what was trained is scored, and measurements are runs by themselves."""
        return []

    def parts(self) -> list[str]:
        """Return the measurements, and the trainings that match losses."""
        return list(parts_of(self.recipe))

    @property
    def point(self) -> Measured:
        """The chosen routine at its learning rate."""
        (trial,) = (each for each in self.trials if each.name == self.chosen)
        points = [each for each in (trial.nominal, trial.matched) if each is not None]
        return next(each for each in points if each.learning_rate == self.learning_rate)

    def headline(self) -> str:
        """Return which routine was chosen, and how smooth and good it is."""
        point = self.point
        return (
            f"Chosen: {self.chosen}, learning rate {point.learning_rate:g}: metasmoothness "
            f"{point.definition_2:.3f}, validation loss {point.validation:.4f}."
        )

    def numbers(self) -> list[Number]:
        """Return smoothness and loss of the chosen routine, beside the baseline's."""
        point, before = self.point, self.trials[0].nominal
        smooth, loss = (
            ("", "")
            if before is None
            else (f"baseline {before.definition_2:.3f}", f"baseline {before.validation:.4f}")
        )
        return [
            Number("Metasmoothness (Definition 2)", f"{point.definition_2:.3f}", smooth),
            Number("Validation loss", f"{point.validation:.4f}", loss),
            Number("Learning rate", f"{point.learning_rate:g}"),
        ]

    def findings(self) -> list[str]:
        """Say which routine was chosen, how it compares, and which diverged."""
        lines, baseline = [self.headline()], self.trials[0]
        (chosen,) = (each for each in self.trials if each.name == self.chosen)
        if chosen is baseline:
            share = write_percent(self.recipe.search.tolerance)
            lines.append(f"No routine within {share} of the lowest validation loss is smoother.")
        for kind, words in (
            ()
            if chosen is baseline
            else (
                ("nominal", "At the same learning rate"),
                ("matched", f"At a validation loss near {self.target:.4f}"),
            )
        ):
            before, after = getattr(baseline, kind), getattr(chosen, kind)
            if before is not None and after is not None:
                lines.append(
                    f"{words}: metasmoothness {after.definition_2:.3f}, and "
                    f"{before.definition_2:.3f} for the baseline (Definition 2, higher is "
                    f"smoother); curvature {after.definition_1:.3g} and {before.definition_1:.3g} "
                    f"(Definition 1, lower is smoother); validation loss {after.validation:.4f} "
                    f"and {before.validation:.4f}."
                )
        failed = [trial.name for trial in self.trials if trial.nominal is None]
        return lines + (
            [f"Diverged at their own learning rate: {'; '.join(failed)}."] * bool(failed)
        )

    def next_steps(self) -> list[str]:
        """Say where the chosen routine is, as a recipe."""
        return [f"Recipe: {self.recipe_url}"]

    def table(self) -> list[dict[str, Any]]:
        """Return a row for each routine at its own learning rate, and one at the re-tuned rate."""
        return [
            {"routine": row.pop("routine"), "learning rate is": words, **row}
            for kind, words in _RATES.items()
            for row in _rows(self, kind)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row of numbers for each routine at each of its rates; None where it diverged."""
        return [
            {
                "routine": trial.name,
                "rate_is": kind,
                **{name: getattr(point, name, None) for name in _NUMBERS},
                "pareto": point is not None and point.pareto,
                "chosen": self._is_chosen(trial, point),
            }
            for kind in _RATES
            for trial, point in self._points(kind)
        ]

    def _points(self, kind: str) -> list[tuple[Trial, Measured | None]]:
        return [(trial, getattr(trial, kind)) for trial in self.trials]

    def _is_chosen(self, trial: Trial, point: Measured | None) -> bool:
        return trial.name == self.chosen and point is self.point

    def outcome(self) -> dict[str, Any]:
        """Return all trials, and what was chosen."""
        return {
            "trials": [trial.model_dump(mode="json") for trial in self.trials],
            "target": self.target,
            "chosen": self.chosen,
            "learning_rate": self.learning_rate,
            "chosen_recipe": self.recipe_url,
        }

    def content(self, store: str) -> dict[str, Any]:
        """Return the record as the JSON object that ``--json`` prints."""
        return {**super().content(store), "figure": self.url(store, FIGURE)}


def measured(record: SmoothnessRecord) -> Measured:
    """Return the numbers of a measurement that a search keeps."""
    return Measured(
        learning_rate=record.recipe.training.learning_rate,
        validation=record.scores["validation"]["loss"],
        test=record.scores["test"]["loss"],
        definition_1=record.definition_1.mean,
        definition_2=record.definition_2.mean,
        run=record.run,
    )


def target_loss(nominal: list[Measured | None]) -> float:
    """Return the validation loss to match: the baseline's, or the lowest if that diverged.

    Raises:
        NonFiniteError: If every routine diverged.
    """
    found = [each.validation for each in nominal if each is not None]
    if not found:
        raise NonFiniteError(
            "Every routine of the search diverged, or none of its parameters moved. Use a lower "
            "training.learning_rate."
        )
    baseline = nominal[0]
    return min(found) if baseline is None else baseline.validation


def closest_rate(losses: dict[float, float | None], target: float) -> float | None:
    """Return the rate whose validation loss is closest to the target; None if all diverged."""
    found = {rate: abs(loss - target) for rate, loss in losses.items() if loss is not None}
    return min(found, key=lambda rate: found[rate]) if found else None


def pareto(points: list[Measured | None]) -> list[bool]:
    """Say of each point whether no other has a lower loss and is at least as smooth, or the like.

    Loss is that of validation, smoothness Definition 2.
    """

    def dominated(point: Measured) -> bool:
        return any(
            other is not None
            and other.validation <= point.validation
            and other.definition_2 >= point.definition_2
            and (other.validation, other.definition_2) != (point.validation, point.definition_2)
            for other in points
        )

    return [point is not None and not dominated(point) for point in points]


def choose(trials: list[Trial], tolerance: float) -> tuple[Trial, Measured]:
    """Return the smoothest routine among those whose validation loss is close to the lowest."""
    found = [
        (trial, point)
        for trial in trials
        for point in (trial.nominal, trial.matched)
        if point is not None
    ]
    limit = min(point.validation for _, point in found) * (1 + tolerance)
    close = [(trial, point) for trial, point in found if point.validation <= limit]
    return max(close, key=lambda pair: (pair[1].definition_2, -pair[1].validation))


def conclude(
    recipe: SmoothSearchRecipe, store: str, trials: list[Trial], started: str
) -> SearchRecord:
    """Mark the Pareto sets, choose a routine, and write record, report, figure and recipe.

    What was trained to match losses becomes the search's own; measurements are runs by themselves.
    """
    target, marked = target_loss([trial.nominal for trial in trials]), _marked(trials)
    trial, point = choose(marked, recipe.search.tolerance)
    made = how_made(recipe, started)
    record = SearchRecord(
        **made,
        trials=marked,
        target=target,
        chosen=trial.name,
        learning_rate=point.learning_rate,
        recipe_url=join(run_folder(store, made["run"]), CHOSEN),
    )
    return finish(store, record, _report)


def _report(record: SearchRecord) -> Report:
    """Return the figure and the table, and the chosen routine as a recipe."""
    recipe = record.recipe
    nominal, matched = (
        [
            Point(each.name, found.validation, found.definition_2, found.pareto)
            for each in record.trials
            if (found := getattr(each, kind)) is not None
        ]
        for kind in ("nominal", "matched")
    )
    chosen = recipe.routines()[record.chosen]

    def draw() -> "matplotlib.figure.Figure":
        return draw_search(nominal, matched, record.target)

    files = {
        FIGURE: png(draw()),
        CHOSEN: _as_yaml(chosen, record.learning_rate, recipe.name).encode(),
    }
    shown = Figure(
        vector(draw),
        "Metasmoothness of each routine against its validation loss, at equal and at re-tuned "
        "learning rates, with the Pareto set marked",
        "Metasmoothness (Definition 2) against validation loss: above at the same learning rate "
        "for all, below at the rate whose loss is nearest to the baseline's. Dashed: what a "
        f"training has whose steps move the parameters independently ({INDEPENDENT:.2f}), and one "
        f"that is chaotic ({CHAOS:.2f}).",
    )
    sections = [
        Section("Smoothness and loss", figures=[shown]),
        Section(
            "Routines at their own learning rate",
            notes=[_COLUMNS],
            tables=[_table(record, "nominal")],
        ),
        Section(
            f"Routines at a learning rate for a validation loss near {record.target:.4f}",
            tables=[_table(record, "matched")],
        ),
    ]
    return Report(f"Search for a smooth routine: {recipe.name}", sections, files=files)


def _marked(trials: list[Trial]) -> list[Trial]:
    changes: list[dict[str, Any]] = [{} for _ in trials]
    for kind in ("nominal", "matched"):
        points = [getattr(trial, kind) for trial in trials]
        for change, point, best in zip(changes, points, pareto(points), strict=True):
            if point is not None:
                change[kind] = point.model_copy(update={"pareto": best})
    return [trial.model_copy(update=change) for trial, change in zip(trials, changes, strict=True)]


def _as_yaml(recipe: DescentRecipe, learning_rate: float, search: str) -> str:
    """Write a routine as a recipe; settings that have their default are left out."""
    named = descent_of(recipe, f"{search}-chosen")
    content = named.model_dump(mode="json", exclude_defaults=True)
    content["description"] = f"The routine that the search {search} chose."
    content.setdefault("training", {})["learning_rate"] = learning_rate
    return yaml.safe_dump({"kind": "descent", **content}, sort_keys=False)


def _table(record: SearchRecord, kind: str) -> Table:
    chosen = [n for n, each in enumerate(record._points(kind)) if record._is_chosen(*each)]
    return Table(_rows(record, kind), marked=dict.fromkeys(chosen, "chosen"))


def _rows(record: SearchRecord, kind: str) -> list[dict[str, Any]]:
    """Return a row for each routine, at one of its two learning rates."""
    rows = []
    for trial, point in record._points(kind):
        rate, loss, first, second, best = ("-", "-", "-", "-", "")
        if point is not None:
            rate, loss = f"{point.learning_rate:g}", f"{point.validation:.4f}"
            first, second = f"{point.definition_1:.3g}", f"{point.definition_2:.3f}"
            best = "yes" if point.pareto else ""
        rows.append(
            {
                "routine": trial.name + (" (chosen)" if record._is_chosen(trial, point) else ""),
                "learning rate": rate,
                "validation loss": loss,
                "curvature (Definition 1)": first,
                "metasmoothness (Definition 2)": second,
                "Pareto set": best,
            }
        )
    return rows
