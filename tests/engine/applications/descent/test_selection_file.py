"""The selected subset as files: rows that can be joined with the data set they came from."""

import csv

import pytest
import torch

from engine.applications.descent.selection_file import selection_columns, selection_files
from engine.problems.built import build_problem
from engine.recipes.files import load_recipe
from engine.reports.spreadsheets import safe_cell

RECIPE = load_recipe("digits-selection", ["arguments.num_train=50"])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a written selection, what was selected, and the data."""
    folder, data = tmp_path_factory.mktemp("run"), build_problem(RECIPE).data
    counts, scores = torch.arange(50.0) % 3, torch.linspace(-1, 1, 50)
    files = selection_files(RECIPE, counts, scores, data)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder, counts, scores, data, list(files)


def test_ids_are_positions_in_the_data_set(written):
    """The ids are for use elsewhere: they must find the same image in the library's own order."""
    from sklearn.datasets import load_digits

    _, counts, scores, data, _ = written
    images, _ = load_digits(return_X_y=True)

    ids = selection_columns(counts, scores, data)["id"]

    expected = data.splits["train"].inputs.reshape(50, 64) * 16
    assert torch.equal(torch.from_numpy(images[ids]).float(), expected)


def test_true_labels_are_those_of_the_library(written):
    """Whoever joins the file with the data set finds the library's own label in it."""
    from sklearn.datasets import load_digits

    _, counts, scores, data, _ = written
    _, labels = load_digits(return_X_y=True)

    columns = selection_columns(counts, scores, data)

    assert columns["true_label"] == labels[columns["id"]].tolist()
    differs = [a != b for a, b in zip(columns["label"], columns["true_label"], strict=True)]
    assert differs == columns["corrupted"]
    assert any(differs)


def test_csv_holds_a_row_for_each_candidate(written):
    """Count, score and what is known of the label stand beside the id."""
    folder, counts, scores, data, _ = written

    with open(folder / "selection.csv") as file:
        rows = list(csv.DictReader(file))

    assert [int(row["count"]) for row in rows] == counts.tolist()
    assert [float(row["score"]) for row in rows] == scores.double().tolist()
    assert [int(row["label"]) for row in rows] == data.splits["train"].labels.tolist()
    assert [row["corrupted"] == "True" for row in rows] == data.corrupted.tolist()


def test_parquet_holds_what_the_csv_holds(written):
    """With the extra installed, both files say the same."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
    folder, counts, scores, data, names = written

    table = parquet.read_table(folder / "selection.parquet").to_pydict()

    assert names == ["selection.csv", "selection.parquet"]
    assert table == selection_columns(counts, scores, data)


def test_schedule_selects_nothing():
    """Key points of a learning rate are no examples."""
    recipe = load_recipe("digits-schedule", ["arguments.num_train=50"])
    data = build_problem(recipe).data

    assert selection_files(recipe, torch.ones(10), torch.ones(10), data) == {}


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t=", "\r", " =", "\uff1d"])
def test_text_that_a_spreadsheet_would_run_is_marked_in_csv(sign):
    """A corpus of the Internet may name itself ``=cmd|...``; numbers stay numbers."""
    assert safe_cell(f"{sign}cmd|' /C calc'!A0") == f"'{sign}cmd|' /C calc'!A0"
    assert safe_cell(-1.5) == -1.5
    assert safe_cell("plain = text") == "plain = text"
    # Where a comma is in numbers, a spreadsheet cuts files at semicolons, and begins a cell there.
    behind = safe_cell(f"a; {sign}cmd|' /C calc'!A0")
    mark = sign.strip()  # spreadsheets leave out the space before it
    assert behind == f"a; {sign.replace(mark, chr(39) + mark) if mark else sign}cmd|' /C calc'!A0"
    assert safe_cell("a; b = c; 3 - 4; -5") == "a; b = c; 3 - 4; -5"
