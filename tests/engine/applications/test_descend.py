"""The outer loop without Prefect: what it takes, what it gives, and what it refuses."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import engine
from engine.applications.descent import loop
from engine.errors import ConfigurationError, UntrustworthyError, WitnessError
from engine.preflight.verdict import CheckReport
from engine.problems.built import build_problem
from engine.recipes.descent import OuterSettings
from engine.replay.refusals import later_steps
from tests.helpers.runs.tiny_recipe import small
from tests.helpers.trainings import routines

SIGN = {"update": "sign", "step_size": 0.2, "num_steps": 2}


def run():
    return routines.routine()


def held_out(model):
    return cross_entropy(model(routines.examples(30, seed=2)[0]), routines.examples(30, seed=2)[1])


@pytest.mark.slow
def test_a_routine_descends_by_its_own_outputs():
    """Each step follows the metagradient that the one call finds there."""
    outputs = {"objective": routines.output, "validation": held_out}

    found = engine.descend(run(), outputs, check=False, outer=SIGN)

    value = run().metaparameters["weights"].value
    for step in found.iterates:
        assert torch.equal(step.value, value)
        there = run().with_metaparameters({"weights": value})
        expected = engine.metagradient(there, routines.output, witness=False)
        assert step.scores["objective"]["loss"] == pytest.approx(expected.output, rel=1e-12)
        assert step.losses == expected.losses.tolist()
        if step.metagradient is not None:
            assert torch.equal(step.metagradient, expected["weights"])
            value = (value - 0.2 * step.metagradient.sign()).clamp(min=0)
    assert len(found.iterates) == 3


def test_the_trained_model_is_that_of_the_chosen_iterate():
    """Its loss on the split that chose is the one that was reported, and the lowest."""
    outputs = {"objective": routines.output, "validation": held_out}

    found = engine.descend(run(), outputs, check=False, outer=SIGN)

    losses = [step.scores["validation"]["loss"] for step in found.iterates]
    assert "neither preflight nor witness ran" in repr(found)
    assert "no step of this run was compared" in found._repr_html_()
    assert found.chosen == losses.index(min(losses))
    with torch.no_grad():
        assert float(held_out(found.model())) == losses[found.chosen]
    assert torch.equal(found.value, found.iterates[found.chosen].value)


@pytest.mark.slow
def test_a_store_holds_the_states_between_segments_and_changes_no_bit(tmp_path):
    """Also one in which an earlier call has left its states."""
    settings = {"check": False, "outer": SIGN, "replay": {"steps_per_segment": 7}}
    in_memory = engine.descend(run(), routines.output, **settings)

    for _ in range(2):
        stored = engine.descend(run(), routines.output, store=tmp_path / "states", **settings)

        assert all(
            torch.equal(one.value, other.value) and one.scores == other.scores
            for one, other in zip(in_memory.iterates, stored.iterates, strict=True)
        )
    assert (tmp_path / "states" / "zarr.json").exists()


def test_what_is_shown_says_what_happened_in_a_line():
    """No tensor is written out."""
    found = engine.descend(run(), routines.output, check=False, outer=SIGN)

    for shown in (repr(found), *map(repr, found.iterates)):
        assert "\n" not in shown
        assert "tensor" not in shown
    assert "2 outer steps; chosen" in repr(found)
    assert "objective loss" in repr(found)
    shown = found._repr_html_()
    assert shown.count("<polyline") == len(found.iterates[0].scores)
    assert f"outer step {found.chosen}, by its objective loss of" in shown


@pytest.mark.slow
def test_a_run_that_the_preflight_refuses_does_not_begin():
    """As for ``mgd run``; advise goes on."""

    def detached(model, batch):
        return routines.loss(model, batch) * model[0].weight.detach().square().mean()

    with pytest.raises(UntrustworthyError, match="preflight"):
        engine.descend(routines.routine(loss=detached), routines.output, outer=SIGN)


@pytest.mark.slow
def test_later_steps_are_heeded_as_the_preflight_is(monkeypatch, caplog):
    """What no twin of a preflight sees stops a descent, or is logged where that is advice."""
    monkeypatch.setattr(loop, "checked", lambda *_: CheckReport.of([]))  # which looks there too

    def wrong(routine, here):
        raise WitnessError(f"Off in step {here.step}.")

    monkeypatch.setattr(later_steps, "compare_loss", wrong)
    with pytest.raises(UntrustworthyError, match="Off in step .*preflight=advise"):
        engine.descend(run(), routines.output, outer=SIGN)
    assert engine.descend(run(), routines.output, outer=SIGN, preflight="advise").iterates
    assert "Off in step" in caplog.text


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: engine.descend(run()), "A Routine has no output to minimize. Hand one in"),
        (
            lambda: engine.descend(run(), {"validation": held_out}),
            "no 'objective', which is the output",
        ),
        (
            lambda: engine.descend(run(), held_out, outer={"update": "masked-sign"}),
            "ExampleWeights, but outer.update is masked-sign, which moves counts.*means sign",
        ),
        (
            lambda: engine.descend(run(), held_out, training={}),
            "setting 'training' is fixed by the Routine",
        ),
        (lambda: engine.descend(run(), held_out, outer={"steps": 1}), "steps"),
        (lambda: engine.descend(run(), held_out, replay={"arity": 1}), "arity"),
        (lambda: engine.descend(small(), held_out), "outputs= together with a DescentRecipe"),
        (
            lambda: engine.descend("digits-attribution"),
            "of kind attribution, but engine.descend takes",
        ),
        (lambda: engine.descend(3), "cannot take a int"),
        (lambda: engine.descend("digits-selection", traning={}), "traning"),
        (lambda: engine.descend(run(), held_out, preflight="warn"), "'enforce' or 'advise'"),
        (lambda: engine.descend(run(), held_out, outer=5), "outer is a int"),
        (lambda: engine.descend(run(), held_out, outer={"update": "sgd"}), "Did you mean 'SGD'"),
    ],
    ids=lambda each: None if callable(each) else each[:20],
)
def test_what_cannot_be_meant_is_refused_in_words(ask, message):
    """Before anything is trained."""
    with pytest.raises(ConfigurationError, match=message):
        ask()


def test_a_problem_brings_splits_and_metrics():
    """The one who calls names groups of a recipe; labels, metrics and splits are the problem's."""
    points, labels = routines.examples(90, dtype=torch.float32)
    model = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3))
    problem = engine.Problem(
        model=model,
        loss=routines.loss,
        train=(points[:50], labels[:50]),
        objective=(points[50:], labels[50:]),
        metrics={"accuracy": lambda model, batch: (model(batch[0]).argmax(1) == batch[1]).float()},
    )

    found = engine.descend(
        problem,
        check=False,
        training={"num_steps": 10, "batch_size": 10, "learning_rate": 0.1},
        metaparameters={"name": "weights"},
        outer=SIGN,
    )

    assert {"objective", "validation", "test"} == found.iterates[0].scores.keys()
    assert 0 <= found.iterates[0].scores["test"]["accuracy"] <= 1
    assert found.value.shape == (50,)


@pytest.mark.slow
def test_settings_change_the_groups_of_a_recipe():
    """What is not named stays as the recipe has it."""
    recipe = small("preflight=advise")

    found = engine.descend(recipe, check=False, outer={"num_steps": 1})

    assert len(found.iterates) == 2
    built = build_problem(recipe)
    expected = engine.metagradient(built.routine, built.output, witness=False)["counts"]
    assert torch.equal(found.iterates[0].metagradient, expected)


def misses(model, batch):
    """Probability of the wrong classes, as a metric of a problem's own."""
    return 1 - model(batch[0]).softmax(-1)[torch.arange(len(batch[1])), batch[1]]


def by_metric(**outer):
    x, y = routines.examples(90, seed=3)
    problem = engine.Problem(
        model=lambda seed: nn.Sequential(nn.Linear(x.shape[1], 8), nn.GELU(), nn.Linear(8, 3)),
        loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1], reduction="none"),
        train=(x[:40], y[:40]),
        objective=(x[40:60], y[40:60]),
        validation=(x[60:75], y[60:75]),
        test=(x[75:], y[75:]),
        metrics={"misses": misses},
    )
    return engine.descend(
        problem,
        check=False,
        training={"num_steps": 12, "batch_size": 10},
        metaparameters={"name": "weights"},
        outer={"num_steps": 4, "step_size": 0.5, "update": "sign", **outer},
    )


@pytest.mark.parametrize(("choose", "pick"), [("lowest", min), ("highest", max)])
def test_a_metric_of_ones_own_chooses_the_iterate(choose, pick):
    """The model handed back is the one that the metric says, and is scored again here."""
    found = by_metric(choose_by="misses", choose=choose)

    values = [step.scores["validation"]["misses"] for step in found.iterates]
    assert len(set(values)) > 1
    assert found.chosen == values.index(pick(values))
    x, y = routines.examples(90, seed=3)
    with torch.no_grad():
        again = misses(found.model(), (x[60:75].float(), y[60:75])).mean()
    assert float(again) == pytest.approx(values[found.chosen])
    assert f"validation misses {values[0]:.4g}" in repr(found)


@pytest.mark.parametrize(
    ("outer", "sentence"),
    [
        ({"choose_by": "missses"}, "loss, misses. Did you mean misses?"),
        ({"choose_by": "misses"}, "Set outer.choose to highest or lowest"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused_before_training(outer, sentence, monkeypatch):
    """It would be found out after all trainings."""
    monkeypatch.setattr(loop, "train_steps", None)

    with pytest.raises(ConfigurationError, match=sentence.replace("?", r"\?")):
        by_metric(**outer)


def test_what_is_not_a_number_never_chooses():
    """A precision without a hit is 0 / 0."""
    outer = OuterSettings(choose_by="precision", choose="highest")

    assert outer.best([float("nan"), 0.2, 0.4, 0.4]) == 2
    assert outer.best([float("nan")] * 2) == 0
