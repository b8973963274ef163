"""Pairs with splits of their own, drawn, cut, or whole folders."""

import pytest
import torch

from engine.errors import ConfigurationError
from engine.problems.built import build_problem
from engine.recipes.files import validate_recipe
from tests.helpers.data.pair_files import shards
from tests.helpers.runs.finished import finish

SHADES = {"url": 0, "objective": 40, "validation": 80, "test": 120, "target_url": 160}
"""Argument to the green of its pictures."""


@pytest.fixture
def folders(tmp_path):
    """A folder of ten pairs for each argument, and more for the pool; its URL."""
    urls = {}
    for name, green in SHADES.items():
        (tmp_path / name).mkdir()
        urls[name] = shards(tmp_path / name, 20 if name == "url" else 10, colour=green)
    return urls


def recipe(folders, *named, **arguments):
    contrastive = {"image_size": 8, "text_width": 4, "text_depth": 1, "text_heads": 2}
    if "target_url" in named:
        contrastive["target_url"] = folders["target_url"]
    own = {name: folders[name] for name in named if name != "target_url"}
    content = {
        "name": "x",
        "problem": "pairs",
        "arguments": {
            **{"url": folders["url"], "num_train": 8, "model": {"width": 4, "depth": 1}},
            **{"contrastive": contrastive, **own, **arguments},
        },
        "optimizer": {"name": "adamw", "eps_root": 1e-6},
        "training": {"num_steps": 3, "batch_size": 4, "threads": 1, "learning_rate": 0.01},
        "outer": {"num_steps": 1},
        "preflight": "advise",
    }
    return validate_recipe(content, "the test")


def green(found):
    """Return the greens of each split's pictures, and how many pairs it has."""
    return {
        name: (
            {int(g) for g in (pairs.inputs[:, 1].mean((1, 2)) * 63.75 + 127.5).round()},
            len(pairs),
        )
        for name, pairs in found.data.splits.items()
    }


FEW = {"num_validation": 3, "num_test": 2}

CASES = {
    "trusted, and the rest cut from it": (
        ["objective"],
        {},
        {"objective": ({40}, 5), "validation": ({40}, 3), "test": ({40}, 2)},
    ),
    "trusted, and the rest drawn from the task": (
        ["objective", "target_url"],
        FEW,
        {"objective": ({40}, 10), "validation": ({160}, 3), "test": ({160}, 2)},
    ),
    "all three": (
        ["objective", "validation", "test"],
        {},
        {"objective": ({40}, 10), "validation": ({80}, 10), "test": ({120}, 10)},
    ),
    "test alone": (
        ["test"],
        {"num_objective": 4, "num_validation": 3},
        {"objective": ({0}, 4), "validation": ({0}, 3), "test": ({120}, 10)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_pairs_have_splits_of_their_own(case, folders):
    """Drawn, cut or whole; the captions, names and groups stay with their pictures."""
    named, arguments, wanted = CASES[case]

    found = build_problem(recipe(folders, *named, **arguments))

    assert green(found) == {"train": ({0}, 8)} | wanted
    for pairs in found.data.splits.values():
        reds = ((pairs.inputs[:, 0, 0, 0] * 63.75 + 127.5) / 10).round().int().tolist()
        assert list(pairs.captions) == [f"shade {red}" for red in reds]
        assert list(pairs.names) == [f"0.tar/{red:03}" for red in reds]
        assert len(pairs.groups) == len(pairs)


def test_overlaps_of_pairs_are_said(folders):
    """Of image and caption, whoever wrote the file."""
    found = build_problem(recipe(folders | {"objective": folders["url"]}, "objective"))
    twice = folders | {"test": folders["validation"]}
    others = build_problem(recipe(twice, "objective", "validation", "test"))

    assert any("8 of 20 objective examples are the same as a train" in n for n in found.notes)
    assert any("10 of 10 test examples are validation examples too" in n for n in others.notes)


REFUSED = {
    "number": (["objective"], {"num_objective": 3}, "num_objective is 3, but all of"),
    "cut": (["objective"], {"num_test": 3}, "num_test is 3, but these examples are cut"),
    "target": (
        ["objective", "validation", "test", "target_url"],
        {},
        r"arguments\.contrastive\.target_url is .*, but objective, validation and test are",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_setting_that_nothing_reads_is_refused(case, folders):
    """A split of another size than asked for is another experiment."""
    named, arguments, words = REFUSED[case]

    with pytest.raises(ConfigurationError, match=words):
        build_problem(recipe(folders, *named, **arguments))


@pytest.mark.slow
def test_descent_with_trusted_pairs_runs_from_the_recipe_alone(folders, tmp_path):
    """With what was cut from them."""
    record = finish(recipe(folders, "objective"), str(tmp_path / "store"))

    assert set(record.iterates[0].scores) == {"objective", "validation", "test"}
    assert torch.isfinite(torch.tensor(record.iterates[-1].scores["test"]["loss"]))
