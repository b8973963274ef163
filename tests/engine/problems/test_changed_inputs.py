"""Examples that a run may change: rows of a table between their bounds, and embedded tokens."""

import datetime
import json

import pytest
import torch

from engine import central_difference, metagradient
from engine.applications.comparisons.baselines import BASELINES
from engine.applications.comparisons.poisons import gradient_cancelling, random_pixels
from engine.errors import ConfigurationError
from engine.problems.built import build_problem
from engine.recipes.comparisons import BaselineName
from engine.recipes.files import validate_recipe

arrow = pytest.importorskip("pyarrow", reason="tables need the extra parquet")

ROWS = 24
KIND = {"name": "inputs", "fraction": 0.3}
"""Metaparameters that move the inputs of three of ten candidates."""


def built(problem, arguments, steps=3, dtype="float64", **more):
    content = {
        "name": "own",
        "problem": problem,
        "arguments": arguments,
        "training": {
            "num_steps": steps, "batch_size": 5, "threads": 1, "learning_rate": 0.1, "dtype": dtype
        },
        "metaparameters": KIND,
        "outer": {"update": "sign", "maximize": True},
        **more,
    }  # fmt: skip
    return build_problem(validate_recipe(content, "the test"))


@pytest.fixture
def table(tmp_path):
    """A table with a number that has gaps, a word and a date."""
    from pyarrow import parquet

    columns = {
        "age": [None if place % 7 == 3 else 20.0 + place for place in range(ROWS)],
        "city": [("Rome", "Oslo", "Bern")[place % 3] for place in range(ROWS)],
        "since": [datetime.date(2020, 1, 1 + place) for place in range(ROWS)],
        "who": [f"person {place}" for place in range(ROWS)],
        "left": ["yes" if place % 2 else "no" for place in range(ROWS)],
    }
    parquet.write_table(arrow.table(columns), tmp_path / "rows.parquet")
    return str(tmp_path / "rows.parquet"), columns


def test_rows_of_a_table_stay_between_those_of_their_column(table):
    """A column has bounds of its own: an age is no share of a city."""
    made = built("table", {"url": table[0], "label": "left", "names": "who"})
    inputs = made.data.splits["train"].inputs

    far = made.kind.project(made.kind.value + 100)
    low = made.kind.project(made.kind.value - 100)

    assert torch.equal(far, inputs.max(0).values.expand_as(far))
    assert torch.equal(low, inputs.min(0).values.expand_as(low))
    assert torch.equal(made.kind.project(made.kind.value), made.kind.value)
    drawn = random_pixels(made, {}, 0, 0)
    assert (drawn >= inputs.min(0).values).all()
    assert (drawn <= inputs.max(0).values).all()


def test_row_is_told_in_the_units_of_its_columns(table):
    """What the model reads is told as the file has it; a changed one in the same units."""
    url, columns = table
    made = built("table", {"url": url, "label": "left", "names": "who"})
    data = made.data

    for place, name in enumerate(data.names):
        told = data.show_inputs(data.splits["train"].inputs[place])
        row = columns["who"].index(name)
        age = columns["age"][row]
        assert told["age"] == ("missing" if age is None else f"{age:g}")
        assert told["city"] == columns["city"][row]
        assert told["since"] == columns["since"][row].isoformat()
    moved = data.splits["train"].inputs[0].clone()
    moved[2:5] = torch.tensor([0.5, 0.25, 0.0], dtype=moved.dtype)
    assert data.show_inputs(moved)["city"] == "Bern 0.5, Oslo 0.25"


def test_held_out_examples_keep_their_names_when_they_are_cut(table):
    """A query of an attribution is one of them, and people ask who it is."""
    url, columns = table
    data = built("table", {"url": url, "label": "left", "names": "who"}).data

    everybody = list(data.names)
    for split in ("objective", "validation", "test"):
        names = data.held_out_names[split]
        assert len(names) == len(data.splits[split])
        for place, name in enumerate(names):
            row = columns["who"].index(name)
            shown = data.show_held_out(split, place)
            assert (shown["city"], shown["age"]) == (columns["city"][row], columns["age"][row])
            told = data.show_inputs(data.splits[split].inputs[place])
            assert told["city"] == columns["city"][row]  # the example itself is that row
        everybody += names
    assert sorted(everybody) == sorted(columns["who"])


@pytest.fixture
def texts(tmp_path):
    """Instructions of a few tokens."""
    pytest.importorskip("transformers", reason="language models need the extra lm")
    rows = [{"prompt": f"Add {n} and 2", "completion": str(n + 2)} for n in range(ROWS)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {"width": 8, "depth": 1, "heads": 2}
    return {"url": str(path), "model": model, "max_tokens": 12}


@pytest.mark.slow
def test_tokens_are_moved_in_their_embeddings(texts):
    """Shifts of zero are the run itself, and their metagradient is a central difference."""
    made = built("instructions", texts)
    plain = built("instructions", texts, metaparameters={"name": "weights"})
    direction = torch.randn(made.kind.value.shape, generator=torch.Generator().manual_seed(0))
    direction = direction.to(made.kind.value)

    found = metagradient(made.routine, made.output)["inputs"]
    measured = central_difference(made.routine, made.output, {"inputs": direction})

    assert made.kind.value.shape == (
        len(made.kind.chosen),
        *made.data.splits["train"].inputs.shape[1:],
        8,
    )
    assert not made.kind.value.any()
    assert made.data.fingerprint == plain.data.fingerprint
    batch = made.routine.batch_of(torch.arange(5))
    shifts = made.kind.loss_arguments(made.kind.value, torch.arange(5))
    moved = made.routine.loss(made.routine.model, batch, **shifts)
    assert torch.equal(moved, plain.routine.loss(plain.routine.model, batch))
    assert float((found * direction).sum()) == pytest.approx(measured, rel=1e-5)
    assert found.abs().sum() > 0


@pytest.mark.slow
def test_only_chosen_texts_are_shifted(texts):
    """A neighbour in the batch reads its tokens as they are."""
    made = built("instructions", texts)
    chosen = int(made.kind.chosen[0])
    other = next(i for i in range(len(made.routine)) if i not in made.kind.chosen.tolist())

    z = torch.ones_like(made.kind.value)
    shifts = made.kind.loss_arguments(z, torch.tensor([other, chosen]))["input_shifts"]

    assert not shifts[0].any()
    assert shifts[1].eq(1).all()


@pytest.mark.slow
def test_baselines_of_a_poison_hold_for_shifts_and_labels_of_tokens_are_none(texts):
    """Random shifts and cancelled gradients are values like any other; a token has no class."""
    made = built("instructions", texts)
    state = made.routine.initial_state()

    drawn = random_pixels(made, state, 0, 0)
    cancelled = gradient_cancelling(made, state, 0, 0)

    assert set(BASELINES) >= {BaselineName.RANDOM_PIXELS, BaselineName.GRADIENT_CANCELLING}
    for each in (drawn, cancelled):
        assert each.shape == made.kind.value.shape
        assert torch.equal(each, made.kind.project(each))
        assert each.any()
    with pytest.raises(ConfigurationError, match="label-flip"):
        built("instructions", texts, baselines=["label-flip"])


@pytest.mark.slow
def test_texts_of_a_cut_split_are_those_of_its_tokens(texts):
    """An attribution shows its queries as texts; they are the passages that were encoded."""
    data = built("instructions", texts, metaparameters={"name": "weights"}).data

    lengths = {}
    for split, passages in data.texts.splits.items():
        examples = data.splits[split]
        assert len(passages) == len(examples)
        for passage, row in zip(passages, examples.inputs.tolist(), strict=True):
            assert lengths.setdefault(tuple(row), passage.text) == passage.text
    assert len(lengths) == ROWS
