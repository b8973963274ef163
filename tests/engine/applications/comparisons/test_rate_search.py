"""Other learning-rate schedules: their shapes, and trainings against the engine's own."""

import math
from dataclasses import replace

import pytest
import torch

from engine import train
from engine.applications.comparisons.rate_search_results import read_grid, read_optuna
from engine.applications.comparisons.rate_search_stages import (
    one_cycle_rates,
    score_schedules,
    search_optuna,
    train_chunk,
)
from engine.applications.descent.comparison_findings import schedule_findings
from engine.errors import ConfigurationError
from engine.metaparameters.learning_rate import LearningRatePoints
from engine.problems.built import build_problem
from engine.recipes.files import load_recipe
from engine.recipes.rate_search import OneCycle, Searched, one_cycles
from engine.routine.outputs import classification_scores
from engine.stages.run import Run
from tests.helpers.runs.made_records import make_record
from tests.helpers.runs.tiny_recipe import SCHEDULE


def small(*changes):
    return load_recipe("digits-schedule", [*SCHEDULE, *changes])


def test_grid_of_any_size_has_as_many_different_schedules():
    """A smaller grid is spread over the whole one, so that it has high and low peaks alike."""
    for number in (1, 7, 100, 1000):
        assert len({cycle.model_dump_json() for cycle in one_cycles(number)}) == number
    assert len({cycle.peak for cycle in one_cycles(20)}) == 10


def test_one_cycle_passes_through_its_four_numbers():
    """First rate, peak at its place, last rate, straight lines between."""
    cycle = OneCycle(peak=2.0, position=0.25, start=0.1, end=0.5)

    rates = one_cycle_rates(cycle, base=0.3, num_steps=9)

    expected = [0.06, 0.33, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3]
    torch.testing.assert_close(rates, torch.tensor(expected, dtype=torch.float64))


def test_batched_schedules_score_what_trainings_one_by_one_score():
    """A rate that is set in the wrong step, or of the wrong run, would still give a loss."""
    problem = build_problem(small())
    rates = [one_cycle_rates(cycle, 0.3, 10) for cycle in one_cycles(3)]
    validation = problem.held_out["validation"]

    found = score_schedules(problem, rates)

    for row, line in zip(found, rates, strict=True):
        (name,) = problem.routine.metaparameters
        kind = LearningRatePoints(line.log().float(), num_steps=10)
        routine = replace(problem.routine, metaparameters={name: kind})
        scores = routine.evaluate(
            lambda model: classification_scores(model, validation.inputs, validation.labels),
            train(routine),
        )
        assert row[1] == pytest.approx(scores["loss"], rel=1e-4)


def test_diverging_schedule_costs_only_itself():
    """One rate that is far too high must not take the chunk with it."""
    problem = build_problem(small())
    good = torch.full((10,), 0.3, dtype=torch.float64)

    found = score_schedules(problem, [good, 1e30 * good, good])

    assert math.isinf(found[1][0])
    assert math.isfinite(found[0][0])
    assert found[0] == pytest.approx(found[2])


def test_grid_is_the_same_in_chunks_and_at_once(tmp_path):
    """Chunks are a matter of cost: best, rank and losses do not depend on them."""
    recipe = small("schedules.grid=6")
    run = Run(recipe, str(tmp_path))

    whole = read_grid(run, [train_chunk(run, 0, 6, grid=6)])
    parts = [train_chunk(run, *ends, grid=6) for ends in ((0, 4), (4, 6))]

    assert read_grid(run, parts).losses == pytest.approx(whole.losses, rel=1e-4)
    assert whole.trainings == 6
    assert whole.best["validation"] == whole.losses[0]
    assert len(whole.rates) == 10


def test_optuna_starts_where_the_descent_starts_and_repeats(tmp_path):
    """Equal trainings from the same start; a seeded search is a stage like any other."""
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    recipe = small()
    runs = [Run(recipe, str(tmp_path / name)) for name in ("one", "two")]

    refs = [search_optuna(run, 4, 0) for run in runs]
    found = read_optuna(runs[0], refs[0])

    flat = score_schedules(build_problem(recipe), [torch.full((10,), 0.3, dtype=torch.float64)])
    assert refs[0] == refs[1]
    assert found.trainings == 4
    assert found.best["validation"] <= flat[0][1] * (1 + 1e-6)


def test_rank_counts_those_that_are_better():
    """Rank 1 is better than all of the grid."""
    found = Searched(trainings=4, failed=1, best={}, rates=[], losses=[0.1, 0.2, 0.3])

    assert [found.rank(loss) for loss in (0.05, 0.2, 0.25, 9.0)] == [1, 2, 3, 4]


def test_searches_of_another_question_are_refused():
    """A selection has no learning rate to search."""
    with pytest.raises(ConfigurationError, match=r"schedules.*counts.*schedules\.grid=0"):
        load_recipe("digits-selection", ["schedules.grid=10"])


def test_report_says_where_the_descent_stands_and_that_optuna_is_missing():
    """What was asked for and not done is told, with the way to do it."""
    grid = Searched(
        trainings=4, failed=0, best={"validation": 0.4, "test": 0.5}, rates=[], losses=[0.4, 0.6]
    )
    record = make_record(kind="learning-rate", schedules={"optuna": True})

    place, missing = schedule_findings(record.model_copy(update={"grid": grid}))

    assert "number 2 by validation" in place
    assert "optuna" in missing
