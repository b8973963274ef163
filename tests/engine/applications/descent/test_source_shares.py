"""Selection of texts in small: the task gets better, and counts move to its source."""

import pytest
import torch

from engine import metagradient, train
from engine.applications.descent.source_shares import measure_sources, source_findings
from engine.errors import ConfigurationError
from engine.metaparameters.outer_updates import make_outer
from engine.problems.built import build_problem
from engine.problems.passage import Passage, Texts
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import load_recipe
from engine.recipes.metaparameters import MetaparametersSettings
from tests.helpers.data.language import TINY, library_texts, tiny_problem


def passages(source, *texts):
    return [Passage("", text, source, f"{source}.txt", line) for line, text in enumerate(texts, 1)]


TEXTS = Texts.of({"train": passages("it", "uno", "due") + passages("de", "<eins>", "zwei", "drei")})


@pytest.mark.slow
def test_two_outer_steps_help_the_task_by_its_own_source(tmp_path):
    """Better than all data and than as many candidates at random, on text that Python has."""
    recipe = DescentRecipe.model_validate(
        TINY
        | {
            "arguments": library_texts(tmp_path) | {
                "num_train": 160, "num_objective": 40, "num_validation": 1, "num_test": 60,
                "model": {"name": "transformers", "width": 16, "depth": 1, "heads": 2},
            },
            "training": {"num_steps": 40, "batch_size": 12, "learning_rate": 0.01, "threads": 1},
            "metaparameters": {"name": "counts", "injection_step": 34},
            "outer": {"update": "masked-sign", "probability": 0.6},
        }
    )  # fmt: skip
    problem, move = build_problem(recipe), make_outer(recipe.rule)
    value = problem.kind.value
    every = torch.ones_like(value)

    for step in range(2):
        gradient = metagradient(problem.routine.at(value), problem.output)["counts"]
        value = problem.kind.project(move(value, gradient, {}, step)[0])
    drawn = torch.randperm(160, generator=torch.Generator().manual_seed(0))
    random = torch.zeros_like(value).index_fill(0, drawn[: int((value > 0).sum())], 1.0)
    chosen, all_data, as_many = (
        problem.scores(train(problem.routine.at(counts)))["test"]["loss"]
        for counts in (value, every, random)
    )
    shares = measure_sources(recipe.metaparameters, problem.data.texts, every, value)
    (grown,) = [each for each in shares if each.name == "prose"]

    assert chosen < 0.99 * min(all_data, as_many), (chosen, all_data, as_many)
    assert grown.after > grown.before + 0.1


def test_shares_are_those_of_counts_by_source():
    """Candidates that are not used count as dropped, and shares add up to one."""
    after = torch.tensor([3.0, 1.0, 0.0, 0.0, 1.0])

    de, it = measure_sources(MetaparametersSettings(), TEXTS, torch.ones(5), after)

    assert (de.name, de.candidates, de.before, de.after, de.dropped) == ("de", 3, 0.6, 0.2, 2)
    assert (it.name, it.candidates, it.before, it.after, it.dropped) == ("it", 2, 0.4, 0.8, 0)
    assert source_findings([de, it]) == [
        "Training moves to the source it: its share rises from 40 % to 80 %; de falls most, from "
        "60 % to 20 %."
    ]


def test_shares_that_are_printed_alike_are_not_said_to_rise():
    """A rise from 40 % to 40 % tells nobody anything."""
    after = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.002])
    settings = MetaparametersSettings(name="weights")

    assert source_findings(measure_sources(settings, TEXTS, torch.ones(5), after)) == [
        "The shares of the sources stay as they were, to within a percent."
    ]


def test_a_mixture_may_be_of_sources(tmp_path):
    """Then z has one logit for each source, and the uniform mixture is where it starts."""
    settings = MetaparametersSettings(name="group-weights", groups="source")
    problem = tiny_problem(tmp_path, metaparameters=settings, outer={"update": "sign"})

    kind = problem.kind
    found = metagradient(problem.routine, problem.output)["group_weights"]
    shares = measure_sources(
        settings, problem.data.texts, kind.proportional(), torch.zeros_like(kind.value)
    )

    assert kind.groups.tolist() == list(problem.data.texts.source_of)
    assert [each.after for each in shares] == [0.5, 0.5]
    assert (found != 0).all()


def test_sources_of_pictures_are_refused():
    """There are none, and one group for all would have no derivative."""
    recipe = DescentRecipe.model_validate(
        {"name": "x", "metaparameters": {"name": "group-weights", "groups": "source"}}
        | {"outer": {"update": "sign"}}
    )

    with pytest.raises(ConfigurationError, match=r"groups is source.*no groups.*Use one of class"):
        build_problem(recipe)


@pytest.mark.parametrize("name", ["text-selection", "text-attribution", "instruction-selection"])
def test_shipped_recipes_have_the_papers_settings_or_say_what_they_are(name):
    """Three or more sources, a target, and a model that reads texts."""
    recipe = load_recipe(name)

    assert len(recipe.arguments["sources"]) >= 3
    assert recipe.arguments["target"]


def test_instruction_selection_is_the_papers():
    """Rank 128, p = 0.2, and counts that enter 150 steps before the end."""
    recipe = load_recipe("instruction-selection")

    assert recipe.arguments["language"]["lora_rank"] == 128
    assert recipe.outer.probability == 0.2
    assert recipe.training.num_steps - recipe.injection_step == 150
    assert recipe.arguments["num_train"] == 270_679
