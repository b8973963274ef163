"""Attribution: its parts against hand-made oracles, and the paper's direction on small digits."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from engine.applications.attribution import record as record_module
from engine.applications.attribution.record import OWN, AttributionRecord, judged_baselines
from engine.applications.attribution.report import as_csv
from engine.applications.attribution.scores import (
    datamodeling_scores,
    final_gradient_scores,
    kept_weights,
    predicted_effects,
    query_batch,
    query_outputs,
)
from engine.applications.attribution.trak import check_trak, trak_is_installed, trak_scores
from engine.applications.attribution.trial import try_removals
from engine.errors import ConfigurationError, DataError
from engine.preflight.verdict import Verdict
from engine.problems.built import build_problem
from engine.problems.data.own_examples import as_examples
from engine.problems.data.splits import Examples
from engine.recipes.attribution import Queries, Removals
from engine.recipes.files import load_recipe, validate_recipe
from engine.recipes.replay import ReplaySettings
from engine.recipes.training import Retraining
from engine.reports.intervals import interval
from tests.helpers.runs.tiny_attribution import tiny_attribution

TINY = tiny_attribution()


def problem_of(**changes):
    return build_problem(validate_recipe({**TINY, **changes}, "test").descent)


def digits(learning_rate):
    """A smaller twin of the recipe ``digits-attribution``."""
    changes = ["arguments.num_train=200", "training.num_steps=40", "training.batch_size=50"]
    changes += ["arguments.model.width=16", "arguments.model.depth=1"]
    rate = f"training.learning_rate={learning_rate}"
    return build_problem(load_recipe("digits-attribution", [*changes, rate]).descent)


def trial(problem):
    settings = Queries(number=3), Removals(percent=5, seed=3)
    return try_removals(problem, *settings, 12, Retraining.BATCHED, ReplaySettings())


@pytest.mark.slow
def test_predictions_hold_in_a_smooth_run_and_not_at_a_far_higher_rate():
    """The paper's result and its condition; the trial before a sweep tells which it is."""
    smooth, chaotic = trial(digits(0.04)), trial(digits(0.8))

    assert smooth.verdict is Verdict.PASS
    assert smooth.value > 0.9
    assert chaotic.verdict is Verdict.REFUSE
    assert abs(chaotic.value) < 0.3
    assert "learning_rate" in chaotic.remedy


def test_final_gradient_scores_are_dot_products_of_single_gradients():
    """The baseline differentiates twice to get them at once; here they are made one by one."""
    problem = problem_of()
    routine, queries = problem.routine, Queries(number=3)
    state = routine.initial_state()

    found = final_gradient_scores(problem, queries, state)

    def gradient(inputs, labels):
        params = state["params"].clone().requires_grad_()
        loss = routine.evaluate(
            lambda model: cross_entropy(model(inputs[None]), labels[None]), {"params": params}
        )
        return torch.autograd.grad(loss, params)[0]

    asked = torch.stack([gradient(*each) for each in zip(*query_batch(problem, queries))])  # noqa: B905
    trained = torch.stack([gradient(*each) for each in zip(*routine.examples)])  # noqa: B905
    torch.testing.assert_close(found, -asked @ trained.T, rtol=1e-10, atol=1e-14)


def test_each_output_is_the_loss_of_its_own_query():
    """A closure over the loop's variable would give all of them the last one."""
    problem = problem_of()
    state, queries = problem.routine.initial_state(), Queries(number=3)
    inputs, labels = query_batch(problem, queries)

    found = [problem.routine.evaluate(phi, state) for phi in query_outputs(problem, queries)]

    expected = problem.routine.evaluate(
        lambda model: cross_entropy(model(inputs), labels, reduction="none"), state
    )
    torch.testing.assert_close(torch.stack(found), expected)


def test_the_score_is_a_rank_correlation_for_each_query():
    """Any monotone relation is perfect; scores that say nothing have 0, not NaN."""
    predicted = torch.tensor([[0.0, 1.0, 5.0], [1.0, 2.0, 5.0], [2.0, 0.0, 5.0]])
    actual = torch.tensor([[1.0, 2.0, 1.0], [10.0, 1.0, 2.0], [11.0, 3.0, 3.0]])

    assert datamodeling_scores(predicted, actual) == pytest.approx([1.0, -1.0, 0.0])


def test_a_prediction_is_minus_the_sum_of_the_scores_that_are_left_out():
    """The sign decides between 1 and -1."""
    scores, weights = torch.tensor([[1.0, 10.0, 100.0]]), torch.tensor([[1.0, 0.0, 0.0]])

    assert predicted_effects(scores, weights).tolist() == [[-110.0]]


def test_an_interval_holds_its_mean_and_shrinks_with_the_spread():
    """It is over queries; equal values leave nothing to doubt."""
    found = interval([0.1, 0.5, 0.9, 0.5])

    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx(0.5)
    assert interval([0.3, 0.3]).low == interval([0.3, 0.3]).high


def test_subsets_are_of_one_size_and_differ():
    """Equal subsets would count one training twice."""
    removals = Removals(percent=10)

    weights = torch.stack([kept_weights(removals, 50, number) for number in range(8)])

    assert (weights == 0).sum(dim=1).tolist() == [5] * 8
    assert len(weights.unique(dim=0)) == 8
    assert torch.equal(weights[3], kept_weights(removals, 50, 3))


def test_a_share_of_less_than_one_example_is_refused():
    """It would judge nothing."""
    with pytest.raises(DataError, match=r"1 %, which is 0 of 40 training examples"):
        kept_weights(Removals(percent=1), 40, 0)


def test_more_queries_than_the_split_has_are_refused():
    """With the setting to change."""
    with pytest.raises(DataError, match=r"num_queries is 99, but the split validation has 20"):
        query_batch(problem_of(), Queries(split="validation", number=99))


def test_attribution_to_anything_but_weights_is_refused():
    """The removals that judge it are weights of 0."""
    with pytest.raises(ConfigurationError, match=r"metaparameters.name is learning-rate"):
        validate_recipe({**TINY, "metaparameters": {"name": "learning-rate"}}, "test")


@pytest.mark.skipif(not trak_is_installed(), reason="the package traker is not installed")
def test_trak_calls_copies_of_the_query_helpful(capfd):
    """Its scores are turned so that, as ours, a negative one means that more helps."""
    own = {"num_train": 200, "model": {"name": "logistic"}}
    problem = problem_of(arguments=TINY["arguments"] | own)
    queries = Queries(number=5)

    scores = trak_scores(problem, queries, problem.routine.initial_state(), dimension=128, seed=0)

    assert capfd.readouterr().err == ""  # its bars stood between those of the run
    assert scores.shape == (5, 200)
    _, asked = query_batch(problem, queries)
    same = asked[:, None] == problem.routine.examples[1][None]
    assert scores[same].mean() < scores[~same].mean()


@pytest.mark.skipif(trak_is_installed(), reason="the package traker is installed")
def test_trak_without_its_package_is_refused():
    """A flow leaves it out and says so; a direct call must not return zeros."""
    problem = problem_of()

    with pytest.raises(ConfigurationError, match=r"needs the package traker"):
        trak_scores(
            problem, Queries(number=2), problem.routine.initial_state(), dimension=4, seed=0
        )


def _rows(labels):
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    return {"x": x} if labels is None else (x, labels)


@pytest.mark.parametrize(
    ("labels", "instead"),
    [(torch.ones(40), "no classes"), (None, "are not two tensors")],
    ids=["a quantity", "a dict"],
)
def test_trak_of_what_is_no_classifier_is_refused_before_training(labels, instead):
    """It failed in the middle of a run, in words of torch about indices."""
    problem = problem_of()
    routine = replace(problem.routine, examples=_rows(labels))

    with pytest.raises(ConfigurationError, match=rf"{instead}.*baselines: \[final-gradient\]"):
        check_trak(replace(problem, routine=routine))


@pytest.mark.parametrize("installed", [True, False])
def test_baselines_that_nobody_names_are_those_that_the_problem_can_have(installed, monkeypatch):
    """A table with a number for a label had to say so in a setting, or was refused."""
    monkeypatch.setattr(record_module, "trak_is_installed", lambda: installed)
    recipe = validate_recipe(TINY, "test")
    problem = build_problem(recipe.descent)

    of_classes = judged_baselines(recipe)
    quantities = replace(problem, routine=replace(problem.routine, examples=_rows(torch.ones(40))))
    monkeypatch.setattr(record_module, "build_problem", lambda *_: quantities)
    of_numbers = judged_baselines(recipe)

    assert of_classes["final-gradient"] is of_numbers["final-gradient"] is None
    missing = None if installed else "TRAK was not measured: the package traker is not installed."
    assert of_classes["trak"] == missing
    assert "it needs a classifier, and the examples have labels that are no" in of_numbers["trak"]


def test_baselines_that_are_named_are_judged_or_left_out_with_a_word(monkeypatch):
    """None is none; one that is named needs no look at the problem."""
    monkeypatch.setattr(record_module, "trak_is_installed", lambda: False)
    named = {
        names: validate_recipe({**TINY, "attribution": {"baselines": list(names)}}, "test")
        for names in [(), ("final-gradient",), ("trak",)]
    }

    found = {names: judged_baselines(recipe) for names, recipe in named.items()}

    assert found[()] == {}
    assert found["final-gradient",] == {"final-gradient": None}
    assert "traker is not installed" in found["trak",]["trak"]


def trained_on(rows, names=()):
    """The digits' problem with other training examples, for whoever reads no more of it."""
    problem = problem_of()
    splits = {**problem.data.splits, "train": rows}
    return replace(problem, data=replace(problem.data, splits=splits, names=names))


def test_scores_of_ones_own_batches_are_written_without_labels():
    """Nobody knows what of a dict is a label; the table of the scores ended in a KeyError."""
    rows = as_examples("train", {"x": torch.zeros(3, 2)}, torch.float64)

    text = as_csv(torch.tensor([[1.0, 2.0, 3.0]]), trained_on(rows, names=("a", "=b", "c")))

    assert text.splitlines() == ["example,name,query_0", "0,a,1.0", "1,'=b,2.0", "2,c,3.0"]


def test_scores_of_rows_with_a_quantity_have_it_as_it_is():
    """A price of 2.7 was written as 2."""
    rows = Examples(torch.zeros(2, 1), torch.tensor([2.75, -0.5]))

    text = as_csv(torch.tensor([[1.0, 2.0]]), trained_on(rows))

    assert text.splitlines() == ["example,label,query_0", "0,2.75,1.0", "1,-0.5,2.0"]


def test_final_gradients_are_those_of_ones_own_batches_too():
    """Samples by index, as a Trainer has them, have no columns; a run ended in a TypeError."""
    problem = problem_of()
    state, queries = problem.routine.initial_state(), Queries(number=2)
    inputs, labels = problem.routine.examples
    samples = as_examples("train", list(zip(inputs, labels, strict=True)), torch.float64)
    others = replace(problem.routine, examples=samples.batches(torch.device("cpu")))

    found = final_gradient_scores(replace(problem, routine=others), queries, state)

    expected = final_gradient_scores(problem, queries, state)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert found.shape == (2, 40)


def test_attribution_of_a_quantity_is_told_without_an_accuracy():
    """Rows with a number for a label have a test loss alone."""
    recipe = validate_recipe(TINY, "test")
    record = AttributionRecord.model_construct(
        recipe=recipe, scores={"test": {"loss": 0.25}}, lds={OWN: {}}
    )

    assert record.findings()[0].endswith("the model's test loss is 0.250.")
    record.scores["test"]["accuracy"] = 0.5
    assert record.findings()[0].endswith("test accuracy is 50.0 %, its test loss is 0.250.")
