"""What a problem cannot have is refused when the run begins, with the setting that asks for it."""

import pytest
import torch
from torch import nn

from engine.applications.canaries.record import prepare as prepare_canaries
from engine.errors import ConfigurationError
from engine.problems.base import Problem
from engine.problems.data.splitting import data_set
from engine.problems.fits import check_classes
from engine.recipes.canaries import CanariesRecipe
from engine.recipes.files import load_recipe
from engine.stages.run import Run
from engine.stages.training import prepare
from tests.helpers.data.own_problem import PROBLEM, RECIPE, write_problem

MADE = "return engine.Problem("


def changed(problem, *pairs):
    """The source of a problem with some of its words replaced."""
    for before, after in pairs:
        assert before in problem
        problem = problem.replace(before, after)
    return problem


PAIRS = changed(
    PROBLEM,
    ('batch["x"]', "batch[0]"),
    ('batch["y"]', "batch[1]"),
    ('{"x": x, "y": y}', "(x, y)"),
    ('{"x": hx, "y": hy}', "(hx, hy)"),
)
"""The problem with examples as pairs of tensors, whose inputs can be moved."""

WORDS = changed(
    PAIRS,
    (MADE, f"x, hx = x.long().abs(), hx.long().abs()\n    {MADE}"),
    ("model=net", "model=nn.Sequential(nn.Embedding(20, 2), nn.Flatten(), nn.Linear(8, 2))"),
)
"""The same with words for inputs."""

VALUES = changed(
    PAIRS,
    ('groups={"cloud": y.tolist()},', ""),
    (MADE, f"y, hy = y.float() / 3, hy.float() / 3\n    {MADE}"),
    (
        'cross_entropy(model(batch[0]), batch[1], reduction="none")',
        "(model(batch[0])[:, 0] - batch[1]).square()",
    ),
    ('metrics={"accuracy": accuracy},', "bounds=(-9.0, 9.0),"),
)
"""The same with values in place of classes."""

INPUTS = ["metaparameters={name: inputs}", "outer={update: sign, num_steps: 1}"]


def recipe(folder, problem, *changes):
    return load_recipe(write_problem(folder, problem, RECIPE), list(changes))


def canaries(folder, problem):
    """The same training, asked for canaries."""
    content = recipe(folder, problem).model_dump(mode="json", exclude={"kind", "metaparameters"})
    del content["outer"], content["replay"]
    return CanariesRecipe.model_validate({**content, "canaries": {"num_canaries": 4}})


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (PAIRS, "metaparameters.name is inputs.*between which values.*-.* to .*bounds=.low, high."),
        (WORDS, "metaparameters.name is inputs.*torch.int64.*Use counts or weights"),
        (PROBLEM, "are no pair of tensors|pairs of tensors"),
    ],
    ids=["no-bounds", "words", "dict"],
)
def test_inputs_that_cannot_be_moved_are_refused_when_the_run_begins(problem, message, tmp_path):
    """They would be moved to values that no input has, or not at all."""
    with pytest.raises(ConfigurationError, match=message):
        prepare(Run(recipe(tmp_path, problem, *INPUTS), str(tmp_path / "store")))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (PAIRS, "kind is canaries.*bounds"),
        (VALUES, "kind is canaries.*no classes"),
        (PROBLEM, "pairs of tensors"),
    ],
    ids=["no-bounds", "no-classes", "dict"],
)
def test_canaries_that_cannot_be_are_refused_when_the_run_begins(problem, message, tmp_path):
    """Not by the first stage that looks at them, after a preflight."""
    with pytest.raises(ConfigurationError, match=message):
        prepare_canaries(canaries(tmp_path, problem), str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_flipped_labels_need_classes(tmp_path):
    """The baseline would be made after the whole descent."""
    asked = recipe(tmp_path, VALUES, *INPUTS, "baselines=[label-flip]")

    with pytest.raises(ConfigurationError, match="label-flip.*no classes"):
        prepare(Run(asked, str(tmp_path / "store")))


@pytest.mark.parametrize("kind", ["descent", "smooth-search"])
def test_code_of_a_change_is_refused_for_what_it_is(kind, tmp_path):
    """Its digest would be none of the recipe's, which was told as source that was edited."""
    path = write_problem(
        tmp_path, PROBLEM.replace("width: int = 5", "model: str = 'small'"), RECIPE
    )
    change = {"arguments.model": "my_nets.py:Net"}
    changes = {
        "descent": ["reruns=[{arguments.model: 'my_nets.py:Net'}]"],
        "smooth-search": ["kind=smooth-search", f"search.candidates=[{change}]"],
    }[kind]
    if kind == "smooth-search":
        changes.append("outer={update: sign, num_steps: 1}")

    with pytest.raises(ConfigurationError, match="sets arguments.model to my_nets.py:Net, which"):
        load_recipe(path, ["arguments={model: small}", *changes])


def test_labels_are_smoothed_by_the_loss_that_is_trained_on(tmp_path):
    """Where the held-out loss alone takes the argument, nothing would be smoothed."""
    problem = changed(
        PROBLEM,
        ("def loss(model, batch):", "def loss(model, batch, label_smoothing=0.0):"),
        (MADE, f"{MADE}training_loss=lambda model, batch: loss(model, batch), "),
    )
    recipe = load_recipe(write_problem(tmp_path, problem, RECIPE), ["training.label_smoothing=0.1"])

    with pytest.raises(ConfigurationError, match=r"label_smoothing is 0.1, but the loss"):
        prepare(Run(recipe, str(tmp_path / "store")))


def test_label_of_another_class_needs_one():
    """Where all labels are of one class, there is none to flip them to."""
    columns = torch.randn(8, 3), torch.zeros(8, dtype=torch.int64)
    splits = dict.fromkeys(("train", "objective", "validation", "test"), columns)
    one_class = Problem(model=nn.Linear(3, 2), loss=lambda m, b: m(b[0]).sum(1), **splits)
    data, _ = data_set(one_class, torch.float32)

    with pytest.raises(ConfigurationError, match="baselines names label-flip.*no classes"):
        check_classes(data, "baselines names label-flip")
