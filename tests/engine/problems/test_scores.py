"""Scores of a trained model: what is measured, and that measuring leaves the model as it was."""

import pytest
import torch
from torch import nn

from engine import train
from engine.errors import ConfigurationError
from engine.problems.built import build_problem
from engine.problems.scores import mean_scores
from engine.recipes.files import load_recipe


def test_metric_of_a_last_batch_of_one_is_told_apart_from_one_of_the_split():
    """A metric that squeezes would be a number of its own only there."""
    x, y = torch.randn(5, 3), torch.arange(5)

    def squeezed(model, batch):
        return (model(batch[0]).argmax(1) == batch[1]).double().squeeze()

    def loss(model, batch):
        return model(batch[0]).sum(1)

    with pytest.raises(ConfigurationError, match="one number for each example"):
        mean_scores(nn.Linear(3, 3), (x, y), 2, loss, {"hits": squeezed})


@pytest.mark.parametrize("chunk", [1, 2, 5, 9])
def test_metric_of_the_whole_split_is_no_mean_over_its_pieces(chunk):
    """How large the pieces are says how much memory there is, and nothing about the model.

    A metric of single examples stands beside it, and is still a mean over all of them.
    """
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0], dtype=torch.float64)[:, None]
    asked = []

    def spread(_, batch):
        asked.append(len(batch[0]))
        return batch[0].max() - batch[0].min()

    found = mean_scores(
        nn.Identity(),
        (x, x),
        chunk,
        lambda _, batch: batch[0][:, 0],
        {"spread": spread, "doubled": lambda _, batch: 2 * batch[0][:, 0]},
    )

    assert found == {"loss": 22.0, "spread": 99.0, "doubled": 44.0}
    assert asked[-1] == 5  # at once, and that is what counts


def test_metric_of_some_of_the_examples_is_refused():
    """Its sum would be divided by the number of all of them."""
    x, y = torch.randn(6, 3), torch.arange(6)

    def loss(model, batch):
        return model(batch[0]).sum(1)

    with pytest.raises(ConfigurationError, match=r"shape \(2,\).*one number for each example"):
        mean_scores(nn.Linear(3, 3), (x, y), 3, loss, {"some": lambda _, batch: batch[1][:2]})


PROBLEM = """
import copy
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import engine


def loss(model, batch):
    LOSS
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def watched(model, batch):
    METRIC
    return model(batch[0])[:, 0]


def clouds() -> engine.Problem:
    \"""Which points of two clouds help.\"""
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 4, generator=drawn), torch.randint(0, 2, (90,), generator=drawn)
    return engine.Problem(
        model=nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.GELU(), nn.Linear(5, 2)),
        loss=loss,
        train=(x[:40], y[:40]),
        objective=(x[40:], y[40:]),
        metrics={"watched": watched},
        chunk=10,
        MORE
    )
"""

RECIPE = """
kind: descent
name: clouds
problem: clouds.py:clouds
training: {num_steps: 4, batch_size: 10, threads: 1}
optimizer: {name: sgd}
metaparameters: {name: weights}
outer: {num_steps: 1, update: sign}
"""

TAUGHT = "with torch.no_grad():\n        next(model.parameters()).add_(0.01)"

CHANGING = {
    "a step": ({"METRIC": TAUGHT}, r"metric 'watched' changes 0.weight"),
    "a step that no counter of versions sees": (
        {"METRIC": "model[3].bias.data.add_(1)"},
        r"metric 'watched' changes 3.bias",
    ),
    "running statistics": (
        {"METRIC": "model[1].running_mean.data.fill_(3)"},
        r"metric 'watched' changes 1.running_mean",
    ),
    "the mode of all": ({"METRIC": "model.train()"}, r"metric 'watched' leaves the model in train"),
    "the mode of a part": ({"METRIC": "model[1].train()"}, r"metric 'watched' leaves 1 in train"),
    "a loss": (
        {"LOSS": f"if not model.training:\n        {TAUGHT.replace('        ', ' ' * 12)}"},
        "The loss changes 0.weight",
    ),
    "scores of its own": (
        {"MORE": "score=lambda model, held, chunk: model.train() and {'loss': 1.0},"},
        "function score leaves the model in train",
    ),
}


def written(folder, **parts):
    """Write the problem with some of its parts, and build it."""
    text = PROBLEM
    for name in ("LOSS", "METRIC", "MORE"):
        text = text.replace(name, parts.get(name, "" if name == "MORE" else "pass"))
    (folder / "clouds.py").write_text(text)
    (folder / "clouds.yaml").write_text(RECIPE)
    return build_problem(load_recipe(str(folder / "clouds.yaml"), []))


@pytest.mark.parametrize(("parts", "message"), CHANGING.values(), ids=CHANGING)
def test_what_judges_a_model_may_not_change_it(parts, message, tmp_path):
    """The next split, and the training that goes on, would be those of another model, unseen."""
    built = written(tmp_path, **parts)

    with pytest.raises(ConfigurationError, match=message):
        built.scores(built.routine.initial_state())


def test_what_judges_a_copy_changes_nothing(tmp_path):
    """Bits of the state, of the modes, and of what is found the second time.

    The copy is in training mode, so that its batch normalization moves statistics of its own.
    """
    taught = f"model = copy.deepcopy(model).train()\n    {TAUGHT}"
    built = written(tmp_path, METRIC=taught)
    state = train(built.routine)
    before = {name: row.clone() for name, row in state.items()}

    first, second = built.scores(state), built.scores(state)

    assert first == second
    assert all(torch.equal(row, before[name]) for name, row in state.items())


def test_nan_that_stays_is_no_change():
    """A run that diverged is judged too, so that a report can say so."""
    model = nn.Linear(1, 1)
    model.weight.data.fill_(torch.nan)
    x = torch.ones(3, 1)

    found = mean_scores(model, (x, x), 2, lambda _, batch: batch[0][:, 0], {})

    assert found == {"loss": 1.0}
