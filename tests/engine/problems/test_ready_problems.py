"""Problems for a user's own files without any Python: a folder of pictures, and a table."""

import datetime
from collections import Counter

import numpy as np
import pytest
import torch

from engine.errors import ConfigurationError, EngineError
from engine.problems.built import build_problem
from engine.problems.data import bounded
from engine.problems.data.bounded import parquet_columns
from engine.recipes.files import load_recipe, validate_recipe

pillow = pytest.importorskip("PIL.Image", reason="pictures need the extra clip")
arrow = pytest.importorskip("pyarrow", reason="tables need the extra parquet")

TRAINING = {"num_steps": 4, "batch_size": 5, "threads": 1, "learning_rate": 0.1}


def recipe(problem, beside=None, **arguments):
    content = {
        "name": "own",
        "problem": problem,
        "arguments": arguments,
        "training": TRAINING,
        "metaparameters": {"name": "weights"},
        "outer": {"update": "sign"},
    }
    return validate_recipe(content | ({"folder": str(beside)} if beside else {}), "the test")


@pytest.fixture
def pictures(tmp_path):
    """Ten red and eight blue pictures, each of its own shade."""
    for name, count, place in (("red", 10, 0), ("blue", 8, 2)):
        (tmp_path / name).mkdir()
        for number in range(count):
            colour = [0, 0, 0]
            colour[place] = 100 + 10 * number
            pillow.new("RGB", (9, 7), tuple(colour)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "red" / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_image_folder_is_read_with_classes_names_and_pictures(pictures):
    """Every class is held out by the same share, and a candidate can be shown."""
    built = build_problem(recipe("image_folder", folder=str(pictures), size=8, held_out=0.5))

    data = built.data
    assert (data.num_classes, len(data.names)) == (2, 9)
    assert Counter(name.partition("/")[0] for name in data.names) == {"red": 5, "blue": 4}
    assert [len(data.splits[name]) for name in ("objective", "validation", "test")] == [5, 2, 2]
    for place in (0, 8):
        shade = np.array(data.show(place)).max()
        assert shade == round(float(data.splits["train"].inputs[place].max()) * 63.75 + 127.5)
    assert data.groups["class"].count("blue") == 4


def test_trusted_pictures_have_a_folder_of_their_own(pictures, tmp_path):
    """Then nothing is held out of the candidates."""
    built = build_problem(recipe("image_folder", folder=str(pictures), objective=str(pictures)))

    assert len(built.data.splits["train"]) == 18
    assert "18" not in built.notes[0]
    assert any("are the same as a training candidate" in note for note in built.notes)


NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_inputs, num_outputs, width=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(num_inputs, width), nn.GELU(),
                                    nn.Linear(width, num_outputs))

    def forward(self, inputs):
        return self.layers(inputs)

class Needs(nn.Module):
    def __init__(self, depth):
        super().__init__()
"""


def test_model_of_ones_own_is_named_and_known_by_its_source(pictures, tmp_path):
    """It is code as a problem is: its digest is in the run, and an edit is refused."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "nets.py").write_text(NET)
    own = recipe("image_folder", code, folder=str(pictures), size=8, model="nets.py:Net")

    built = build_problem(own)

    assert type(built.routine.model).__name__ == "Net"
    assert set(own.code) == {"nets.py"}
    with pytest.raises(ConfigurationError, match="which needs depth"):
        build_problem(recipe("image_folder", code, folder=str(pictures), model="nets.py:Needs"))
    (code / "nets.py").write_text(NET + "\n#\n")
    with pytest.raises(ConfigurationError, match=r"nets\.py was edited"):
        build_problem(own.model_copy(update={"description": "again"}))


def test_damaged_picture_is_named(pictures):
    """One of thousands, and the user has to find it."""
    (pictures / "blue" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf a picture")

    with pytest.raises(EngineError, match=r"blue/3\.png cannot be decoded"):
        build_problem(recipe("image_folder", folder=str(pictures)))


def test_what_is_no_picture_is_named_and_what_is_one_is_read(pictures):
    """A file is what its content is, and nobody's file is left out in silence."""
    (pictures / "red" / "9.png").rename(pictures / "red" / "nine.data")
    (pictures / "red" / ".0.png").write_bytes(b"of a file manager")

    built = build_problem(recipe("image_folder", folder=str(pictures)))

    assert sum(len(split) for split in built.data.splits.values()) == 18
    words = "2 files are hidden or no pictures in a subfolder, and were left out"
    assert f"{words}: red/.0.png, red/notes.txt." in built.notes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "no pictures in subfolders"),
        (lambda folder: (folder / "one").mkdir(), "no pictures in subfolders"),
    ],
    ids=["empty", "empty class"],
)
def test_folder_without_classes_says_what_is_wanted(make, words, tmp_path):
    """The commonest slip is to name the folder of one class."""
    make(tmp_path)

    with pytest.raises(EngineError, match=words):
        build_problem(recipe("image_folder", folder=str(tmp_path)))


ROWS = 24


@pytest.fixture
def columns():
    """A table with a number, a word, a date, gaps and two labels."""
    drawn = np.random.default_rng(0)
    age = drawn.normal(40, 10, ROWS)
    return {
        "age": [None if place == 3 else float(value) for place, value in enumerate(age)],
        "city": [("Rome", "Oslo", "Bern")[place % 3] for place in range(ROWS)],
        "since": [datetime.date(2020, 1, 1 + place) for place in range(ROWS)],
        "row": [f"r{place}" for place in range(ROWS)],
        "left": ["yes" if value > 40 else "no" for value in age],
        "pay": [float(value) * 1.5 + 0.25 for value in age],
    }


def written(folder, columns, form):
    table, path = arrow.table(columns), folder / f"table.{form}"
    if form == "csv":
        from pyarrow import csv

        csv.write_csv(table, path)
    elif form == "parquet":
        from pyarrow import parquet

        parquet.write_table(table, path)
    else:
        np.savez(
            path,
            inputs=np.random.default_rng(0).normal(size=(ROWS, 2, 3)),
            left=np.arange(ROWS) % 2,
        )
    return str(path)


def test_csv_and_parquet_of_one_table_are_one_problem(tmp_path, columns):
    """The digest of the examples is the same, so every stage is found again."""
    one, other = (
        build_problem(
            recipe("table", url=written(tmp_path, columns, form), label="left", names="row",
                   features=["age", "city", "since"])
        ).data
        for form in ("csv", "parquet")
    )  # fmt: skip

    assert one.fingerprint == other.fingerprint
    assert one.num_classes == 2
    assert set(one.names) <= set(columns["row"])
    inputs = one.splits["train"].inputs
    assert inputs.shape[1] == 2 + 3 + 1  # age and whether it is missing, three cities, a date
    torch.testing.assert_close(inputs[:, -1].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert inputs[:, 2:5].sum(1).eq(1).all()


def test_label_with_fractions_is_a_number(tmp_path, columns):
    """Its loss is the squared error of the standardized label, and a metric has its unit."""
    built = build_problem(
        recipe("table", url=written(tmp_path, columns, "csv"), label="pay", features=["age"])
    )
    state = built.routine.initial_state()

    scores = built.scores(state)["objective"]

    data = built.data.splits["objective"]
    errors = (
        built.routine.evaluate(lambda model: model(data.inputs).squeeze(1), state) - data.labels
    )
    assert scores["loss"] == pytest.approx(float(errors.square().mean()), rel=1e-5)
    pay = torch.tensor(columns["pay"], dtype=torch.float64)
    assert 0 < scores["absolute_error"] < float(pay.max() - pay.min())
    assert built.data.num_classes == 0


def test_many_whole_numbers_are_neither_until_it_is_said(tmp_path, columns):
    """Ages would be ninety classes, and a plausible figure would come of it."""
    table = {**columns, "age": [20 + place for place in range(ROWS)]}
    arguments = {"url": written(tmp_path, table, "csv"), "label": "age", "features": ["pay"]}

    with pytest.raises(EngineError, match=r"24 different whole numbers.*arguments\.target"):
        build_problem(recipe("table", **arguments))
    assert build_problem(recipe("table", target="number", **arguments)).data.num_classes == 0
    assert build_problem(recipe("table", target="number", **arguments)).score is not None


def test_npz_has_a_column_for_each_number(tmp_path, columns):
    """Arrays of any shape, as numpy saves them."""
    built = build_problem(recipe("table", url=written(tmp_path, columns, "npz"), label="left"))

    assert built.data.splits["train"].inputs.shape[1] == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "salary"}, "no column 'salary'; it has age, city"),
        ({"features": ["row"]}, None),
        ({"url": "/nowhere/x.csv"}, "cannot be read"),
        ({"label": "age"}, "missing values"),
    ],
)
def test_table_that_does_not_fit_says_which_column(change, words, tmp_path, columns):
    """The names are the user's, and so is the remedy."""
    many = {**columns, "row": [f"{place}" * 3 for place in range(ROWS)]}
    arguments = {"url": written(tmp_path, many, "parquet"), "label": "left", **change}
    if words is None:
        assert build_problem(recipe("table", **arguments)).data.num_classes == 2
        return

    with pytest.raises(EngineError, match=words):
        build_problem(recipe("table", **arguments))


def test_pickle_in_an_npz_is_not_loaded(tmp_path):
    """It would run code of whoever wrote the file."""
    np.savez(tmp_path / "x.npz", inputs=np.array([{"a": 1}], dtype=object), left=np.array([0]))

    with pytest.raises(EngineError, match="Python objects under 'inputs'"):
        build_problem(recipe("table", url=str(tmp_path / "x.npz"), label="left"))


@pytest.mark.parametrize("kind", ["npz", "rows", "lists"])
def test_table_that_unpacks_to_far_more_than_it_is_is_refused(kind, tmp_path, monkeypatch):
    """A kilobyte may stand for a billion rows; the limit is made small, so that one here may be."""
    monkeypatch.setattr(bounded, "BOMB_BYTES", 2**16)
    monkeypatch.setattr(bounded, "BOMB_RATIO", 2)
    path = tmp_path / f"x.{'npz' if kind == 'npz' else 'parquet'}"
    if kind == "npz":
        np.savez_compressed(path, inputs=np.zeros(2**20), left=np.zeros(2**20))
    else:
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
        rows = [0] * 2**20 if kind == "rows" else [[0] * 2**12] * 2**8
        parquet.write_table(arrow.table({"left": rows}), path)

    with pytest.raises(EngineError, match="unpacks to over 2 times its size"):
        build_problem(recipe("table", url=str(path), label="left"))


def test_word_that_is_there_often_is_in_memory_once(tmp_path):
    """A kilobyte of Parquet may say a long word for each of a million rows."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    columns = {"word": ["a" * 2**12, "b", None] * 2000, "number": list(range(6000))}
    coded = arrow.table({**columns, "coded": arrow.array(columns["word"]).dictionary_encode()})
    parquet.write_table(coded, tmp_path / "x.parquet")

    found = parquet_columns((tmp_path / "x.parquet").read_bytes(), "the table")

    assert found == {**columns, "coded": columns["word"]}
    assert len({id(each) for each in found["word"]}) < 20


def test_unknown_setting_of_a_ready_problem_is_named():
    """As for the problems that ship."""
    with pytest.raises(ConfigurationError, match=r"arguments\.colour: unknown setting"):
        load_recipe(
            "digits-selection", ["problem=image_folder", "arguments={folder: x, colour: 1}"]
        )
