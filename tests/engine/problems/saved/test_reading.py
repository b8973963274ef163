"""Splits of a data set: its own, some that are named, and some that lie elsewhere."""

import pytest

from engine.errors import DataError
from engine.problems.built import build_problem
from engine.recipes.files import validate_recipe

datasets = pytest.importorskip("datasets", reason="needs the extra datasets")

COLUMNS = {"inputs": ["x"], "label": "kind"}


def built(source, metaparameters=None, **arguments):
    content = {
        "name": "own",
        "problem": "hf_dataset",
        "arguments": {"source": str(source), **COLUMNS, **arguments},
        "training": {"num_steps": 4, "batch_size": 5, "threads": 1, "learning_rate": 0.1},
        "metaparameters": metaparameters or {"name": "weights"},
        "outer": {"update": "sign"},
    }
    return build_problem(validate_recipe(content, "the test"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """The library keeps copies, which are nobody's here."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows(count, first):
    """Rows whose number says of which split they are."""
    numbers = [float(first + place) for place in range(count)]
    sites = [("Ulm", None, "Kiel")[place % 3] for place in range(count)]
    return datasets.Dataset.from_dict(
        {"x": numbers, "kind": ["ab"[place % 2] for place in range(count)], "site": sites}
    )


FIRST = {"train": 0, "trusted": 100, "validation": 200, "test": 300}


@pytest.fixture
def saved(tmp_path):
    """A data set with four splits, and a file of rows by itself."""
    splits = {name: rows(24 if name == "train" else 10, first) for name, first in FIRST.items()}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    rows(9, 400).to_parquet(str(tmp_path / "more.parquet"))
    return tmp_path / "saved"


def origins(found):
    """Return from which hundred the rows of each split are, and how many they are."""
    return {
        split: (int(found.data.show(0)["x"]) // 100
                if split == "train"
                else int(found.data.show_held_out(split, 0)["x"]) // 100, len(examples))
        for split, examples in found.data.splits.items()
    }  # fmt: skip


SPLITS = {
    "its own": ({}, {"objective": (2, 5), "validation": (2, 5), "test": (3, 10)}),
    "a trusted one": (
        {"objective": "trusted"},
        {"objective": (1, 10), "validation": (2, 10), "test": (3, 10)},
    ),
    "a file": (
        {"objective": "more.parquet", "test": "trusted"},
        {"objective": (4, 9), "validation": (2, 10), "test": (1, 10)},
    ),
    "the validation split": (
        {"objective": "validation"},
        {"objective": (2, 5), "validation": (2, 5), "test": (3, 10)},
    ),
    "the test split": (
        {"objective": "test"},
        {"objective": (3, 5), "validation": (2, 10), "test": (3, 5)},
    ),
    "the validation split for what it is": (
        {"validation": "validation", "held_out": 0.5},
        {"train": (0, 12), "objective": (0, 12), "validation": (2, 10), "test": (3, 10)},
    ),
}


@pytest.mark.parametrize("case", SPLITS)
def test_every_split_may_be_named_or_lie_elsewhere(case, saved):
    """What is left out is the data set's own, or cut from the objective's."""
    arguments, wanted = SPLITS[case]
    arguments = {
        name: str(saved.parent / each) if str(each).endswith("parquet") else each
        for name, each in arguments.items()
    }

    assert origins(built(saved, **arguments)) == {"train": (0, 24)} | wanted


def test_overlap_of_named_splits_is_said(saved):
    """Rows that are trained on say little about new ones."""
    found = built(saved, objective="train", validation="trusted", test="trusted")

    notes = " ".join(found.notes)
    assert "24 of 24 objective examples are the same as a training candidate" in notes
    assert "10 of 10 test examples are validation examples too" in notes


REFUSED = {
    "neither split nor place": (
        {"objective": "trustd"},
        r"no trustd here, nor in arguments\.source, which has the splits .*trusted.*Correct "
        r"arguments\.objective",
    ),
    "several splits": (
        {"test": "others"},
        "which has the splits validation, trusted, and none cal",
    ),
    "no such group": ({"groups": ["town"]}, r"no column 'town'.*Correct arguments\.groups"),
    "a group that is none": ({"groups": ["cluster"]}, "means something else: clusters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_split_that_cannot_be_is_refused(case, saved, tmp_path, monkeypatch):
    """In one message that says what there is."""
    monkeypatch.chdir(tmp_path)
    arguments, words = REFUSED[case]
    if "test" in arguments:
        others = {name: rows(5, 0) for name in ("validation", "trusted")}
        datasets.DatasetDict(others).save_to_disk(str(tmp_path / "others"))
        arguments = {"test": "others"}

    with pytest.raises(DataError, match=words):
        built(saved, **arguments)


def test_mixture_by_a_column(saved):
    """From the recipe alone; rows without a group are one."""
    found = built(saved, {"name": "group-weights", "groups": "site"}, groups=["site"])

    assert found.data.groups["site"][:4] == ("Ulm", "missing", "Kiel", "Ulm")
    assert found.kind.value.shape == (3,)
    assert any("8 training candidates have no 'site'" in note for note in found.notes)
    assert found.data.splits["train"].inputs.shape[1] == 1


def test_pictures_of_a_folder_elsewhere_are_read_there(tmp_path):
    """Each split has a place of its own, and its pictures lie beside it."""
    image = pytest.importorskip("PIL.Image", reason="pictures need the extra clip")
    features = datasets.Features({"image": datasets.Image(), "kind": datasets.Value("string")})
    for name, shade in (("one", 0), ("other", 200)):
        pictures = [image.new("RGB", (9, 7), (n, shade, 0)) for n in range(12)]
        given = {"image": pictures, "kind": ["ab"[n % 2] for n in range(12)]}
        datasets.Dataset.from_dict(given, features).save_to_disk(str(tmp_path / name))
    numbers = tmp_path / "numbers.parquet"
    datasets.Dataset.from_dict({"image": [1.0], "kind": ["a"]}).to_parquet(str(numbers))

    found = built(tmp_path / "one", inputs=["image"], size=8, objective=str(tmp_path / "other"))

    assert len(found.data.splits["train"]) == 12
    assert found.data.show_held_out("test", 0).getpixel((0, 0))[1] == 200
    assert float(found.data.splits["objective"].inputs[:, 1].min()) > 0
    with pytest.raises(DataError, match="train rows has pictures, and that of the objective rows"):
        built(tmp_path / "one", inputs=["image"], size=8, objective=str(numbers))
