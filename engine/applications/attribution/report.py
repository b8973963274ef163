"""Last stage of an attribution: judges the scores, and writes the record, tables and report."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.applications.attribution.basis_report import basis_said, basis_section
from engine.applications.attribution.figures import draw_datamodeling, draw_predictions
from engine.applications.attribution.queries import query_sections
from engine.applications.attribution.record import (
    OWN,
    QUERIES,
    SCORES,
    AttributionRecord,
    AttributionStages,
    LdsRecord,
    judged_baselines,
)
from engine.applications.attribution.scores import (
    datamodeling_scores,
    kept_weights,
    predicted_effects,
)
from engine.applications.attribution.stages import Subsets
from engine.preflight.verdict import CheckReport
from engine.problems.built import BuiltProblem, build_problem
from engine.problems.data.splits import DataSet
from engine.recipes.attribution import AttributionRecipe, Queries
from engine.reports.intervals import Interval, interval
from engine.reports.sections import Figure, Section, Table
from engine.reports.spreadsheets import safe_cell
from engine.reports.vector import vector
from engine.runs.finished import how_made
from engine.runs.finishing import finish
from engine.runs.report import Report
from engine.runs.run import Stages
from engine.stages.commits import read_inputs, read_rows, read_scalars
from engine.stages.metagradient_rows import only_metagradient
from engine.stages.monitoring import read_sweep
from engine.stages.references import Ref

_TOGETHER, _MOST, _POINTS = 20, 100, 2400
"""Queries whose predictions fill a page, most that are drawn, and most points of a figure: a page
that holds some thousand more is slow to open."""


def conclude(
    recipe: AttributionRecipe,
    store: str,
    found: AttributionStages,
    counts: Stages,
    started: str,
    checks: CheckReport,
) -> AttributionRecord:
    """Judge the scores; write ``run.json``, ``scores.csv`` and ``report.html``.

    Args:
        recipe: What was attributed.
        store: fsspec URL of the store.
        found: The stages.
        counts: How they were done.
        started: UTC time of the start, ISO 8601.
        checks: What the preflight found.
    """
    problem, settings = build_problem(recipe.descent, store), recipe.attribution
    numbers = _read_numbers(store, found, (settings.num_queries, len(problem.routine)))
    lds = {name: judge(each, numbers.trainings) for name, each in numbers.scores.items()}
    sweep = read_sweep(store, found.gradient)
    record = AttributionRecord(
        **how_made(recipe, started),
        stages=counts,
        checks=checks,
        unread=sorted(problem.unread),
        found=found,
        lds={
            name: {f"{drop:g}": LdsRecord(**asdict(each)) for drop, each in by_drop.items()}
            for name, by_drop in lds.items()
        },
        scores=read_scalars(store, found.scores),
        growth=sweep.growth,
        uncompared=sweep.uncompared,
        left_out=tuple(filter(None, judged_baselines(recipe, store).values())),
        basis=None if found.spanned is None else basis_said(store, found.spanned, settings),
    )

    def report(record: AttributionRecord) -> Report:
        own = numbers.scores[OWN]
        sections = _comparison_sections(record, own, numbers.trainings, lds)
        if found.spanned is not None:
            sections.append(basis_section(store, found.spanned, settings))
        shown = query_sections(problem.data, settings.queries, own, numbers.losses)
        return Report(
            f"Attribution: {recipe.name}",
            [*sections, *shown[:1]],
            shown[1:],
            files=_tables(problem, settings.queries, numbers),
        )

    return finish(store, record, report)


class _Numbers(NamedTuple):
    """What the stages of an attribution computed.

    Attributes:
        scores: Method to its scores, shape (queries, examples).
        losses: Losses of the queries, in nats.
        trainings: Percentage left out to the weights and the changes of the queries' losses.
    """

    scores: dict[str, Tensor]
    losses: list[float]
    trainings: dict[float, tuple[Tensor, Tensor]]


def _read_numbers(store: str, found: AttributionStages, shape: tuple[int, int]) -> _Numbers:
    """Read the results of an attribution's stages.

    Args:
        store: fsspec URL of the store.
        found: The stages.
        shape: Queries and examples.
    """
    own = only_metagradient(read_rows(store, found.own))
    scores = {OWN: own.reshape(shape)}
    for name, ref in found.baselines.items():
        scores[name] = read_rows(store, ref)["scores"].reshape(shape)
    base = torch.tensor(read_scalars(store, found.seed)["outputs"], dtype=own.dtype)
    trainings = {
        drop: (weights, losses - base)
        for drop, (weights, losses) in read_trainings(store, found.trainings, shape).items()
    }
    return _Numbers(scores, base.tolist(), trainings)


def _tables(problem: BuiltProblem, queries: Queries, numbers: _Numbers) -> dict[str, bytes]:
    """Return the CSV files of a report by name: the scores, and the queries."""
    own = numbers.scores[OWN]
    by_query = lds_of_queries(own, numbers.trainings)
    return {
        SCORES: as_csv(own, problem).encode(),
        QUERIES: queries_csv(problem, queries, numbers.losses, by_query).encode(),
    }


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
    return {drop: interval(each) for drop, each in lds_of_queries(scores, trainings).items()}


def lds_of_queries(
    scores: Tensor, trainings: dict[float, tuple[Tensor, Tensor]]
) -> dict[float, list[float]]:
    """Return the LDS of each query for each percentage."""
    return {
        drop: datamodeling_scores(predicted_effects(scores, weights), changes)
        for drop, (weights, changes) in trainings.items()
    }


def as_csv(scores: Tensor, problem: BuiltProblem) -> str:
    """Return one line for each training example: name, label, and its score for each query."""
    known: dict[str, Sequence[Any]] = {"example": range(scores.shape[1])}
    known |= _example_columns(problem.data, "train", problem.data.names, scores.shape[1])
    return _written(known | {f"query_{n}": column for n, column in enumerate(scores.tolist())})


def queries_csv(
    problem: BuiltProblem,
    queries: Queries,
    losses: Sequence[float],
    lds: Mapping[float, Sequence[float]],
) -> str:
    """Return one line for each query: number, name, label, loss, and its LDS by percentage."""
    names = problem.data.held_out_names.get(queries.split, ())
    known: dict[str, Sequence[Any]] = {"query": range(len(losses))}
    known |= _example_columns(problem.data, queries.split, names, len(losses))
    known |= {f"lds_{drop:g}": found for drop, found in lds.items()}
    return _written(known | {"loss": losses})


def _example_columns(
    data: DataSet, split: str, names: Sequence[str], number: int
) -> dict[str, Sequence[Any]]:
    """Return names, labels and classes of the first examples of a split, where it has them."""
    labels = data.splits[split].one_label_each
    told: dict[str, Sequence[Any]] = {}
    if names:
        told["name"] = [safe_cell(name) for name in names[:number]]
    if labels is not None:
        told["label"] = labels[:number].tolist()
        if data.classes and data.num_classes:
            told["class"] = [safe_cell(data.class_name(label)) for label in told["label"]]
    return told


def _written(columns: Mapping[str, Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _comparison_sections(
    record: AttributionRecord,
    scores: Tensor,
    trainings: dict[float, tuple[Tensor, Tensor]],
    lds: dict[str, dict[float, Interval]],
) -> list[Section]:
    """Return the sections that compare the scores with trainings without random subsets, if any."""
    if not trainings:
        return []
    figures = _predictions(scores, trainings)
    sections = [
        Section(
            "Predicted against measured: the linear datamodeling score",
            figures=[
                Figure(
                    vector(lambda: draw_datamodeling(lds)),
                    "Rank correlation of predicted and measured losses of each method, by "
                    "the percentage of examples that is left out",
                    "Rank correlation of predicted and measured losses over random subsets, "
                    "mean over the queries with its 95 % bootstrap interval. Trained without "
                    "an example means with weight 0, in the same order and from the same "
                    "start.",
                ),
                *figures[:1],
            ],
            tables=[Table(record.table())],
        )
    ]
    if figures[1:]:
        title = "Predicted against measured: the other queries"
        sections.append(Section(title, figures=figures[1:], folded=True))
    return sections


def _predictions(scores: Tensor, trainings: dict[float, tuple[Tensor, Tensor]]) -> list[Figure]:
    """Return the predicted and the measured changes of all queries, a page of them in a figure."""
    few = max(_POINTS // (_TOGETHER * len(trainings)), 1)
    points = {
        drop: (predicted_effects(scores, weights)[:few], changes[:few])
        for drop, (weights, changes) in trainings.items()
    }
    number = max(len(changes) for _, changes in trainings.values())
    all_of_them = "a training" if number <= few else f"one of the first {few} of {number} trainings"
    drop = max(trainings)
    lds = lds_of_queries(scores, trainings)[drop]
    figures = []
    for start in range(0, min(len(scores), _MOST), _TOGETHER):
        queries = range(start, min(start + _TOGETHER, len(scores)))
        which = f"queries {start} to {queries[-1]}" if len(queries) > 1 else f"query {start}"
        figures.append(
            Figure(
                vector(lambda queries=queries: draw_predictions(points, queries, lds)),
                f"Predicted and measured changes of the losses of {which}, a square for each and a "
                "point for each training without a random subset",
                "The measured change of a query's loss (upwards) by the predicted one, both in "
                f"nats and between the numbers below. Each point is {all_of_them} without a random "
                "subset; on the line the prediction is exact. Above each is the query's own rank "
                f"correlation with {drop:g} % left out; queries.csv has it for every percentage.",
            )
        )
    return figures
