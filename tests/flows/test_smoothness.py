"""The flows of metasmoothness, on Prefect's own engine, and the recipe that a search writes."""

import itertools
import shlex
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from engine.applications.smoothness.record import SmoothnessRecord
from engine.applications.smoothness.search import (
    Measured,
    SearchRecord,
    Trial,
    choose,
    closest_rate,
    pareto,
)
from engine.errors import ConfigurationError, NonFiniteError
from engine.preflight.metasmoothness import draw_direction, shifted
from engine.preflight.metasmoothness import metasmoothness as measure_directly
from engine.problems.built import build_problem
from engine.progress.meter import Meter, heard_by
from engine.recipes.files import load_recipe, load_to_measure, to_measure, validate_recipe
from engine.recipes.names import run_name
from engine.replay.plain_training import evaluate, train_unchecked
from engine.runs.overview import describe, list_overviews, overview
from engine.runs.predicted import compare
from engine.runs.report import from_nothing
from engine.runs.run import find_run, read_recipe
from engine.stages.run import Run
from engine.stages.training import prepare
from engine.storage.places import run_folder
from engine.storage.records import read_bytes
from flows.metasmoothness import landscape_distances, metasmoothness
from flows.smooth_search import _score as score_once
from flows.smooth_search import smooth_search
from tasks.running.workers import Workers
from tests.helpers.data import own_problem

TINY = {
    "name": "tiny",
    "arguments": {
        "num_train": 60,
        "num_objective": 30,
        "num_validation": 30,
        "model": {"width": 8, "depth": 1},
    },
    "training": {"num_steps": 6, "batch_size": 20, "threads": 1, "learning_rate": 0.1},
    "replay": {"steps_per_segment": 4},
    "outer": {"update": "sign"},
    "metaparameters": {"name": "weights"},
}


def measurement(**smoothness):
    content = {**TINY, "kind": "metasmoothness", "smoothness": {"directions": 2, **smoothness}}
    return validate_recipe(content, "test")


def point(validation, definition_2):
    return Measured(
        learning_rate=0.1,
        validation=validation,
        test=1.0,
        definition_1=1.0,
        definition_2=definition_2,
        run="run",
    )


@pytest.fixture(scope="module")
def record(prefect_server, tmp_path_factory):
    """One measurement, and where it is."""
    store = str(tmp_path_factory.mktemp("store"))
    return metasmoothness(measurement(landscape=2), store), store


@pytest.mark.slow
def test_the_flow_measures_what_the_engine_measures_in_one_process(record):
    """Through zarr, segments and stages not a bit is lost."""
    found, _ = record
    problem = build_problem(found.recipe.descent)
    torch.set_num_threads(1)

    expected = measure_directly(
        problem.routine,
        problem.output,
        found.recipe.smoothness,
        groups=problem.data.splits["train"].labels,
    )

    assert found.definition_2.model_dump() == expected.definition_2.content()
    assert found.definition_1.directions == pytest.approx(expected.definition_1.directions)


@pytest.mark.slow
def test_the_same_flow_again_trains_nothing(record):
    """Every training is named by its content, and so is every comparison."""
    found, store = record

    again = metasmoothness(found.recipe, store)

    assert again.stages.cached == again.stages.total == found.stages.total
    assert found.stages.cached == 0
    assert again.definition_2 == found.definition_2


@pytest.mark.slow
def test_more_directions_reuse_those_that_were_measured(record):
    """The trainings of a direction do not depend on how many there are."""
    _, store = record
    found = metasmoothness(measurement(landscape=2, retraining="loop"), store)

    more = metasmoothness(measurement(landscape=2, directions=3, retraining="loop"), store)

    # A perturbed point, two segments each for two trainings, and the comparison.
    assert more.stages.total - more.stages.cached == 2 * (1 + 2) + 1
    assert more.definition_2.directions[:2] == found.definition_2.directions


@pytest.mark.slow
def test_trainings_together_are_those_one_by_one(record):
    """One stage in place of all others, and the numbers of single trainings to rounding."""
    found, store = record

    alone = metasmoothness(measurement(landscape=2, retraining="loop"), store)

    assert [ref.stage for ref in found.compared] == ["along"]
    assert {ref.stage for ref in alone.compared} == {"compare"}
    assert found.one_by_one is alone.one_by_one is None
    assert alone.stages.total - found.stages.total == 6 * 3 + 2 + 2 - 1
    for one, other in zip(
        found.definition_2.directions, alone.definition_2.directions, strict=True
    ):
        assert one == pytest.approx(other, abs=1e-3)
    for (place, one), (same, other) in zip(found.landscape, alone.landscape, strict=True):
        assert place == same
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.slow
def test_what_cannot_go_together_goes_one_by_one_and_says_so(prefect_server, tmp_path):
    """Batch normalization couples the examples of a batch and keeps statistics."""
    content = {**TINY, "kind": "metasmoothness", "smoothness": {"directions": 1, "landscape": 0}}
    model = {**TINY["arguments"]["model"], "norm": "batch"}
    content["arguments"] = {**TINY["arguments"], "model": model}

    found = metasmoothness(validate_recipe(content, "test"), str(tmp_path))

    assert found.one_by_one is not None
    assert "running statistics" in found.one_by_one
    assert any("one by one" in line for line in found.findings())
    assert [ref.stage for ref in found.compared] == ["compare"]


@pytest.mark.slow
def test_examples_without_labels_of_their_own_are_moved_one_by_one(prefect_server, tmp_path):
    """Directions go by class where each example has one label; batches that are dicts have none."""
    changes = ["metaparameters={name: weights}", "outer={num_steps: 1, update: sign}"]
    recipe = to_measure(own_problem.own(tmp_path, changes=changes), {"directions": 2}, [])
    store = str(tmp_path / "store")

    found = metasmoothness(recipe, store)

    problem = build_problem(recipe.descent)
    expected = measure_directly(problem.routine, problem.output, recipe.smoothness)
    assert found.definition_2.model_dump() == expected.definition_2.content()


@pytest.mark.slow
def test_a_measurement_leaves_its_figure_and_can_be_found_by_its_name(record):
    """The landscape has its distances in order and is a PNG image; resume reads the recipe."""
    found, store = record

    image = read_bytes(run_folder(store, found.run) + "/landscape.png")

    assert [distance for distance, _ in found.landscape] == pytest.approx(
        [-0.05, 0, 0.05, 0.1, 0.15]
    )
    assert image is not None
    assert image.startswith(b"\x89PNG")
    assert read_recipe(store, find_run(store, found.run[:11])) == found.recipe


@pytest.mark.slow
def test_the_landscape_is_the_output_of_trainings_along_the_first_direction(record):
    """Three of its points are those that were compared, and the others are trained besides."""
    found, _ = record
    problem = build_problem(found.recipe.descent)
    z = problem.routine.point()
    groups = problem.data.splits["train"].one_label_each
    direction = draw_direction(z, found.recipe.smoothness, 0, groups)

    for distance, height in found.landscape:
        state = train_unchecked(problem.routine, shifted(z, direction, distance))
        expected = float(evaluate(problem.routine, state, problem.output))
        assert height == pytest.approx(expected, rel=1e-6)
    assert len({height for _, height in found.landscape}) == 5


def test_a_report_says_how_to_measure_again_and_what_was_changed():
    """A descent has no settings of measuring, so they were no changes, and no command was told."""
    changes = ["training.num_steps=50", "smoothness.directions=3"]
    asked = load_to_measure("digits-selection", changes, {})
    record = SmoothnessRecord.model_construct(recipe=asked, run=run_name(asked.descent))

    command = from_nothing(record)

    assert command is not None
    words = shlex.split(command)
    assert words[:3] == ["mgd", "smoothness", "digits-selection"]
    given = [change for option, change in itertools.pairwise(words) if option == "--set"]
    assert sorted(given) == sorted(changes)
    assert load_to_measure("digits-selection", given, {}) == asked


@pytest.mark.slow
def test_a_search_writes_a_recipe_that_can_be_run(prefect_server, tmp_path):
    """What was chosen is handed on as settings, with the rate that was chosen."""
    content = {
        **TINY,
        "kind": "smooth-search",
        "smoothness": {"directions": 1, "landscape": 0},
        "search": {
            "grid": {"arguments.model.activation": ["relu", "gelu"]},
            "candidates": [{"training.learning_rate": 1e9}],
            "learning_rates": [0.1, 0.5],
        },
    }

    meter = Meter()
    with heard_by(meter):
        found = smooth_search(validate_recipe(content, "test"), str(tmp_path))
    whole = meter.boards[0].snapshot()
    assert whole.title.startswith("tiny")
    assert (whole.noun, whole.is_finished, whole.running) == ("parts", True, ())
    assert len(meter.boards) - 2 <= whole.done <= whole.total == 3 * 4
    chosen = load_recipe(found.recipe_url)

    names = [trial.name for trial in found.trials]
    assert names == ["baseline", "activation relu", "learning_rate 1000000000.0"]
    assert chosen.kind == "descent"
    assert chosen.training.learning_rate == found.learning_rate
    assert chosen.arguments["model"]["activation"] == (
        "relu" if found.chosen == "activation relu" else "gelu"
    )
    prepare(Run(chosen, str(tmp_path)))
    started = [each for each in list_overviews(str(tmp_path)) if not each.part_of]
    parts = describe(str(tmp_path), found.run)[0].parts
    assert [each.run for each in started] == [found.run]
    assert started[0].parts == len(parts)
    assert parts[0].part == "baseline"
    assert {each.part for each in parts} >= {"baseline", "activation relu"}
    assert all(each.verdict for each in parts)
    assert (tmp_path / "runs" / found.run / "search.png").is_file()
    assert any(trial.nominal.pareto for trial in found.trials if trial.nominal)
    (chosen_row,) = [row for row in found.rows() if row["chosen"]]
    assert chosen_row["routine"] == found.chosen
    assert chosen_row["validation"] == found.point.validation  # a number, where the table has words
    assert len(found.rows()) == 2 * len(names)
    (seconds,) = compare(str(tmp_path), overview(str(tmp_path), found.run))
    assert seconds.what == "seconds of the run"
    assert seconds.predicted > 0
    assert seconds.actual > 0.04 * len(parts)  # what the parts have computed


def test_a_search_that_stays_with_its_baseline_says_why():
    """It compared the baseline with itself, twice, to four digits."""
    trials = [
        Trial(name=name, nominal=each, rates={}, matched=each)
        for name, each in {"baseline": point(1.0, 0.6), "activation gelu": point(2.0, 0.9)}.items()
    ]
    recipe = SimpleNamespace(search=SimpleNamespace(tolerance=0.1))

    def said(chosen):
        record = SimpleNamespace(
            headline=lambda: "Chosen.", trials=trials, chosen=chosen, recipe=recipe, target=1.0
        )
        return SearchRecord.findings(record)

    assert said("baseline") == [
        "Chosen.",
        "No routine within 10 % of the lowest validation loss is smoother.",
    ]
    assert "metasmoothness 0.900, and 0.600 for the baseline" in said("activation gelu")[1]


def test_a_point_is_pareto_if_no_other_is_better_in_both():
    """A routine that diverged is none; equal points are both."""
    points = [point(1.0, 0.5), point(2.0, 0.9), point(2.0, 0.4), None, point(1.0, 0.5)]

    assert pareto(points) == [True, True, False, False, True]


def test_the_rate_that_matches_is_the_one_whose_loss_is_closest():
    """Equal nominal rates confound smoothness with learning little."""
    assert closest_rate({0.1: 2.0, 0.2: 1.1, 0.4: None, 0.8: 0.5}, 1.0) == 0.2
    assert closest_rate({0.1: None}, 1.0) is None


def test_the_smoothest_of_the_good_routines_is_chosen():
    """Smoothness that costs the loss is easy: train nothing."""
    good, smooth = point(1.0, 0.6), point(1.05, 0.9)
    idle = point(2.3, 0.99)
    trials = [
        Trial(name=str(i), nominal=each, rates={}, matched=None)
        for i, each in enumerate((good, smooth, idle))
    ]

    assert choose(trials, 0.1) == (trials[1], smooth)
    assert choose(trials, 0.01) == (trials[0], good)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"grid": {"arguments.model.activaton": ["relu"]}}, "activaton"),
        ({"grid": {"activation": ["relu"]}}, "'activation', which is not a setting of the menu"),
        ({"candidates": [{"arguments.model.width": -1}]}, "greater than or equal to 1"),
    ],
)
def test_a_menu_of_impossible_settings_is_refused(search, message):
    """Before the first training, with the name of the setting."""
    with pytest.raises(ConfigurationError, match=message):
        validate_recipe({**TINY, "kind": "smooth-search", "search": search}, "test")


def test_search_shows_a_training_that_diverged_as_stopped(monkeypatch):
    """It is an answer of the search; its own bar ended at 100 %, "Finished"."""
    shown = []

    @contextmanager
    def following(*given):
        try:
            yield None
        except NonFiniteError:
            shown.append("stopped")
            raise
        shown.append("finished")

    def diverge(*given, **inputs):
        raise NonFiniteError("the loss is NaN")

    stages = SimpleNamespace(run=diverge)
    monkeypatch.setattr("flows.smooth_search.following", following)
    monkeypatch.setattr("flows.smooth_search.StageRunner", lambda *given: stages)

    assert score_once(load_recipe("digits-selection"), "a store", Workers()) is None
    assert shown == ["stopped"]


def test_any_recipe_can_be_measured_with_settings_of_its_own():
    """The command takes a descent's recipe and its options."""
    descent = load_recipe("digits-selection")

    made = to_measure(descent, {"directions": 3, "by": "example"}, ["smoothness.seed=7"])

    assert (made.smoothness.directions, made.smoothness.seed) == (3, 7)
    assert made.descent.training == descent.training
    with pytest.raises(ConfigurationError, match="directions is 0"):
        to_measure(descent, {"directions": 0}, [])


def test_landscape_points_lie_on_both_sides():
    """Those that the definitions compare are there already."""
    assert landscape_distances(3, 0.5) == [1.5, -0.5, 2.0]
    assert landscape_distances(0, 0.5) == []
