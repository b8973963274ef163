"""Pairs of files beside a loop of torch: what is read, the loss, training, and the metagradient."""

import copy
import math

import numpy as np
import pytest
import torch

import engine
from engine.problems.shipped import pairs
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.arguments.pairs import ContrastiveSettings

Image = pytest.importorskip("PIL.Image", reason="pictures need the extra clip")

STEPS, BATCH, RATE, MOMENTUM, CHUNK, SIZE = 8, 4, 0.1, 0.9, 4, 8


@pytest.fixture
def problem(tmp_path, monkeypatch):
    """Thirty pictures of noise with captions of three words, in float64."""
    drawn = np.random.default_rng(0)
    words = ["red", "green", "blue", "dark", "light", "big", "small"]
    for place in range(30):
        pixels = drawn.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{place:02d}.png")
        (tmp_path / f"{place:02d}.txt").write_text(" ".join(drawn.choice(words, 3)))
    torch.set_default_dtype(torch.float64)
    yield pairs(
        str(tmp_path),
        num_train=16,
        num_objective=7,
        num_validation=3,
        num_test=4,
        model=ModelSettings(name="mlp", width=8, depth=1, activation="gelu"),
        contrastive=ContrastiveSettings(
            image_size=SIZE, embedding=4, text_width=4, text_depth=1, text_heads=2, context=6,
            temperature=0.5, target_batch=CHUNK,
        ),
    )  # fmt: skip
    torch.set_default_dtype(torch.float32)


def losses(model, batch, weights):
    """Return the loss of each pair by its definition, sum by sum."""
    both = model(batch)
    images, texts = both[:, 0], both[:, 1]
    similar = (images @ texts.T) * model.scale()
    found = []
    for i in range(len(images)):
        row = sum(w * similar[i, j].exp() for j, w in enumerate(weights))
        column = sum(w * similar[j, i].exp() for j, w in enumerate(weights))
        found.append((row.log() + column.log()) / 2 - similar[i, i])
    return torch.stack(found)


def trained(problem, order, weights):
    """Train by torch's own SGD; an example of weight w counts w times, also as a negative."""
    model = copy.deepcopy(problem.model(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    for batch in order:
        optimizer.zero_grad()
        chosen = (problem.train.inputs[batch], problem.train.labels[batch])
        (weights[batch] * losses(model, chosen, weights[batch])).sum().div(BATCH).backward()
        optimizer.step()
    inputs, labels = problem.objective.inputs, problem.objective.labels
    with torch.no_grad():
        found = [
            losses(model, (inputs[at : at + CHUNK], labels[at : at + CHUNK]), [1.0] * CHUNK)
            if at + CHUNK <= len(inputs)
            else losses(model, (inputs[at:], labels[at:]), [1.0] * (len(inputs) - at))
            for at in range(0, len(inputs), CHUNK)
        ]
    return torch.cat(found).mean().item()


def test_what_is_read_is_what_pillow_and_the_files_say(problem, tmp_path):
    """Each picture stands beside its own caption."""
    for row, name in enumerate(problem.train.names):
        file = next(each for each in tmp_path.glob("*.png") if each.name in name)
        pixels = np.asarray(Image.open(file).convert("RGB"), dtype=np.float64)
        read = problem.train.inputs[row].permute(1, 2, 0).numpy()

        assert problem.train.captions[row] == file.with_suffix(".txt").read_text()
        assert np.corrcoef(pixels.ravel(), read.ravel())[0, 1] == pytest.approx(1, abs=1e-12)


def test_metagradient_equals_differences_of_trainings_by_torch(problem):
    """Nobody had compared a run on pairs with a loop that shares nothing with it."""
    drawn = torch.Generator().manual_seed(3)
    order = [torch.randperm(16, generator=drawn)[:BATCH].tolist() for _ in range(STEPS)]
    weights = torch.rand(16, generator=drawn) + 0.5
    routine = problem.routine(
        {"weights": engine.ExampleWeights(weights)},
        num_steps=STEPS,
        batch_size=BATCH,
        learning_rate=RATE,
        optimizer=engine.sgd(MOMENTUM),
        order=order,
    )

    found = engine.metagradient(routine, problem.phi)

    assert found.output == pytest.approx(trained(problem, order, weights), rel=1e-12)
    for _ in range(3):
        along, step = torch.randn(16, generator=drawn), 1e-5
        apart = [trained(problem, order, weights + sign * step * along) for sign in (1, -1)]
        difference = (apart[0] - apart[1]) / (2 * step)
        assert math.isclose(float(found["weights"] @ along), difference, rel_tol=1e-6)
