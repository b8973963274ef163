"""A module of one's own in place of both towers."""

import pytest
import torch

import engine
from engine.errors import ConfigurationError
from engine.problems.built import build_problem
from engine.recipes.files import validate_recipe
from tests.helpers.data.pair_files import shards
from tests.helpers.runs.finished import finish

NET = '''
import torch
from torch import nn


class Both(nn.Module):
    """One layer for pictures, a mean of words for captions."""

    def __init__(self, num_inputs, vocabulary, num_outputs):
        super().__init__()
        self.pictures = nn.Linear(num_inputs, num_outputs)
        self.words = nn.Embedding(vocabulary, num_outputs)

    def forward(self, images, tokens):
        return self.pictures(images.flatten(1)), self.words(tokens).mean(1)


class One(Both):
    def forward(self, images, tokens):
        return self.pictures(images.flatten(1))


class Stacked(Both):
    def forward(self, images, tokens):
        return torch.stack(super().forward(images, tokens))


class Unequal(Both):
    def forward(self, images, tokens):
        one, other = super().forward(images, tokens)
        return one, other[:, :-1]
'''


@pytest.fixture
def code(tmp_path):
    """A folder with modules of one's own."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "nets.py").write_text(NET)
    return folder


def recipe(code, model="nets.py:Both", contrastive=None, **content):
    arguments = {
        **{"url": shards(code.parent, 15), "num_train": 8, "num_objective": 3},
        **{"num_validation": 2, "model": model},
        "contrastive": {"image_size": 8, "embedding": 6, "temperature": 0.5} | (contrastive or {}),
    }
    shared = {
        **{"name": "x", "problem": "pairs", "arguments": arguments, "folder": str(code)},
        "optimizer": {"name": "adamw", "eps_root": 1e-6},
        "training": {"num_steps": 4, "batch_size": 4, "threads": 1, "learning_rate": 0.01,
                     "dtype": "float64"},
        "metaparameters": {"name": "counts", "injection_step": 2},
        "outer": {"num_steps": 1},
        "preflight": "advise",
    }  # fmt: skip
    return validate_recipe(shared | content, "the test")


def test_own_module_is_compared_by_cosines(code):
    """The loss is that of a plain loop: cosines over the temperature, and two cross-entropies."""
    built = build_problem(recipe(code))
    net, pairs = built.routine.model.network, built.held_out["objective"]

    images, texts = net(pairs.inputs, pairs.labels)
    cosines = torch.cosine_similarity(images[:, None], texts[None], dim=2) / 0.5
    places = torch.arange(len(pairs))
    both = [torch.nn.functional.cross_entropy(each, places) for each in (cosines, cosines.T)]
    score = built.scores(built.routine.initial_state())["objective"]["loss"]

    assert type(net).__name__ == "Both"
    assert net.words.weight.shape[1] == net.pictures.out_features == 6
    assert score == pytest.approx(float(sum(both)) / 2, rel=1e-6)


def test_metagradient_is_the_derivative_of_the_run(code):
    """Beside central differences of the whole training, the temperature learned too."""
    built = build_problem(recipe(code))

    metagradient = engine.metagradient(built.routine, built.output)["counts"]
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(metagradient.shape, dtype=torch.float64, generator=generator)
    measured = engine.central_difference(built.routine, built.output, {"counts": direction})

    assert float(metagradient @ direction) == pytest.approx(measured, rel=1e-5)


@pytest.mark.slow
def test_descent_runs_from_the_recipe_alone(code, tmp_path):
    """From the preflight to the report."""
    record = finish(recipe(code), str(tmp_path / "store"))

    assert record.iterates[0].scores["test"].keys() == {"loss", "accuracy", "text_to_image"}


@pytest.mark.parametrize("name", ["One", "Stacked", "Unequal"])
def test_module_that_returns_something_else_is_one_message(name, code):
    """Two vectors of one length are compared, and nothing else."""
    built = build_problem(recipe(code, f"nets.py:{name}"))

    with pytest.raises(
        ConfigurationError, match=rf"nets\.py:{name}, which returned .* two tensors"
    ):
        engine.metagradient(built.routine, built.output)


def test_settings_of_the_towers_that_ship_are_refused(code):
    """Nothing reads them."""
    with pytest.raises(ConfigurationError, match=r"text_width is 8, but arguments\.model is nets"):
        build_problem(recipe(code, contrastive={"text_width": 8}))
    with pytest.raises(ConfigurationError, match=r"temperature is 0\.02, which is not above"):
        build_problem(recipe(code, contrastive={"temperature": 0.02, "min_temperature": 0.05}))
