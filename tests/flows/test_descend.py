"""A descent in a notebook has the bits of the flow."""

import pytest
import torch

import engine
from engine.problems.calls import call_problem
from engine.recipes.files import load_recipe
from engine.reports.page import REPORT
from engine.stages import commits
from engine.storage.records import read_bytes
from flows.descent import descent
from tests.helpers.data.own_problem import PROBLEM, RECIPE, write_problem
from tests.helpers.runs.tiny_recipe import small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def recipes(folder):
    """One of each way in: counts that ship, injected twice; an own problem; a torch optimizer."""
    several = ["metaparameters.injection_steps=[4, 9]", "outer.probability=0.9"]
    pixels = ["metaparameters.name=inputs", "metaparameters.fraction=0.2", "outer.maximize=true"]
    return {
        "counts": small("preflight=advise", *several),
        "own problem": load_recipe(write_problem(folder), ["preflight=advise"]),
        "pixels": small("preflight=advise", *pixels, "outer.update=Adam", "outer.step_size=0.05"),
    }


@pytest.mark.parametrize("name", ["counts", "own problem", "pixels"])
def test_a_descent_in_a_notebook_has_the_bits_of_the_flow(name, tmp_path):
    """Every z, every metagradient, all scores and losses, the choice and the trained state."""
    recipe, store = recipes(tmp_path / "own")[name], str(tmp_path / "store")
    record = descent(recipe, store)
    seen = []

    found = engine.descend(recipe, check=False, each=seen.append)

    assert seen == found.iterates
    assert found.chosen == record.chosen
    assert len(found.iterates) == len(record.iterates)
    for mine, flows in zip(found.iterates, record.iterates, strict=True):
        value = commits.read_rows(store, flows.value)["value"]
        assert torch.equal(mine.value.reshape(-1), value)
        assert mine.scores == flows.scores
        assert (mine.metagradient is None) == (flows.gradient is None)
        if flows.gradient is not None:
            (gradient,) = (
                row
                for row_name, row in commits.read_rows(store, flows.gradient).items()
                if row_name.startswith("metagradient_")
            )
            assert torch.equal(mine.metagradient.reshape(-1), gradient)
    trained = commits.read_rows(store, record.iterates[record.chosen].final)
    assert all(torch.equal(row, trained[name]) for name, row in found.state.items())


def test_a_problem_of_a_notebook_has_the_bits_of_its_recipe(tmp_path):
    """The settings are the recipe's groups by name; the handed-in model is left as it was."""
    recipe = load_recipe(write_problem(tmp_path), ["preflight=advise"])
    problem = call_problem(recipe)
    before = [parameter.detach().clone() for parameter in problem.model.parameters()]

    named = engine.descend(recipe, check=False)
    groups = ("optimizer", "training", "metaparameters", "outer", "replay")
    handed = engine.descend(
        problem, check=False, **{name: recipe.model_dump(mode="json")[name] for name in groups}
    )

    assert [each.scores for each in handed.iterates] == [each.scores for each in named.iterates]
    assert all(torch.equal(handed.state[name], row) for name, row in named.state.items())
    after = problem.model.parameters()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_report_shows_an_optimizer_of_the_problem_as_its_own(tmp_path):
    """The table of all settings named sgd, the default, whatever the problem trained with."""
    recipe = RECIPE.replace("optimizer: {name: sgd, momentum: 0.9}\n", "")
    problem = PROBLEM.replace("loss=loss,", "loss=loss, optimizer=engine.adamw(eps_root=1e-6),")
    path = write_problem(tmp_path / "own", problem, recipe)
    store = str(tmp_path / "store")

    record = descent(load_recipe(path, ["preflight=advise"]), store)

    assert record.unread == ["optimizer"]
    report = read_bytes(record.url(store, REPORT)).decode()
    assert "the problem's own" in report.replace("&#x27;", "'").replace("&#39;", "'")
    assert "optimizer.momentum" not in report
