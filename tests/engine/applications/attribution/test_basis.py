"""Scores of queries by the sweep of a few directions, beside those of each query's own sweep."""

from functools import cache

import pytest
import torch

from engine.applications.attribution.basis import (
    basis_scores,
    relative_errors,
    seed_basis,
)
from engine.applications.attribution.basis_report import basis_of
from engine.applications.attribution.record import AttributionRecord, AttributionStages, prepare
from engine.applications.attribution.scores import query_outputs
from engine.errors import ConfigurationError
from engine.problems.built import build_problem
from engine.problems.segments import segments
from engine.recipes.files import validate_recipe
from engine.recipes.settings import digest
from engine.replay.metagradient import metagradients
from engine.stages import training
from engine.stages.commits import read_rows, read_scalars
from engine.stages.metagradient_rows import only_metagradient
from engine.stages.run import Run
from tests.helpers.runs.tiny_attribution import tiny_attribution

QUERIES, SIZE, CHECKED = 8, 4, 2

TINY = tiny_attribution(
    attribution={"num_queries": QUERIES, "basis": SIZE, "basis_checked": CHECKED}
)


def recipe_of(**changes):
    attribution = {**TINY["attribution"], **changes.pop("attribution", {})}
    return validate_recipe({**TINY, **changes, "attribution": attribution}, "test")


@cache
def exact():
    """Metagradients by a sweep of each query, shape (queries, examples)."""
    problem = build_problem(recipe_of().descent)
    outputs = query_outputs(problem, recipe_of().attribution.queries)
    found = metagradients(problem.routine, outputs, vjp="reverse-over-reverse")
    return torch.stack([each["weights"] for each in found])


def plain_derivatives(problem, params):
    """Derivatives of the queries' losses by autograd through the module, one by one."""
    model = problem.routine.model_at({"params": params}).eval()
    batch = problem.held_out["test"].first(QUERIES).batches(problem.routine.device)
    rows = []
    for loss in problem.loss(model, batch):
        parts = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([each.reshape(-1) for each in parts]))
    return torch.stack(rows)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Stages of a basis, carried out without a flow: store, references."""
    recipe, store = recipe_of(), str(tmp_path_factory.mktemp("store"))
    run, settings = Run(recipe.descent, store), recipe.attribution
    value = training.initial_value(run)
    (part,) = segments(recipe.descent)
    final = training.train_segment(run, part, value, None)
    seeds = seed_basis(run, value, final, settings.queries, settings.basis, CHECKED)
    gradient = training.reverse_segment(run, part, value, None, final, seeds)
    found = basis_scores(run, seeds, gradient)
    return recipe, store, {"final": final, "seed": seeds, "gradient": gradient, "spanned": found}


def test_scores_are_those_of_the_projected_derivatives(swept):
    """Metagradients are linear, so a projection's is a combination of all queries' own ones."""
    recipe, store, refs = swept
    problem = build_problem(recipe.descent)
    derivatives = plain_derivatives(problem, read_rows(store, refs["final"])["params"])
    unit = derivatives / derivatives.norm(dim=1, keepdim=True)
    strengths, within = torch.linalg.eigh(unit @ unit.T)  # not the SVD that is tested
    strengths, within = strengths.flip(0)[:SIZE], within.flip(1)[:, :SIZE]
    directions = (within.T @ unit) / strengths.sqrt()[:, None]
    shares = (derivatives @ directions.T) @ (within / strengths.sqrt()).T  # of the unit rows
    expected = (shares / derivatives.norm(dim=1)) @ exact()

    found = only_metagradient(read_rows(store, refs["spanned"])).reshape(QUERIES, -1)

    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert float((found - exact()).norm() / exact().norm()) > 1e-3  # a basis of all is no test


def test_errors_are_those_of_the_queries_that_were_swept_by_themselves(swept):
    """The report's last error is that of the scores; with more directions less is outside."""
    _, store, refs = swept
    told = read_scalars(store, refs["spanned"])
    found = only_metagradient(read_rows(store, refs["spanned"])).reshape(QUERIES, -1)

    true = (found - exact()).norm(dim=1) / exact().norm(dim=1)

    assert [each[-1] for each in told["errors"]] == pytest.approx(true[:CHECKED].tolist())
    assert [len(each) for each in told["errors"]] == [SIZE] * CHECKED
    for shares in told["outside"].values():
        assert len(shares) == SIZE + 1
        assert shares[0] == 1
        assert shares == sorted(shares, reverse=True)


def test_queries_that_nobody_swept_can_be_asked_of_a_finished_run(swept):
    """The basis is read from the store; a query within it is exact, without a step."""
    recipe, store, refs = swept
    scores = refs["seed"]  # read by nothing here
    found = AttributionStages(**refs, scores=scores, baselines={}, trainings=[])
    record = AttributionRecord.model_construct(recipe=recipe, run="tiny", found=found)

    basis = basis_of(store, record, trusted=True)

    directions = basis.directions

    def query(model):
        flat = torch.cat([each.reshape(-1) for each in model.parameters()])
        return flat @ (2 * directions[0] - directions[3])

    (expected,) = metagradients(build_problem(recipe.descent).routine, [query])
    asked = basis.query(query)
    assert asked.outside < 1e-6
    torch.testing.assert_close(asked["weights"], expected["weights"], rtol=1e-7, atol=1e-10)


def test_error_of_every_size_is_that_of_its_sum():
    """By hand: of a query (3, 4) along the axes, the first leaves 4 of 5."""
    along, parts = torch.eye(2), torch.tensor([[3.0, 4.0]])

    assert relative_errors(parts, along, parts @ along) == [pytest.approx([0.8, 0.0])]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"basis": 6}, "no less work"),
        ({"basis": None, "basis_checked": 3}, "without attribution.basis there is no error"),
    ],
)
def test_settings_that_nothing_would_gain_from_are_refused(changes, words):
    """Six directions and two queries by themselves are as much as eight queries."""
    with pytest.raises(ConfigurationError, match=words):
        recipe_of(attribution=changes)


def test_outputs_that_read_more_than_parameters_are_refused(tmp_path):
    """Batch normalization's statistics move with the weights, and the outputs read them."""
    model = {**TINY["arguments"]["model"], "norm": "batch"}
    recipe = recipe_of(arguments={**TINY["arguments"], "model": model})

    with pytest.raises(ConfigurationError, match="running statistics"):
        prepare(recipe, str(tmp_path / "store"))


def test_runs_without_a_basis_are_called_what_they_were():
    """A setting that nobody set is in no name."""
    plain, other = (
        recipe_of(attribution={"basis": size, "basis_checked": 2}) for size in (None, 3)
    )

    settings = plain.attribution.model_dump(mode="json", exclude={"basis", "basis_checked"})
    assert plain.descent.name == f"tiny-{digest(settings)[:4]}"
    assert plain.num_outputs == QUERIES
    assert other.num_outputs == 5
    assert other.descent.name != plain.descent.name
