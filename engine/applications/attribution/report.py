"""The end of an attribution: its scores judged, as a table, and shown in a report."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from engine.applications.attribution.figures import draw_datamodeling, draw_prediction
from engine.applications.attribution.queries import query_sections
from engine.applications.attribution.record import (
    OWN,
    SCORES,
    AttributionRecord,
    Found,
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
from engine.recipes.attribution import AttributionRecipe
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


def conclude(
    recipe: AttributionRecipe,
    store: str,
    found: Found,
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
    shape = settings.num_queries, len(problem.routine)
    own = only_metagradient(read_rows(store, found.gradient))
    scores = {OWN: own.reshape(shape)}
    for name, ref in found.baselines.items():
        scores[name] = read_rows(store, ref)["scores"].reshape(shape)
    base = torch.tensor(read_scalars(store, found.seed)["outputs"], dtype=own.dtype)
    trainings = {
        drop: (weights, losses - base)
        for drop, (weights, losses) in read_trainings(store, found.trainings, shape).items()
    }
    lds = {name: judge(each, trainings) for name, each in scores.items()}
    sweep = read_sweep(store, found.gradient)
    record = AttributionRecord(
        **how_made(recipe, started),
        stages=counts,
        checks=checks,
        found=found,
        lds={
            name: {f"{drop:g}": LdsRecord(**asdict(each)) for drop, each in by_drop.items()}
            for name, by_drop in lds.items()
        },
        scores=read_scalars(store, found.scores),
        growth=sweep.growth,
        uncompared=sweep.uncompared,
        left_out=tuple(filter(None, judged_baselines(recipe, store).values())),
    )

    def report(record: AttributionRecord) -> Report:
        shown = query_sections(problem.data, settings.queries, scores[OWN], base.tolist())
        return Report(
            f"Attribution: {recipe.name}",
            [*_judged(record, scores[OWN], trainings, lds), *shown[:1]],
            shown[1:],
            files={SCORES: as_csv(scores[OWN], problem).encode()},
        )

    return finish(store, record, report)


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


def as_csv(scores: Tensor, problem: BuiltProblem) -> str:
    """Return one line for each training example: name, label, and its score for each query."""
    labels = problem.data.splits["train"].one_label_each
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    known: dict[str, Sequence[Any]] = {"example": range(scores.shape[1])}
    if problem.data.names:
        known["name"] = [safe_cell(name) for name in problem.data.names]
    if labels is not None:
        known["label"] = labels.tolist()
    writer.writerow([*known, *(f"query_{i}" for i in range(len(scores)))])
    for first, column in zip(zip(*known.values(), strict=True), scores.T.tolist(), strict=True):
        writer.writerow([*first, *column])
    return text.getvalue()


def _judged(
    record: AttributionRecord,
    scores: Tensor,
    trainings: dict[float, tuple[Tensor, Tensor]],
    lds: dict[str, dict[float, Interval]],
) -> list[Section]:
    """Return what trainings without random subsets say of the scores; nothing without any."""
    if not trainings:
        return []
    points = {
        drop: (predicted_effects(scores, weights)[:, 0].tolist(), changes[:, 0].tolist())
        for drop, (weights, changes) in trainings.items()
    }
    return [
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
                Figure(
                    vector(lambda: draw_prediction(points)),
                    "Predicted and measured change of the first query's loss, a point for "
                    "each training without a random subset",
                    "The first query: each point is a training without a random subset; on the "
                    "line the prediction is exact.",
                ),
            ],
            tables=[Table(record.table())],
        )
    ]
