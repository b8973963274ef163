"""The end of a search over the design menu: table, figure, Pareto set and the chosen recipe."""

from datetime import UTC, datetime
from typing import Any

import yaml

from engine.applications.smoothness.figures import Point, draw_search
from engine.applications.smoothness.record import SmoothnessRecord
from engine.errors import NonFiniteError
from engine.recipes.descent import DescentRecipe
from engine.recipes.names import run_name
from engine.recipes.settings import Settings
from engine.recipes.smoothness import SmoothSearchRecipe, at_rate, descent_of
from engine.reports.page import REPORT, Section, how_made, write_page
from engine.runs.endings import Ending, Finished
from engine.runs.finishing import Needs, finish
from engine.storage.location import join
from engine.storage.places import run_folder
from engine.storage.records import write_bytes

BULKY = frozenset({"train"})
"""Kinds of stages whose states only repeat a search."""

FIGURE, CHOSEN = "search.png", "chosen.yaml"
"""Files in the run's folder."""


class Measured(Settings):
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


class Trial(Settings):
    """What became of a routine of the menu."""

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


class SearchRecord(Finished):
    """Everything that is known of a finished search."""

    recipe: SmoothSearchRecipe
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

    summary: list[str]
    """What was found, in sentences."""

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row for each routine."""
        return [_row(trial, self.chosen) for trial in self.trials]

    def content(self, store: str) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        folder = run_folder(store, self.run)
        return {
            "run": self.run,
            "recipe": self.recipe.name,
            "store": store,
            "seconds": round(self.seconds, 3),
            "trials": [trial.model_dump(mode="json") for trial in self.trials],
            "target": self.target,
            "chosen": self.chosen,
            "learning_rate": self.learning_rate,
            "chosen_recipe": self.recipe_url,
            "report": join(folder, REPORT),
            "figure": join(folder, FIGURE),
        }


def measured(record: SmoothnessRecord) -> Measured:
    """Return what a search keeps of a measurement."""
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
    target = target_loss([trial.nominal for trial in trials])
    marked = _marked(trials)
    trial, point = choose(marked, recipe.search.tolerance)
    run = run_name(recipe.descent)
    url = join(run_folder(store, run), CHOSEN)
    record = SearchRecord(
        run=run,
        recipe=recipe,
        started=started,
        seconds=(datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds(),
        trials=marked,
        target=target,
        chosen=trial.name,
        learning_rate=point.learning_rate,
        recipe_url=url,
        summary=_summary(marked, trial, point, target, url),
    )
    record = record.model_copy(
        update={"ending": Ending(summary=record.summary, table=record.table)}
    )
    measurements = [recipe.measurement(each).descent for each in tried_routines(recipe).values()]
    parts = [run_name(each) for each in [*measurements, *scored_routines(recipe).values()]]
    needs = Needs(BULKY, parts=parts)
    return finish(
        store, record, needs, lambda record: _write_pages(record, store, point.learning_rate)
    )


def tried_routines(recipe: SmoothSearchRecipe) -> dict[str, DescentRecipe]:
    """Return the routines of a search by what is changed, each under a name of its own."""
    return {
        name: descent_of(descent, f"{recipe.name}-{number}")
        for number, (name, descent) in enumerate(recipe.routines().items())
    }


def scored_routines(recipe: SmoothSearchRecipe) -> dict[tuple[str, float], DescentRecipe]:
    """Return what a search trains to match losses, by the routine's name and the learning rate."""
    return {
        (name, rate): recipe.measurement(at_rate(routine, rate)).descent
        for name, routine in tried_routines(recipe).items()
        for rate in recipe.learning_rates
    }


def _write_pages(record: SearchRecord, store: str, learning_rate: float) -> None:
    """Write the chosen recipe, the figure and the report."""
    recipe, folder = record.recipe, run_folder(store, record.run)
    chosen = recipe.routines()[record.chosen]
    write_bytes(record.recipe_url, _as_yaml(chosen, learning_rate, recipe.name).encode())
    nominal, matched = (
        [
            Point(each.name, found.validation, found.definition_2, found.pareto)
            for each in record.trials
            if (found := getattr(each, kind)) is not None
        ]
        for kind in ("nominal", "matched")
    )
    image = draw_search(nominal, matched, record.target)
    write_bytes(join(folder, FIGURE), image)
    caption = (
        "Metasmoothness against validation loss, at each routine's own rate and at matched loss."
    )
    sections = [
        Section(lines=record.summary),
        Section(heading="Smoothness and loss", image=image, caption=caption),
        Section(heading="Routines", table=record.table),
    ]
    made = {"Run": record.run, **how_made(record)}
    write_page(folder, f"Search for a smooth routine: {recipe.name}", sections, made, recipe)


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


def _summary(
    trials: list[Trial], chosen: Trial, point: Measured, target: float, url: str
) -> list[str]:
    lines = [
        f"Chosen: {chosen.name}, learning rate {point.learning_rate:g}: metasmoothness "
        f"{point.definition_2:.3f}, validation loss {point.validation:.4f}.",
    ]
    baseline = trials[0]
    for kind, words in (
        ("nominal", "At the same learning rate"),
        ("matched", f"At a validation loss near {target:.4f}"),
    ):
        before, after = getattr(baseline, kind), getattr(chosen, kind)
        if before is not None and after is not None:
            lines.append(
                f"{words}: Definition 2 {before.definition_2:.3f} for the baseline and "
                f"{after.definition_2:.3f} for the chosen routine, Definition 1 "
                f"{before.definition_1:.3g} and {after.definition_1:.3g}, validation loss "
                f"{before.validation:.4f} and {after.validation:.4f}."
            )
    failed = [trial.name for trial in trials if trial.nominal is None]
    if failed:
        lines.append(f"Diverged at their own learning rate: {'; '.join(failed)}.")
    return [*lines, f"Recipe: {url}"]


def _row(trial: Trial, chosen: str) -> dict[str, Any]:
    row: dict[str, Any] = {"routine": trial.name + (" (chosen)" if trial.name == chosen else "")}
    for kind in ("nominal", "matched"):
        point = getattr(trial, kind)
        values = ("-", "-", "-", "-", "")
        if point is not None:
            values = (
                f"{point.learning_rate:g}",
                f"{point.validation:.4f}",
                f"{point.definition_1:.3g}",
                f"{point.definition_2:.3f}",
                "yes" if point.pareto else "",
            )
        names = ("rate", "validation", "Definition 1", "Definition 2", "Pareto")
        row |= {f"{kind} {name}": value for name, value in zip(names, values, strict=True)}
    return row
