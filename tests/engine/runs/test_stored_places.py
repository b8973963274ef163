"""What a recipe that lies in a store can make another machine do: nothing that nobody confirmed."""

import re

import pytest
from pydantic import BaseModel

from engine.errors import ConfigurationError
from engine.problems.built import build_problem
from engine.recipes.code.signatures import arguments_of
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import KINDS, load_recipe, validate_recipe
from engine.recipes.names import run_name
from engine.recipes.problem_functions import find_function, shipped_problems
from engine.runs.run import OF_A_START, begin_run, find_run, read_recipe
from engine.runs.stored_places import check_places, foreign_places, places_of
from engine.storage.places import run_folder
from engine.storage.records import read_record, write_record

HARMLESS = {
    *("name", "description", "training.device", "workers.address", "search.grid"),
    "search.candidates",
    "reruns",  # of model, optimizer and training only
    *("problem", "folder", "code"),  # code is named as a whole, whatever its arguments
    "arguments",  # of the problem, see below
    *("metaparameters.groups", "metaparameters.own", "optimizer.rest", "outer.choose_by"),
}
"""Texts in a recipe that name no place, or are those of a start."""

HARMLESS_ARGUMENTS = {
    *("arguments.separator", "arguments.checksum", "arguments.language.lora_targets"),
    *("arguments.contrastive.image_column", "arguments.contrastive.caption_column"),
    *("arguments.label", "arguments.features", "arguments.names", "arguments.groups"),
    "arguments.inputs",
    "arguments.model",  # code, which is confirmed by itself, see below
}
"""Texts among the arguments of problems that ship that name no place."""

PLACES = {
    *("arguments.url", "arguments.sources", "arguments.target", "arguments.objective"),
    *("arguments.language.pretrained", "arguments.contrastive.target_url"),
}
"""Some of the others."""


def texts(model, prefix=""):
    """Return the dotted names of settings that hold any text."""
    for name, found in model.model_fields.items():
        kind = found.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from texts(kind, f"{prefix}{name}.")
        elif re.search(r"\bstr\b", str(kind)):  # also inside of lists and annotations
            yield f"{prefix}{name}"


def filled(model):
    """Return settings in which every text is set, as JSON values."""
    return {
        name: filled(field.annotation)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        else ["somewhere"]
        for name, field in model.model_fields.items()
    }


@pytest.fixture
def kept(tmp_path):
    """A run that has begun with workers and a budget, and its store."""
    recipe = load_recipe(
        "digits-selection",
        ["training.threads=1", "workers.runner=dask", "budget.max_seconds=3"],
    )
    begin_run(recipe, str(tmp_path))
    return recipe, str(tmp_path), run_name(recipe)


@pytest.mark.slow
def test_every_text_of_a_recipe_is_known_to_name_a_place_or_none():
    """A new setting with a URL would otherwise be believed."""
    models = [arguments_of(find_function(name, None)) for name in shipped_problems()]

    found = {name for model in models for name in texts(model, "arguments.")}
    confirmed = {name for model in models for name in places_of(model, filled(model))}

    assert {name for model in KINDS.values() for name in texts(model)} - HARMLESS == set()
    assert confirmed == found - HARMLESS_ARGUMENTS
    assert confirmed >= PLACES


def test_model_of_ones_own_is_code_that_has_to_be_confirmed(tmp_path):
    """A ready problem with a class by name runs whatever file the store's recipe names."""
    (tmp_path / "nets.py").write_text("from torch import nn\n\nNet = nn.Linear\n")
    content = {
        **{"name": "own", "problem": "table", "folder": str(tmp_path)},
        "arguments": {"url": "t.csv", "label": "y", "model": "nets.py:Net"},
    }

    found = foreign_places(validate_recipe(content, "test"))

    assert set(found) == {"arguments.model", "arguments.url"}
    assert str(tmp_path) in found["arguments.model"]


@pytest.mark.parametrize("code", [{}, {"evil.py": "0" * 16}], ids=["no digests", "some"])
@pytest.mark.parametrize(
    "content", [{"problem": "evil.py:f"}, {"arguments": {"model": "evil.py:f"}}]
)
def test_record_of_a_store_loads_no_code(content, code, tmp_path):
    """Records hold recipes too, and are read by commands that only look."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    given = {"name": "x", "folder": str(tmp_path), "code": code, **content}
    if "arguments" in content:
        given["problem"] = "table"
        given["arguments"] = {"url": "x", "label": "y", **content["arguments"]}

    recipe = DescentRecipe.model_validate(given)
    again = DescentRecipe.model_validate_json(recipe.model_dump_json())

    assert again.code == code
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ConfigurationError, match="no digests|is not that of the run"):
        build_problem(again)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ConfigurationError, match="--trust-store"):
        check_places(again, "run", "store")


def test_workers_and_budget_stay_with_the_start(kept):
    """Where code runs is never read from data."""
    recipe, store, run = kept

    content = read_record(f"{run_folder(store, run)}/recipe.json")
    read = read_recipe(store, run)

    assert not set(OF_A_START) & set(content)
    assert read.workers == DescentRecipe(name="x").workers
    assert read.model_copy(update={"workers": recipe.workers, "budget": recipe.budget}) == recipe


@pytest.mark.parametrize(
    "planted",
    [
        {"workers": {"runner": "dask", "address": "tcp://127.0.0.1:9"}},
        {"workers": {"runner": "ray", "address": "ray://127.0.0.1:9"}},
        {"workers": "anything", "budget": []},
    ],
    ids=["dask", "ray", "garbage"],
)
def test_stored_workers_are_not_obeyed(planted, kept):
    """A scheduler of somebody's choice would send tasks to be unpickled."""
    _, store, run = kept
    url = f"{run_folder(store, run)}/recipe.json"
    write_record(url, read_record(url) | planted)

    assert read_recipe(store, run).workers == DescentRecipe(name="x").workers


@pytest.mark.parametrize(
    ("group", "name", "value", "reason"),
    [
        ("arguments", "num_train", 10, "does not belong to run"),
        ("arguments", "url", "http://127.0.0.1:9/x", "arguments.url: unknown setting"),
        ("training", "seed", 7, "does not belong to run"),
    ],
)
def test_changed_recipe_is_not_that_of_its_run(group, name, value, reason, kept):
    """It would run another run under this one's name."""
    _, store, run = kept
    url = f"{run_folder(store, run)}/recipe.json"
    content = read_record(url)
    content[group][name] = value
    write_record(url, content)

    with pytest.raises(ConfigurationError, match=reason):
        read_recipe(store, run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "changes", "named"),
    [
        (
            "fashion-selection",
            ["arguments.url=http://127.0.0.1:9/latest/meta-data"],
            "arguments.url",
        ),
        ("fashion-selection", ["arguments.url=/etc"], "arguments.url"),
        ("text-selection", ["arguments.target=/etc/passwd"], "arguments.target"),
        ("text-selection", ["arguments.sources=[/etc/passwd]"], "arguments.sources"),
        (
            "instruction-selection",
            ["arguments.language.pretrained=evil/model"],
            "arguments.language.pretrained",
        ),
        (
            "datacomp-small",
            ["arguments.contrastive.target_url=http://x/y"],
            "arguments.contrastive.target_url",
        ),
    ],
)
def test_place_of_a_stored_recipe_has_to_be_confirmed(recipe, changes, named):
    """Resuming a foreign run would read any file, and connect to any address of an inner net."""
    hostile = load_recipe(recipe, changes)

    with pytest.raises(ConfigurationError, match=rf"{named} is .*--trust-store"):
        check_places(hostile, "run", "s3://bucket/store")


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", ["digits-selection", "text-selection", "datacomp-small", "fashion-smooth-search"]
)
def test_places_of_the_shipped_recipe_are_known(recipe):
    """Whoever installed the project has its recipes, and is not asked about them."""
    assert foreign_places(load_recipe(recipe, ["training.seed=5"])) == {}


def test_run_is_not_found_by_an_empty_name(kept):
    """An unset variable in a script is no name, even where there is one run."""
    _, store, run = kept

    assert find_run(store, run[:10]) == run
    with pytest.raises(ConfigurationError, match="''"):
        find_run(store, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "search",
    [
        {"grid": {"arguments.url": ["http://somewhere/"]}},
        {"candidates": [{"arguments.language.pretrained": "somebody/model"}]},
        {"candidates": [{"arguments.model.activation": "gelu"}, {"arguments.url": "/home/other"}]},
    ],
    ids=["grid", "candidate", "second candidate"],
)
def test_places_that_a_search_would_try_are_foreign_too(search):
    """A search changes settings, and a stored one is somebody's."""
    recipe = load_recipe("digits-smooth-search")
    planted = recipe.model_copy(
        update={"search": recipe.search.model_copy(update={"grid": {}, **search})}
    )

    assert foreign_places(recipe) == {}
    assert len(foreign_places(planted)) == 1
