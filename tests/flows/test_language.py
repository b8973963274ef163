"""Selection and attribution of texts by their flows: shares of sources, files and reports."""

import csv
import json
from pathlib import Path

import pytest

from engine.recipes.files import validate_recipe
from engine.storage.places import run_folder
from flows.attribution import attribution
from flows.descent import descent
from tests.helpers.data.language import TINY, library_texts, write_jsonl

# A bounded twin runs by default: tests/engine/applications/descent/test_source_shares.py.
pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("prefect_server")]


def read(store, record, name):
    """Return a file beside a run's report."""
    return Path(run_folder(store, record.run), name).read_text()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Three sources of the standard library's own text; the task is more of one of them."""
    return library_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def finished(texts, tmp_path_factory, prefect_server):
    """A small selection with its baselines, and where it is: a bounded twin of text-selection."""
    store = str(tmp_path_factory.mktemp("store"))
    content = TINY | {
        "arguments": texts
        | {
            "num_train": 180,
            "num_objective": 40,
            "num_validation": 40,
            "num_test": 40,
            "model": {"name": "transformers", "width": 16, "depth": 1, "heads": 2},
        },
        "training": {
            "num_steps": 40,
            "batch_size": 12,
            "learning_rate": 0.01,
            "rate_schedule": "one-cycle",
            "threads": 1,
        },
        "metaparameters": {"name": "counts", "injection_step": 30},
        "outer": {"num_steps": 3, "update": "masked-sign", "probability": 0.5},
        "baselines": ["all-data", "random", "low-loss", "gradient-similarity"],
        "replay": {"schedule": "store-all", "steps_per_segment": 40},
        "preflight": "advise",
    }
    return store, descent(validate_recipe(content, "test"), store)


def test_the_task_gets_better_than_with_all_data_and_with_a_random_subset(finished):
    """The direction of text-selection, on text that every Python has."""
    _, record = finished
    test = record.iterates[record.chosen].scores["test"]["loss"]
    others = {each.name: each.scores["test"]["loss"] for each in record.baselines}

    assert record.chosen > 0
    assert test < 0.97 * others["all-data"]
    assert test < 0.97 * others["random"]


def test_counts_move_to_the_source_of_the_task(finished):
    """What the record, the report and --json say of the sources are one and the same."""
    store, record = finished
    shares = {each.name: each for each in record.sources}
    page = read(store, record, "report.html")

    assert sorted(shares) == ["code", "prose", "sums"]
    assert sum(each.candidates for each in shares.values()) == 180
    assert shares["prose"].after > shares["prose"].before + 0.15
    assert sum(each.after for each in shares.values()) == pytest.approx(1)
    assert record.compared()["sources"]["prose"]["after"] == shares["prose"].after
    assert "Training moves to the source prose" in page
    assert "Share of each source" in page


def test_the_selection_file_leads_back_to_the_users_own_lines(finished):
    """Source, file and line of a candidate name the text that was trained on."""
    store, record = finished
    rows = list(csv.DictReader(read(store, record, "selection.csv").splitlines()))

    prose = [row for row in rows if row["source"] == "prose"]
    lines = Path(prose[0]["file"]).read_text().splitlines()
    total = sum(int(row["count"]) for row in rows)
    assert len(rows) == 180
    assert set(json.loads(lines[int(prose[0]["line"]) - 1])) == {"prompt", "completion"}
    assert sum(int(row["count"]) for row in prose) / total == pytest.approx(
        {each.name: each.after for each in record.sources}["prose"]
    )


def test_attribution_shows_texts_and_escapes_them(texts, tmp_path, prefect_server):
    """The report has the query and its examples as text; markup in a text is no markup."""
    pairs = [(f"<b>{n}</b>", f"<script>x</script> & {n * n} answers") for n in range(60)]
    path = write_jsonl(tmp_path / "markup.jsonl", pairs)
    content = TINY | {
        "kind": "attribution",
        "arguments": texts | {
            "sources": [path], "target": path, "max_tokens": 40,
            "num_train": 40, "num_objective": 5, "num_validation": 5, "num_test": 5,
            "model": {"name": "transformers", "width": 8, "depth": 1, "heads": 2},
        },
        "metaparameters": {"name": "weights"},
        "preflight": "advise",
        "attribution": {
            "num_queries": 2, "drops": [20], "num_subsets": 4, "trainings_per_stage": 4,
            "trial_subsets": 0, "baselines": ["final-gradient"],
        },
    }  # fmt: skip

    record = attribution(validate_recipe(content, "test"), str(tmp_path / "store"))

    page = read(str(tmp_path / "store"), record, "report.html")
    assert "&lt;script&gt;x&lt;/script&gt; &amp; " in page
    assert "<script>" not in page
    assert page.count("Query: &lt;b&gt;") == 2
    assert ">helps</td>" in page
    assert ">harms</td>" in page
    assert set(record.lds) == {"metagradient", "final-gradient"}
