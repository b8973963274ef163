"""Data sets of the package ``datasets``: pictures, numbers and texts, with splits of their own."""

import json
import os
import socket

import numpy as np
import pytest

from engine.errors import DataError, EngineError
from engine.problems.built import build_problem
from engine.recipes.files import validate_recipe

datasets = pytest.importorskip("datasets", reason="needs the extra datasets")

TRAINING = {"num_steps": 4, "batch_size": 5, "threads": 1, "learning_rate": 0.1}


def built(source, problem="hf_dataset", **arguments):
    content = {
        "name": "own",
        "problem": problem,
        "arguments": {"source": str(source), **arguments},
        "training": TRAINING,
        "metaparameters": {"name": "weights"},
        "outer": {"update": "sign"},
    }
    return build_problem(validate_recipe(content, "the test"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """The library keeps copies, which are nobody's here."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def numbers(count, seed):
    drawn = np.random.default_rng(seed)
    x = drawn.normal(size=(count, 3))
    return {"x": x.tolist(), "age": drawn.normal(size=count).tolist(),
            "kind": (x[:, 0] > 0).astype(int).tolist()}  # fmt: skip


FEATURES = datasets.Features(
    {
        "x": datasets.List(datasets.Value("float64"), length=3),
        "age": datasets.Value("float64"),
        "kind": datasets.ClassLabel(names=["no", "yes"]),
    }
)


def table(count, seed, **changes):
    return datasets.Dataset.from_dict(numbers(count, seed) | changes, features=FEATURES)


def test_splits_of_its_own_are_kept(tmp_path):
    """Validation is what objective and validation are cut from; test is test."""
    splits = {"train": table(20, 0), "validation": table(10, 1), "test": table(7, 2)}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "data"))

    made = built(tmp_path / "data", inputs=["x", "age"], label="kind")

    sizes = {name: len(each) for name, each in made.data.splits.items()}
    assert sizes == {"train": 20, "objective": 5, "validation": 5, "test": 7}
    assert made.data.splits["train"].inputs.shape == (20, 4)
    wanted = [splits["train"].features["kind"].int2str(v) for v in splits["train"]["kind"]]
    assert list(made.data.groups["kind"]) == wanted
    assert made.data.splits["train"].labels.tolist() == splits["train"]["kind"]
    assert made.data.show(0)["kind"] == wanted[0]
    assert any("split validation" in note for note in made.notes)


@pytest.mark.parametrize("form", ["parquet", "csv", "saved"])
def test_url_is_read_like_a_path(form, tmp_path):
    """A file or a folder that save_to_disk has filled, by any fsspec URL."""
    rows = datasets.Dataset.from_dict({k: v for k, v in numbers(20, 0).items() if k != "x"})
    path = tmp_path / ("saved" if form == "saved" else f"rows.{form}")
    rows.save_to_disk(str(path)) if form == "saved" else getattr(rows, f"to_{form}")(str(path))

    one = built(path, inputs=["age"], label="kind")
    other = built(f"file://{path}", inputs=["age"], label="kind")

    assert one.data.fingerprint == other.data.fingerprint


@pytest.mark.parametrize("form", ["parquet", "json", "csv"])
def test_files_are_read_without_a_network(form, tmp_path, monkeypatch):
    """And rows are held out, because a file has no splits."""
    rows = datasets.Dataset.from_dict({k: v for k, v in numbers(20, 0).items() if k != "x"})
    path = tmp_path / f"rows.{form}"
    getattr(rows, f"to_{form}")(str(path))
    monkeypatch.setattr("socket.socket.connect", lambda *given: pytest.fail("asked a network"))

    made = built(path, inputs=["age"], label="kind", held_out=0.4)

    assert len(made.data.splits["train"]) == 12
    assert any("8 of its training rows are held out" in note for note in made.notes)


def test_pictures_are_decoded_and_shown(tmp_path):
    """Scaled as those of image_folder, and shown in their own size."""
    image = pytest.importorskip("PIL.Image", reason="pictures need the extra clip")
    pictures = [image.new("RGB", (9, 7), (10 * n, 0, 200)) for n in range(20)]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    data = datasets.Dataset.from_dict(
        {"image": pictures, "label": [n % 2 for n in range(20)]}, datasets.Features(features)
    )
    data.save_to_disk(str(tmp_path / "data"))

    made = built(tmp_path / "data", inputs=["image"], label="label", size=8)

    inputs = made.data.splits["train"].inputs
    assert inputs.shape == (12, 3, 8, 8)
    for place in (0, 11):
        shown = made.data.show(place)
        assert shown.size == (9, 7)
        red = round(float(inputs[place, 0].max()) * 63.75 + 127.5)
        assert shown.getpixel((0, 0))[0] == red
        assert made.data.names[place].endswith("ab"[red // 10 % 2])


def test_pictures_of_one_class_are_refused(tmp_path):
    """There is nothing to tell apart, and a metagradient of 0 says nothing of the cause."""
    image = pytest.importorskip("PIL.Image", reason="pictures need the extra clip")
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    columns = {
        "image": [image.new("RGB", (9, 7), (n, 0, 200)) for n in range(20)],
        "label": [1] * 20,
    }
    data = datasets.Dataset.from_dict(columns, datasets.Features(features))
    data.save_to_disk(str(tmp_path / "data"))

    with pytest.raises(DataError, match="All training rows have the label label=b"):
        built(tmp_path / "data", inputs=["image"], label="label", size=8)


@pytest.mark.slow
def test_texts_are_answered_with_their_label(tmp_path):
    """The label is what is learned; the text is masked out of the loss."""
    pytest.importorskip("transformers", reason="language models need the extra lm")
    rows = {"text": [f"film {n} was long" for n in range(20)], "mood": ["sad", "glad"] * 10}
    datasets.Dataset.from_dict(rows).to_json(str(tmp_path / "rows.jsonl"))
    arguments = {"model": {"width": 8, "depth": 1, "heads": 2}}

    made = built(tmp_path / "rows.jsonl", inputs=["text"], label="mood", **arguments)

    labels = made.data.splits["train"].labels
    learned = (labels != -100).sum(dim=1)
    assert int(learned.max()) <= 5  # of at most four bytes, and the end
    assert set(made.data.groups["mood"]) == {"sad", "glad"}
    assert "film" in made.data.show(0)
    whole = built(tmp_path / "rows.jsonl", inputs=["text"], **arguments)
    assert int((whole.data.splits["train"].labels != -100).sum(dim=1).min()) > int(learned.max())


def test_empty_rows_are_counted_and_named(tmp_path):
    """A row without a label, and one without any input."""
    age = [0.5 * n for n in range(20)]
    rows = {"age": [None, *age[1:]], "kind": ["a", None, *["a", "b"] * 9]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "rows.parquet"))

    made = built(tmp_path / "rows.parquet", inputs=["age"], label="kind")

    (note,) = [each for each in made.notes if "were left out" in each]
    assert note.startswith("2 rows without a label or any input")
    assert note.count("row ") == 2
    assert sum(len(each) for each in made.data.splits.values()) == 18


def test_splits_that_overlap_are_said(tmp_path):
    """The same rows in train and validation."""
    splits = {"train": table(20, 0), "validation": table(12, 0)}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "data"))

    made = built(tmp_path / "data", inputs=["x"], label="kind")

    # The first draws of one generator differ by their number, so compare by what is said.
    same = splits["train"]["x"][:12] == splits["validation"]["x"]
    said = any("are the same as a training candidate" in note for note in made.notes)
    assert said == same
    datasets.DatasetDict(
        {"train": splits["train"], "validation": splits["train"].select(range(8))}
    ).save_to_disk(str(tmp_path / "again"))
    again = built(tmp_path / "again", inputs=["x"], label="kind")
    assert any("are the same as a training candidate" in note for note in again.notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": ["y"]}, "have no column 'y'; they have x, age, kind"),
        ({"label": "sort"}, "have no column 'sort'"),
        ({"label": None}, "arguments.label is empty"),
        ({"source": "/nowhere"}, "There is no /nowhere here.*arguments.hub=true"),
        ({"model": "nets.py:Net"}, "no such file"),
    ],
)
def test_what_does_not_fit_is_named(change, words, tmp_path):
    """With the remedy."""
    datasets.DatasetDict({"train": table(20, 0)}).save_to_disk(str(tmp_path / "data"))
    arguments = {"source": str(tmp_path / "data"), "inputs": ["x"], "label": "kind", **change}

    with pytest.raises(EngineError, match=words):
        built(**arguments)


def test_lists_of_two_lengths_are_refused(tmp_path):
    """A model reads as many numbers of each row."""
    rows = {"x": [[1.0] * (1 + n % 2) for n in range(20)], "kind": ["a", "b"] * 10}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "rows.parquet"))

    with pytest.raises(EngineError, match="lists of 1 and 2 numbers"):
        built(tmp_path / "rows.parquet", inputs=["x"], label="kind")


def test_without_train_or_labels_there_is_nothing(tmp_path):
    """Each is said."""
    datasets.DatasetDict({"test": table(5, 0)}).save_to_disk(str(tmp_path / "data"))
    with pytest.raises(EngineError, match="has the splits test, and no train"):
        built(tmp_path / "data", inputs=["x"], label="kind")
    rows = {"age": [0.5] * 6, "kind": [None] * 6}
    features = datasets.Features(
        {"age": datasets.Value("float64"), "kind": datasets.Value("string")}
    )
    datasets.Dataset.from_dict(rows, features).to_parquet(str(tmp_path / "rows.parquet"))
    with pytest.raises(EngineError, match="rows of .* lack a label or any input"):
        built(tmp_path / "rows.parquet", inputs=["age"], label="kind")


@pytest.mark.parametrize("where", ["elsewhere", "a pipe"])
def test_pictures_elsewhere_are_not_read(where, tmp_path):
    """Whoever wrote the data set may have named any file of this machine, or one without an end."""
    pytest.importorskip("PIL.Image", reason="pictures need the extra clip")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    arrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    folder = tmp_path / "saved"
    folder.mkdir()
    named = folder / "pipe" if where == "a pipe" else tmp_path / "secret.png"
    if where == "a pipe":
        os.mkfifo(named)
    else:
        named.write_bytes(b"mine")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    rows = {
        "image": [{"bytes": None, "path": str(named)}] * 20,
        "label": [number % 2 for number in range(20)],
    }
    table = arrow.Table.from_pydict(rows, features.arrow_schema)
    parquet.write_table(table, folder / "rows.parquet")

    with pytest.raises(DataError, match="no file below"):
        built(folder / "rows.parquet", inputs=["image"], label="label", size=8)


@pytest.mark.parametrize(
    "named",
    [
        "https://127.0.0.1:9/rows.parquet",
        "file:///etc/passwd",
        "zip://x.csv::https://127.0.0.1:9/x.zip",
        "/etc/passwd",
        "../rows.parquet",
        "data/../../rows.parquet",
        "~/rows.parquet",
    ],
)
@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
def test_card_that_names_files_elsewhere_is_refused(card, named, tmp_path, monkeypatch):
    """A folder of somebody's would choose what this machine reads and connects to."""
    monkeypatch.setattr(socket.socket, "connect", _no_connection)
    folder = tmp_path / "folder"
    folder.mkdir()
    table(20, 0).to_parquet(str(folder / "rows.parquet"))
    said = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": named}]}]
    }
    text = json.dumps(said).replace(":/", r"\u003a/")  # as YAML reads it, and not as it is written
    (folder / card).write_text(f"---\n{text}\n---\n" if card == "README.md" else text)

    with pytest.raises(DataError, match=r"card of .* names"):
        built(folder, inputs=["x"], label="kind")


@pytest.mark.parametrize("where", ["state.json", "train/state.json", "dataset_dict.json"])
@pytest.mark.parametrize("named", ["../other/data.arrow", "/etc/passwd", "a/../../b", "s3://x/y"])
def test_saved_data_set_that_names_files_elsewhere_is_refused(where, named, tmp_path):
    """The library joins what these documents say, and reads whatever lies there."""
    folder = tmp_path / "saved"
    whole = table(20, 0)
    (whole if where == "state.json" else datasets.DatasetDict({"train": whole})).save_to_disk(
        str(folder)
    )
    content = json.loads((folder / where).read_text())
    if where == "dataset_dict.json":
        content["splits"] = [named]
    else:
        content["_data_files"] = [{"filename": named}]
    (folder / where).write_text(json.dumps(content))

    with pytest.raises(DataError, match=r"names .* as a part of the data set"):
        built(folder, inputs=["x"], label="kind")


def test_card_that_names_files_of_its_folder_is_followed(tmp_path):
    """Which is what cards are for."""
    (tmp_path / "data").mkdir()
    table(20, 0).to_parquet(str(tmp_path / "data" / "rows.parquet"))
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n---\n"
    )

    made = built(tmp_path, inputs=["x"], label="kind")

    assert len(made.data.splits["train"]) > 5


@pytest.mark.parametrize("kind", ["pictures in a list", "a sound", "a video"])
def test_cells_that_name_places_are_not_opened(kind, tmp_path, monkeypatch):
    """The library opens what a cell names when it is asked for the column."""
    opened = []
    monkeypatch.setattr(socket.socket, "connect", lambda *where: opened.append(where))
    cell = {"bytes": None, "path": "http://127.0.0.1:9/latest/meta-data"}
    feature = {
        "pictures in a list": datasets.List(datasets.Image()),
        "a sound": datasets.Audio(),
        "a video": datasets.Video(),
    }[kind]
    cells = [[cell] if "list" in kind else cell] * 20
    features = datasets.Features({"x": feature, "kind": datasets.Value("int64")})
    arrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    rows = arrow.Table.from_pydict({"x": cells, "kind": [0, 1] * 10}, features.arrow_schema)
    arrow.parquet.write_table(rows, tmp_path / "rows.parquet")

    with pytest.raises(EngineError, match="x"):
        built(tmp_path / "rows.parquet", inputs=["x"], label="kind")

    assert opened == []


def _no_connection(*where):
    raise AssertionError(f"a connection to {where}")


@pytest.mark.parametrize("inner", [1, 3])
def test_lists_of_lists_of_two_sizes_are_refused(inner, tmp_path):
    """The longer ones were cut off without a word, and shorter ones were a traceback."""
    lists = [[[1.0, 2.0], [3.0, 4.0]], [[1.0] * inner, [2.0] * inner]]
    rows = {"x": lists * 10, "kind": ["a", "b"] * 10}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "rows.parquet"))

    with pytest.raises(EngineError, match="lists of 2 x"):
        built(tmp_path / "rows.parquet", inputs=["x"], label="kind")


@pytest.mark.parametrize(("inputs", "label"), [(["x", "x_0"], "kind"), (["x"], "x_0")])
def test_places_of_a_list_take_no_other_columns_place(inputs, label, tmp_path):
    """The list's first numbers, or the other column, were lost without a word."""
    rows = {"x": [[float(n), 1.0] for n in range(20)], "x_0": [0, 1] * 10, "kind": [0, 1] * 10}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "rows.parquet"))

    with pytest.raises(EngineError, match="several columns 'x_0'"):
        built(tmp_path / "rows.parquet", inputs=inputs, label=label)


def test_only_row_of_a_class_is_trained_on_and_told(tmp_path):
    """Where the draw held it out, the class was one that no training row has."""
    rows = {"x": [float(n) for n in range(20)], "kind": ["b"] + ["a"] * 19}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "rows.parquet"))

    for seed in range(4):
        found = built(tmp_path / "rows.parquet", inputs=["x"], label="kind", seed=seed)

        assert found.data.groups["kind"].count("b") == 1
        assert "The column 'kind' has one example of b, which is trained on" in " ".join(
            found.notes
        )


def test_row_without_an_input_is_no_row_of_its_class(tmp_path):
    """It is left out, so that the class would be one that no training row has."""
    rows = {"x": [None if n % 2 else float(n) for n in range(60)],
            "kind": ["b"] * 2 + ["a"] * 58}  # fmt: skip
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "rows.parquet"))

    for seed in range(6):
        found = built(tmp_path / "rows.parquet", inputs=["x"], label="kind", seed=seed)

        assert found.data.groups["kind"].count("b") == 1
