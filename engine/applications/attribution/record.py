"""What an attribution leaves: its record, its scores as a table, and a report with figures."""

import csv
import io
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from engine.applications.attribution.figures import (
    Examined,
    draw_datamodeling,
    draw_examples,
    draw_prediction,
)
from engine.applications.attribution.scores import (
    datamodeling_scores,
    kept_weights,
    predicted_effects,
    query_batch,
)
from engine.applications.attribution.stages import Subsets
from engine.applications.attribution.texts import text_sections
from engine.applications.attribution.trak import trak_is_installed
from engine.numerics.environment import machine
from engine.preflight.verdict import CheckReport
from engine.problems.problem import BuiltProblem, build_problem
from engine.recipes.attribution import AttributionBaseline, AttributionConfig, AttributionRecipe
from engine.recipes.names import run_name
from engine.recipes.settings import Settings
from engine.reports.intervals import Interval, interval
from engine.reports.page import REPORT, Section, how_made, write_page
from engine.runs.endings import Ending, Finished
from engine.runs.finishing import Needs, finish
from engine.runs.run import Scores, Stages, begin_run
from engine.stages.commits import lineage, read_inputs, read_rows, read_scalars
from engine.stages.keys import engine_version, run_environment
from engine.stages.monitoring import alarm, read_sweep
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.training import prepare as prepare_descent
from engine.storage.location import join
from engine.storage.places import run_folder
from engine.storage.records import write_bytes

OWN = "metagradient"
"""Name of our own scores beside those of the baselines."""

SCORES = "scores.csv"
"""File in the run's folder."""

BULKY = frozenset({"train", "seed-queries", "reverse", "replay"})
"""Kinds of stages whose states and adjoints only repeat an attribution."""

ROWS = 6
"""Queries that are shown with their examples."""


class Found(Settings):
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


class LdsRecord(Settings):
    """The LDS for one percentage."""

    mean: float
    """Mean over the queries."""

    low: float
    """Lower end of the 95 % bootstrap interval."""

    high: float
    """Upper end."""


class AttributionRecord(Finished):
    """Everything that is known of a finished attribution."""

    recipe: AttributionRecipe
    """The settings that made it."""

    lds: dict[str, dict[str, LdsRecord]]
    """Method to percentage to its LDS, our own method first."""

    scores: dict[str, Scores]
    """Split (objective, validation, test) to scores of the trained model."""

    growth: float
    """Fastest sustained growth of the adjoint per step backwards; 1 is none."""

    summary: list[str]
    """What the numbers mean, in sentences."""

    stages: Stages
    """How many stages, cached and retried."""

    checks: CheckReport
    """What the preflight found."""

    environment: dict[str, Any]
    """What the bits depend on besides the recipe."""

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row for each method."""
        return [
            {"scores": name}
            | {f"{drop} % left out": _written(found) for drop, found in lds.items()}
            for name, lds in self.lds.items()
            if lds
        ]

    def content(self, store: str) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        folder = run_folder(store, self.run)
        found = self.model_dump(mode="json", include={"run", "lds", "growth", "stages"})
        lds = found.pop("lds")
        return {
            "recipe": self.recipe.name,
            "store": store,
            "seconds": round(self.seconds, 3),
            **found,
            "lds": lds.pop(OWN),
            "baselines": {name: {"lds": each} for name, each in lds.items()},
            "test": self.scores["test"],
            "preflight": self.checks.verdict,
            "report": join(folder, REPORT),
            "scores": join(folder, SCORES),
        }


def judged_baselines(settings: AttributionConfig) -> list[AttributionBaseline]:
    """Return the baselines that can be had here."""
    missing = set() if trak_is_installed() else {AttributionBaseline.TRAK}
    return [name for name in settings.baselines if name not in missing]


def prepare(recipe: AttributionRecipe, store: str) -> None:
    """Refuse what cannot be attributed, and keep the settings of what can.

    Raises:
        ConfigurationError: With the value, the reason and the remedy.
        DataError: If there are too few queries, or too few examples to leave out.
    """
    prepare_descent(Run(recipe.descent, store))
    problem = build_problem(recipe.descent)
    query_batch(problem, recipe.attribution.queries)
    for removals in recipe.attribution.removals:
        kept_weights(removals, len(problem.routine), 0)
    begin_run(recipe, store)


def conclude(
    recipe: AttributionRecipe,
    store: str,
    found: Found,
    counts: Stages,
    started: str,
    checks: CheckReport,
) -> AttributionRecord:
    """Judge the scores; write ``run.json``, ``scores.csv`` and ``report.html``.

    The result needs all scores, the trained model, and the trainings that judge them.

    Args:
        recipe: What was attributed.
        store: fsspec URL of the store.
        found: The stages.
        counts: How they were done.
        started: UTC time of the start, ISO 8601.
        checks: What the preflight found.
    """
    problem, settings = build_problem(recipe.descent), recipe.attribution
    shape = settings.num_queries, len(problem.routine)
    (own,) = (
        row for name, row in read_rows(store, found.gradient).items() if "metagradient" in name
    )
    scores = {OWN: own.reshape(shape)}
    for name, ref in found.baselines.items():
        scores[name] = read_rows(store, ref)["scores"].reshape(shape)
    base = torch.tensor(read_scalars(store, found.seed)["outputs"], dtype=own.dtype)
    trainings = {
        drop: (weights, losses - base)
        for drop, (weights, losses) in read_trainings(store, found.trainings, shape).items()
    }
    lds = {name: judge(each, trainings) for name, each in scores.items()}
    growth = read_sweep(store, found.gradient).growth
    record = AttributionRecord(
        run=run_name(recipe.descent),
        recipe=recipe,
        started=started,
        seconds=(datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds(),
        lds={
            name: {f"{drop:g}": LdsRecord(**asdict(each)) for drop, each in by_drop.items()}
            for name, by_drop in lds.items()
        },
        scores=read_scalars(store, found.scores),
        growth=growth,
        summary=[],
        stages=counts,
        checks=checks,
        environment={"engine": engine_version(), **run_environment(recipe.descent), **machine()},
    )
    lines = summarize(record)
    record = record.model_copy(update={"summary": lines})
    record = record.model_copy(update={"ending": Ending(summary=lines, table=record.table)})

    def write_pages(record: AttributionRecord) -> None:
        folder = run_folder(store, record.run)
        write_bytes(join(folder, SCORES), as_csv(scores[OWN], problem).encode())
        sections = _sections(record, problem, scores[OWN], base.tolist(), trainings, lds)
        made = how_made(record, counts, checks, record.environment)
        write_page(folder, f"Attribution: {recipe.name}", sections, made, recipe)

    results = [found.gradient, found.scores, *found.baselines.values(), *found.trainings]
    results += lineage(store, found.final, "start")
    return finish(store, record, Needs(BULKY, results), write_pages)


def read_trainings(
    store: str, trainings: list[Ref], shape: tuple[int, int]
) -> dict[float, tuple[Tensor, Tensor]]:
    """Return weights and query losses of the trainings for each percentage.

    Args:
        store: fsspec URL of the store.
        trainings: The stages.
        shape: Queries and examples.

    Returns:
        Shapes (subsets, examples) and (subsets, queries).
    """
    found: dict[float, list[tuple[Tensor, Tensor]]] = {}
    for ref in trainings:
        subsets = Subsets.model_validate(read_inputs(store, ref)["subsets"])
        weights = torch.stack(
            [
                kept_weights(subsets.removals, shape[1], number)
                for number in range(subsets.start, subsets.stop)
            ]
        )
        losses = read_rows(store, ref)["losses"].reshape(len(weights), shape[0])
        found.setdefault(subsets.removals.percent, []).append((weights, losses))
    return {
        drop: (torch.cat([w for w, _ in parts]), torch.cat([losses for _, losses in parts]))
        for drop, parts in found.items()
    }


def judge(scores: Tensor, trainings: dict[float, tuple[Tensor, Tensor]]) -> dict[float, Interval]:
    """Return the LDS of scores for each percentage, with its interval over the queries."""
    return {
        drop: interval(datamodeling_scores(predicted_effects(scores, weights), changes))
        for drop, (weights, changes) in trainings.items()
    }


def summarize(record: AttributionRecord) -> list[str]:
    """Say what was found."""
    settings = record.recipe.attribution
    test = record.scores["test"]
    lines = [
        f"One training and one reverse sweep attribute the losses of {settings.num_queries} "
        f"examples of the split {settings.query_split.value}; the model's test accuracy is "
        f"{100 * test['accuracy']:.1f} %, its test loss {test['loss']:.3f}."
    ]
    for drop, found in record.lds[OWN].items():
        others = "; ".join(
            f"{name} {lds[drop].mean:.2f}" for name, lds in record.lds.items() if name != OWN
        )
        lines.append(
            f"{drop} % left out, {settings.num_subsets} trainings: LDS {_written(found)}"
            + (f" ({others})." if others else ".")
        )
    if AttributionBaseline.TRAK in settings.baselines and not trak_is_installed():
        lines.append("TRAK was not measured: the package traker is not installed.")
    return [*lines, *filter(None, [alarm([record.growth])]), *record.checks.sentences()]


def as_csv(scores: Tensor, problem: BuiltProblem) -> str:
    """Return one line for each training example: its label, and its score for each query."""
    labels = problem.routine.examples[1].cpu()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["label"] if labels.ndim == 1 else []
    writer.writerow(["example", *names, *(f"query_{i}" for i in range(len(scores)))])
    for number, column in enumerate(scores.T.tolist()):
        writer.writerow([number, *([int(labels[number])] if names else []), *column])
    return text.getvalue()


def _sections(
    record: AttributionRecord,
    problem: BuiltProblem,
    scores: Tensor,
    losses: list[float],
    trainings: dict[float, tuple[Tensor, Tensor]],
    lds: dict[str, dict[float, Interval]],
) -> list[Section]:
    sections = [Section(lines=record.summary)]
    if trainings:
        points = {
            drop: (predicted_effects(scores, weights)[:, 0].tolist(), changes[:, 0].tolist())
            for drop, (weights, changes) in trainings.items()
        }
        sections += [
            Section(
                "Predicted against measured: the linear datamodeling score",
                table=record.table,
                image=draw_datamodeling(lds),
                caption="Rank correlation of predicted and measured losses over random subsets, "
                "mean over the queries with its 95 % bootstrap interval. Trained without an "
                "example means with weight 0, in the same order and from the same start.",
            ),
            Section(
                "The first query",
                image=draw_prediction(points),
                caption="Each point is a training without a random subset; on the line the "
                "prediction is exact.",
            ),
        ]
    inputs, labels = (column.cpu() for column in problem.routine.examples)
    texts, queries = problem.data.texts, record.recipe.attribution.queries
    if texts is not None:
        asked = texts.splits[queries.split][: min(ROWS, len(scores))]
        sections += text_sections(texts, asked, scores, losses)
    if inputs.ndim == 4:
        asked, answers = query_batch(problem, queries)
        shown = [
            Examined(asked[i].cpu(), int(answers[i]), scores[i])
            for i in range(min(ROWS, len(scores)))
        ]
        sections.append(
            Section(
                "Helpful and harmful examples",
                image=draw_examples(shown, inputs, labels),
                caption="Left: queries. Blue: the training examples whose weight lowers the "
                "query's loss most; orange: those whose weight raises it most. With label, and "
                "change of the query's loss per unit of weight.",
            )
        )
    return sections


def _written(found: LdsRecord) -> str:
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"
