"""A descent on pairs from shards, from the preflight to the report: the twin of datacomp-small."""

import csv

import pytest

from engine.problems.built import build_problem
from engine.recipes.files import load_recipe
from flows.descent import descent
from tests.helpers.data.pair_files import SMALL, shards

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("prefect_server")]


def test_descent_on_shards_leaves_scores_selection_and_pairs_to_look_at(tmp_path, prefect_server):
    """Every stage reads the shards anew, and people judge a selection by its pictures."""
    folders = [tmp_path / name for name in ("pool", "target", "store")]
    for folder in folders:
        folder.mkdir()
    store = str(folders[2])
    urls = [
        f"arguments.url={shards(folders[0], 24)}",
        f"arguments.contrastive.target_url={shards(folders[1], 14)}",
    ]
    small = ["outer.num_steps=1", "baselines=[random]", "preflight=advise"]
    recipe = load_recipe("datacomp-small", [*SMALL, *urls, *small])

    record = descent(recipe, store)

    folder = f"{store}/runs/{record.run}"
    with open(f"{folder}/selection.csv") as file:
        rows = list(csv.DictReader(file))
    with open(f"{folder}/report.html") as file:
        page = file.read()
    train = build_problem(recipe).data.splits["train"]
    assert [row["caption"] for row in rows] == list(train.captions)
    assert [row["name"] for row in rows] == list(train.names)
    assert record.iterates[0].scores["test"].keys() == {"loss", "accuracy", "text_to_image"}
    assert [each.name for each in record.baselines] == ["random"]
    assert page.count('<ul class="cards') == 4
    assert "shade 3" in page
