"""Canaries: their gradient against central differences, and audits against single trainings."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from engine.applications.canaries.canaries import (
    Canaries,
    audit,
    canary_training,
    draw_inside,
    first_canaries,
    gap_loss,
    pixel_gradient,
    point_of,
    with_wrong_labels,
)
from engine.applications.canaries.record import prepare
from engine.applications.canaries.report import compare
from engine.applications.canaries.stages import move_canaries
from engine.errors import ConfigurationError, DataError
from engine.problems.built import build_problem
from engine.recipes.files import validate_recipe
from engine.recipes.training import Retraining
from engine.replay import metagradient as differentiate
from engine.replay.batched import train_many
from engine.stages.keys import stage_key
from engine.stages.run import Run
from engine.stages.training import preflight, reverse_segment

TINY = {
    "kind": "canaries",
    "name": "tiny",
    "arguments": {
        "num_train": 40,
        "num_objective": 20,
        "num_validation": 20,
        "model": {"width": 6, "depth": 1},
    },
    "training": {"num_steps": 8, "batch_size": 10, "threads": 1, "dtype": "float64"},
    "canaries": {"num_canaries": 6, "num_audits": 3},
    "outer": {"update": "Adam", "num_steps": 2},
}


@pytest.fixture
def recipe():
    return validate_recipe(TINY, "test").descent


@pytest.fixture
def problem(recipe):
    return build_problem(recipe)


def test_the_pixels_count_in_training_and_at_the_end(recipe, problem):
    """Central differences see both; a gradient without the direct part is off by far."""
    canaries, inside = first_canaries(problem, 6), draw_inside(6, 0, "step", 0)
    drawn = torch.Generator().manual_seed(0)
    direction = torch.randn(canaries.images.shape, generator=drawn, dtype=torch.float64)

    phi, gradient, _ = pixel_gradient(recipe, problem, canaries, inside, 7)

    def gap_at(distance):
        moved = Canaries(canaries.images + distance * direction, canaries.labels)
        training = canary_training(problem, moved, 7)
        point = point_of(problem, moved, inside, 7)
        (state,) = train_many(training, [point], together="loop")
        return float(
            training.evaluate(lambda model: gap_loss(problem.loss, model, moved, inside), state)
        )

    difference = (gap_at(1e-5) - gap_at(-1e-5)) / 2e-5
    assert phi == pytest.approx(gap_at(0.0), rel=1e-12)
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "replay",
    [
        {"vjp": "forward-over-reverse"},
        {"micro_batch": 3},
        {"unroll": 4, "schedule": "store-all"},
        {"schedule": "binomial", "num_slots": 2},
        {"schedule": "two-level", "num_slots": 1, "slow_slots": 1},
        {"schedule": "auto"},
    ],
    ids=lambda replay: " ".join(replay),
)
def test_settings_of_the_replay_are_obeyed(problem, recipe, replay, monkeypatch):
    """They were ignored without a word: all but two never reached the sweep."""
    canaries, inside = first_canaries(problem, 6), draw_inside(6, 0, "step", 0)
    _, expected, _ = pixel_gradient(recipe, problem, canaries, inside, 7)
    asked, seen = validate_recipe({**TINY, "replay": replay}, "test").descent, []

    def watched(name):
        function = getattr(differentiate, name)

        def call(first, **named):
            seen.append((name, first, named))
            return function(first, **named)

        monkeypatch.setattr(differentiate, name, call)

    watched("make_vjp")
    watched("schedule_maker")

    _, found, _ = pixel_gradient(asked, problem, canaries, inside, 7)

    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)
    products = [(mode, named["micro_batch"]) for name, mode, named in seen if name == "make_vjp"]
    assert products == [(asked.replay.vjp, asked.replay.micro_batch)]
    wanted = {name: getattr(asked.replay, name) for name in replay}
    carried_out = seen[-1][1].model_dump()
    if wanted == {"schedule": "auto"}:
        assert carried_out["schedule"] != "auto"
    else:
        assert {name: carried_out[name] for name in wanted} == wanted


def test_a_cap_on_memory_holds_for_canaries(problem):
    """The caps are settings of the replay as well."""
    asked = validate_recipe({**TINY, "replay": {"max_device_bytes": 1}}, "test").descent

    with pytest.raises(ConfigurationError, match="bytes are needed and max_device_bytes is 1"):
        pixel_gradient(asked, problem, first_canaries(problem, 6), draw_inside(6, 0), 7)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [move_canaries, reverse_segment, preflight])
def test_how_a_step_is_reversed_is_part_of_the_key(stage):
    """It moves the last digits, and one key has one set of bits."""
    changes = ({}, {"vjp": "forward-over-reverse"}, {"micro_batch": 3})
    recipes = [validate_recipe({**TINY, "replay": replay}, "test") for replay in changes]

    keys = {stage_key(stage.declared, Run(recipe.descent, ""), {}) for recipe in recipes}

    assert len(keys) == 3


def test_an_audit_is_a_training_without_those_outside(problem):
    """Examples of weight 0 teach nothing: their pixels can be anything."""
    canaries = first_canaries(problem, 6)

    losses, inside = audit(problem, canaries, 3, 5, Retraining.LOOP)

    images = canaries.images.clone()
    images[~inside[1]] = 9.0
    other = Canaries(images, canaries.labels)
    again, same = audit(problem, other, 3, 5, Retraining.LOOP)
    assert torch.equal(inside, same)
    assert torch.equal(losses[1][inside[1]], again[1][inside[1]])
    assert inside.sum(dim=1).tolist() == [3, 3, 3]
    assert len(inside.unique(dim=0)) > 1


def test_batched_audits_find_what_single_ones_find(problem):
    """To rounding: each run has its own start, order and half."""
    canaries = first_canaries(problem, 6)

    batched, _ = audit(problem, canaries, 3, 5, Retraining.BATCHED)
    looped, _ = audit(problem, canaries, 3, 5, Retraining.LOOP)

    torch.testing.assert_close(batched, looped, rtol=1e-9, atol=1e-12)
    assert (looped[0] - looped[1]).abs().max() > 1e-3


def test_labels_of_canaries_are_what_they_are_trained_with(problem):
    """Wrong ones are another class each, and stand in the training's examples."""
    canaries = with_wrong_labels(first_canaries(problem, 6), 10, 0)

    training = canary_training(problem, canaries, 0)

    assert (canaries.labels != problem.routine.examples[1][:6]).all()
    assert torch.equal(training.examples[1][:6], canaries.labels)
    assert torch.equal(training.examples[1][6:], problem.routine.examples[1][6:])


def test_the_gap_is_out_minus_in():
    """By hand; a gap of the wrong sign would praise canaries that are forgotten."""
    losses = torch.tensor([[1.0, 3.0], [0.0, 4.0]])
    inside = torch.tensor([[True, False], [True, False]])

    found = compare(losses, inside)

    assert (found.gap, found.loss_in, found.loss_out, found.auc) == (3.0, 0.5, 3.5, 1.0)


def test_the_loss_of_the_gap_is_its_negative(problem):
    """Against torch's own loss."""
    canaries, inside = first_canaries(problem, 6), draw_inside(6, 1)
    model = problem.routine.model

    losses = cross_entropy(model(canaries.images), canaries.labels, reduction="none")

    expected = losses[inside].mean() - losses[~inside].mean()
    torch.testing.assert_close(gap_loss(problem.loss, model, canaries, inside), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metaparameters": {"name": "inputs"}}, r"metaparameters.name is inputs"),
        ({"replay": {"steps_per_segment": 5}}, r"replay.steps_per_segment is 5.*one segment"),
        ({"replay": {"max_store_bytes": 5}}, r"replay.max_store_bytes is 5.*max_device_bytes"),
    ],
    ids=["other kind", "segments", "store"],
)
def test_impossible_canaries_are_refused(changes, message):
    """Before anything is trained."""
    with pytest.raises(ConfigurationError, match=message):
        validate_recipe({**TINY, **changes}, "test")


def test_canaries_leave_other_examples(problem):
    """A training without those outside would have none at all."""
    with pytest.raises(DataError, match=r"num_canaries is 40.* has 40 training examples"):
        first_canaries(problem, 40)


def test_audit_that_cannot_be_batched_is_refused_before_the_training(tmp_path):
    """Its first stage would have trained and reversed before the audit said so."""
    model = {**TINY["arguments"]["model"], "norm": "batch"}
    changed = {**TINY, "arguments": {**TINY["arguments"], "model": model}}
    one_by_one = {**TINY["canaries"], "retraining": "loop"}

    with pytest.raises(ConfigurationError, match=r"canaries.retraining is batched.* to loop\."):
        prepare(validate_recipe(changed, "test"), str(tmp_path / "store"))
    assert not (tmp_path / "store" / "runs").exists()
    prepare(validate_recipe({**changed, "canaries": one_by_one}, "test"), str(tmp_path / "store"))
    prepare(validate_recipe(TINY, "test"), str(tmp_path / "other"))


def test_wrong_labels_are_wrong_all_of_them_and_of_every_other_class():
    """A canary with its own label would be none of the mislabelled ones."""
    labels = torch.arange(300) % 3
    canaries = Canaries(torch.zeros(300, 2), labels)

    wrong = with_wrong_labels(canaries, 3, seed=1).labels

    assert not (wrong == labels).any()
    assert set(zip(labels.tolist(), wrong.tolist(), strict=True)) == {
        (one, other) for one in range(3) for other in range(3) if one != other
    }
