"""Record of a finished attribution."""

from typing import Any

from engine.applications.attribution.scores import kept_weights, query_batch
from engine.applications.attribution.trak import check_trak, no_classifier, trak_is_installed
from engine.applications.attribution.trial import check_batched
from engine.problems.built import build_problem
from engine.recipes.attribution import AttributionBaseline, AttributionRecipe
from engine.recipes.settings import Document
from engine.replay.query_basis import refuse_more_state
from engine.reports.curves import Curve
from engine.reports.sections import Number
from engine.runs.finished import FinishedRun
from engine.runs.run import Scores, begin_run
from engine.stages.commits import lineage
from engine.stages.monitoring import alarm
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.training import prepare as prepare_descent

OWN = "metagradient"
"""Name of our own scores beside those of the baselines."""

SCORES = "scores.csv"
"""File in the run's folder: a row for each example, a column for each query."""

FIRST = "query_0"
"""The first of these columns; those before it say what is known of the example."""

QUERIES = "queries.csv"
"""File in the run's folder: a row for each query."""


class AttributionStages(Document):
    """The stages of an attribution whose results are put together."""

    final: Ref
    """s_T at the weights 1."""

    seed: Ref
    """Adjoints of the queries."""

    gradient: Ref
    """Metagradients of the queries."""

    scores: Ref
    """Evaluation of the trained model."""

    baselines: dict[str, Ref]
    """Baseline to its scores."""

    trainings: list[Ref]
    """Trainings without some examples."""

    spanned: Ref | None = None
    """Scores of the queries by a basis, if ``gradient`` is that of its directions."""

    @property
    def own(self) -> Ref:
        """Reference to the metagradient's scores, query by query."""
        return self.gradient if self.spanned is None else self.spanned


class LdsRecord(Document):
    """The LDS for one percentage."""

    mean: float
    """Mean over the queries."""

    low: float
    """Lower end of the 95 % bootstrap interval."""

    high: float
    """Upper end."""


class AttributionRecord(FinishedRun):
    """Settings, results and stages of a finished attribution."""

    bulky = frozenset({"train", "seed-queries", "seed-basis", "reverse", "replay"})

    recipe: AttributionRecipe  # pyright: ignore[reportIncompatibleVariableOverride] (it is frozen)
    """The settings that made it."""

    lds: dict[str, dict[str, LdsRecord]]
    """Method to percentage to its LDS, our own method first."""

    scores: dict[str, Scores]
    """Split (objective, validation, test) to scores of the trained model."""

    growth: float
    """Fastest sustained growth of the adjoint per step backwards; 1 is none."""

    found: AttributionStages
    """The stages that it was put together from."""

    left_out: tuple[str, ...] = ()
    """Baselines that were not measured, each in a sentence that says why."""

    basis: str | None = None
    """How exact scores are that come from a basis, in a sentence."""

    def refs_to_keep(self, store: str) -> list[Ref]:
        """Return all scores, the trained model, and the trainings that judge them.

        A basis stays, since other queries can be asked of it.
        """
        found = self.found
        results = [found.gradient, found.scores, *found.baselines.values(), *found.trainings]
        results += [] if found.spanned is None else [found.seed, found.spanned]
        return results + lineage(store, found.final, "start")

    def headline(self) -> str:
        """Return how well the scores predict trainings without some examples."""
        if not self.lds[OWN]:
            return (
                f"Every training example has a score for {self._queries}; no training without "
                "some of them has judged the scores."
            )
        drop, best = max(self.lds[OWN].items(), key=lambda pair: float(pair[0]))
        others = [f"{name} {lds[drop].mean:.2f}" for name, lds in self.lds.items() if name != OWN]
        beside = f" ({', '.join(others)})" if others else ""
        return (
            f"Scores of the metagradient rank what happens when {drop} % of the examples are left "
            f"out with a correlation of {best.mean:.2f}{beside}."
        )

    @property
    def _queries(self) -> str:
        settings = self.recipe.attribution
        return f"{settings.num_queries} examples of the split {settings.query_split.value}"

    def numbers(self) -> list[Number]:
        """Return the LDS of the metagradient, and of the best of the others."""
        if not self.lds[OWN]:
            return []
        drop = max(self.lds[OWN], key=float)
        shown = sorted(self.lds, key=lambda name: (name != OWN, -self.lds[name][drop].mean))[:2]
        return [
            Number(
                f"LDS of {name}, {drop} % left out",
                f"{self.lds[name][drop].mean:.2f}",
                f"{self.lds[name][drop].low:.2f} to {self.lds[name][drop].high:.2f}",
            )
            for name in shown
        ] + [Number("Test loss of the model", f"{self.scores['test']['loss']:.3f}")]

    def findings(self) -> list[str]:
        """Say what was attributed, and how the scores were judged."""
        settings, test = self.recipe.attribution, self.scores["test"]
        # Numbers that are predicted have no accuracy.
        share = (
            f"accuracy is {100 * test['accuracy']:.1f} %, its test " if "accuracy" in test else ""
        )
        lines = [
            f"One training and one reverse sweep attribute the losses of {self._queries}; the "
            f"model's test {share}loss is {test['loss']:.3f}."
        ]
        if self.basis is not None:
            lines.append(self.basis)
        if self.lds[OWN]:
            lines.append(
                "The LDS (linear datamodeling score) is the rank correlation of predicted losses "
                "with those of trainings without random subsets: 1 is best, 0 is chance."
            )
        for drop, found in self.lds[OWN].items():
            others = " and ".join(
                f"{lds[drop].mean:.2f} for {name}" for name, lds in self.lds.items() if name != OWN
            )
            lines.append(
                f"With {drop} % left out, over {settings.num_subsets} trainings, the LDS is "
                f"{written(found)}" + (f"; it is {others}." if others else ".")
            )
        return [*lines, *self.left_out]

    def warnings(self) -> list[str]:
        """Say that the training is chaotic, if it is, and what the preflight found."""
        return [*filter(None, [alarm([self.growth])]), *super().warnings()]

    def table(self) -> list[dict[str, Any]]:
        """Return one row for each method."""
        return [
            {"scores": name} | {f"{drop} % left out": written(found) for drop, found in lds.items()}
            for name, lds in self.lds.items()
            if lds
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row of numbers for each method and percentage: LDS with its 95 % interval."""
        return [
            {"scores": name, "left_out_percent": float(drop), "lds": found.mean}
            | {"lds_low": found.low, "lds_high": found.high}
            for name, lds in self.lds.items()
            for drop, found in lds.items()
        ]

    def curves(self) -> list[Curve]:
        """Return the LDS of each method by the percentage that was left out."""
        return [
            Curve(
                f"LDS of {name}",
                "percent left out",
                sorted((float(drop), each.mean) for drop, each in lds.items()),
            )
            for name, lds in self.lds.items()
            if lds
        ]

    def arrays(self) -> dict[str, Ref]:
        """Return the scores of each method, query by query, and the final state."""
        found = self.found
        scores = {OWN: found.own, **found.baselines}
        return {f"scores[{name}]": ref for name, ref in scores.items()} | {"state": found.final}

    def outcome(self) -> dict[str, Any]:
        """Return the LDS by percentage, and that of each baseline."""
        shown = self.model_dump(mode="json", include={"lds", "growth"})
        lds = shown["lds"]
        return {
            "growth": shown["growth"],
            "lds": lds.pop(OWN),
            "baselines": {name: {"lds": each} for name, each in lds.items()},
            "test": self.scores["test"],
        }

    def content(self, store: str) -> dict[str, Any]:
        """Return the record as the JSON object that ``--json`` prints."""
        return {**super().content(store), "scores": self.url(store, SCORES)}


def written(found: LdsRecord) -> str:
    """Write an LDS with its interval."""
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def judged_baselines(
    recipe: AttributionRecipe, store: str | None = None
) -> dict[AttributionBaseline, str | None]:
    """Return the baselines of a run, each with why it is left out; None for those that are judged.

    Args:
        recipe: Recipe of the attribution. Where it names no baselines, there are all that its
            problem can have; what it names and its problem cannot have is left to ``prepare`` to
            refuse.
        store: fsspec URL of the run's store, as for ``build_problem``.
    """
    named = recipe.attribution.baselines
    found: dict[AttributionBaseline, str | None] = dict.fromkeys(
        AttributionBaseline if named is None else named
    )
    if AttributionBaseline.TRAK not in found:
        return found
    instead = None if named is not None else no_classifier(build_problem(recipe.descent, store))
    if instead is not None:
        why = f"it needs a classifier, and the examples {instead}"
    else:
        why = None if trak_is_installed() else "the package traker is not installed"
    found[AttributionBaseline.TRAK] = why and f"TRAK was not measured: {why}."
    return found


def prepare(recipe: AttributionRecipe, store: str) -> None:
    """Refuse a recipe that cannot be attributed, and keep the settings of any other.

    Raises:
        ConfigurationError: If a setting is refused; names its value, the reason and the remedy.
        DataError: If there are too few queries, or too few examples to leave out.
    """
    prepare_descent(Run(recipe.descent, store))
    problem = build_problem(recipe.descent, store)
    query_batch(problem, recipe.attribution.queries)
    if recipe.attribution.basis is not None:
        refuse_more_state(problem.routine)
    if AttributionBaseline.TRAK in (recipe.attribution.baselines or ()) and trak_is_installed():
        check_trak(problem)
    for removals in recipe.attribution.removals:
        kept_weights(removals, len(problem.routine), 0)
    check_batched(recipe.attribution, problem)
    begin_run(recipe, store)
