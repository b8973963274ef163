"""The flow of attribution, on Prefect's own engine."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import engine
from engine.applications.attribution.record import OWN
from engine.applications.attribution.scores import query_outputs
from engine.applications.attribution.works import subsets
from engine.errors import CheckpointCorruptError, ConfigurationError
from engine.problems.built import build_problem
from engine.recipes.files import validate_recipe
from engine.replay.batched import train_many
from engine.replay.metagradient import metagradients
from engine.runs.run import find_run, read_recipe
from engine.stages import commits
from engine.stages.commits import read_scalars
from engine.storage.chunk_files import write_chunk
from engine.storage.places import run_folder
from flows.attribution import attribution
from tests.helpers.runs.tiny_attribution import tiny_attribution

TINY = tiny_attribution(
    60,
    20,
    replay={"steps_per_segment": 4},
    attribution={
        "num_queries": 3,
        "drops": [10, 20],
        "num_subsets": 6,
        "trainings_per_stage": 4,
        "trial_subsets": 3,
        "baselines": ["final-gradient"],
    },
)


@pytest.fixture(scope="module")
def recipe():
    return validate_recipe(TINY, "test")


@pytest.fixture(scope="module")
def record(recipe, prefect_server, tmp_path_factory):
    """One attribution, and where it is."""
    store = str(tmp_path_factory.mktemp("store"))
    return attribution(recipe, store), store


def read_scores(found, store):
    with open(run_folder(store, found.run) + "/scores.csv") as file:
        lines = list(csv.DictReader(file))
    columns = [[float(line[f"query_{i}"]) for line in lines] for i in range(3)]
    return torch.tensor(columns, dtype=torch.float64)


@pytest.mark.slow
def test_all_queries_go_through_the_segments_in_one_sweep(record, recipe):
    """Stored adjoints are flat rows; what comes back has the bits of a run without a store."""
    found, store = record
    problem = build_problem(recipe.descent)

    expected = metagradients(problem.routine, query_outputs(problem, recipe.attribution.queries))

    assert torch.equal(
        read_scores(found, store), torch.stack([each["weights"] for each in expected])
    )


@pytest.mark.slow
def test_the_judge_is_a_training_at_weight_zero(record, recipe):
    """LDS of the record against one that is computed here, from trainings one by one."""
    from scipy.stats import spearmanr

    from engine.applications.attribution.scores import kept_weights

    found, store = record
    problem = build_problem(recipe.descent)
    removals = recipe.attribution.removals[1]
    weights = torch.stack([kept_weights(removals, 60, i) for i in range(6)]).double()
    states = train_many(problem.routine, [{"weights": w} for w in weights], together="loop")
    scores = read_scores(found, store)

    expected = []
    for number, phi in enumerate(query_outputs(problem, recipe.attribution.queries)):
        losses = [float(problem.routine.evaluate(phi, state)) for state in states]
        expected.append(spearmanr((weights - 1) @ scores[number], losses)[0])

    assert found.lds[OWN]["20"].mean == pytest.approx(sum(expected) / 3)


@pytest.mark.slow
def test_the_same_flow_again_trains_nothing_and_more_subsets_train_few(record, recipe):
    """Every training that judges is named by its subset."""
    found, store = record
    more = {**TINY["attribution"], "num_subsets": 8}

    again = attribution(recipe, store)
    larger = attribution(validate_recipe({**TINY, "attribution": more}, "test"), store)

    assert again.stages.cached == again.stages.total == found.stages.total == 14
    assert again.lds == found.lds
    # Of each percentage, the first group of four is there; the second one had two.
    assert larger.stages.total - larger.stages.cached == 2


@pytest.mark.slow
def test_an_attribution_leaves_report_and_figures_and_can_be_found(record, recipe):
    """And its JSON object has percentages, not methods, under ``lds``."""
    found, store = record

    content = found.content(store)

    assert read_recipe(store, find_run(store, found.run[:9])) == recipe
    assert content["lds"].keys() == {"10", "20"}
    assert content["baselines"]["final-gradient"]["lds"].keys() == {"10", "20"}
    with open(content["report"]) as file:
        page = file.read()
    assert page.count("<svg ") == 2 * 2
    assert page.count("<h3>Query ") == recipe.attribution.num_queries
    assert re.search(r"seconds of the run</td><td[^>]*>[\d.]+</td><td[^>]*>[\d.]+</td>", page)
    assert "bytes written" not in page  # nobody has predicted those of this kind
    assert "removals" in [check.name for check in found.checks.checks]


@pytest.mark.slow
def test_an_opened_attribution_has_numbers_and_scores_by_query(record, recipe):
    """Beside the file that the run wrote, and the examples that the problem has."""
    found, store = record
    run = engine.open_run(store, found.run)
    problem = build_problem(recipe.descent)
    expected = read_scores(found, store)

    assert run.rows[1] == {
        "scores": OWN,
        "left_out_percent": 20.0,
        "lds": found.lds[OWN]["20"].mean,
        "lds_low": found.lds[OWN]["20"].low,
        "lds_high": found.lds[OWN]["20"].high,
    }
    assert run.scores.shape == (3, 60)
    assert torch.equal(run.scores.values(), expected)
    assert all(torch.equal(run.scores[query], expected[query]) for query in range(3))
    assert torch.equal(torch.stack(list(run.scores)), expected)
    assert torch.equal(run.scores["query_2"], run.scores[2])
    labels = problem.data.splits[recipe.attribution.query_split].labels[:3]
    assert [row["label"] for row in run.scores.queries] == labels.tolist()
    given = problem.data.splits["train"].labels.tolist()
    assert [row["label"] for row in run.scores.examples] == given
    assert list(run.scores.table["query_1"]) == expected[1].tolist()
    other = run.scores.of("final-gradient")
    assert not torch.equal(other[0], expected[0])
    assert torch.equal(other.values()[0], other[0])
    with pytest.raises(ConfigurationError, match=r"no scores of 'trak'\. It has metagradient"):
        run.scores.of("trak")
    with pytest.raises(ConfigurationError, match="no query 'query_3'"):
        run.scores["query_3"]
    assert "3 queries, 60 examples" in repr(run.scores)
    assert "query_0" in run.scores._repr_html_()


@pytest.fixture
def opened(record, tmp_path):
    """A copy of the run, to be changed: what opens it, its folder, and its scores as stored."""
    found, store = record
    shutil.copytree(store, tmp_path / "own")
    place = Path(commits.committed_rows(str(tmp_path / "own"), found.found.own).url)
    return (
        lambda: engine.open_run(str(tmp_path / "own"), found.run).scores,
        tmp_path / "own" / "runs" / found.run,
        place,
    )


@pytest.mark.slow
def test_one_query_is_not_read_of_scores_that_are_others(opened):
    """A chunk of another run's scores has a checksum that is right, and its row a mark."""
    scores, _, place = opened
    (chunk,) = place.glob("metagradient_*/c/0/0")
    assert scores()[1].shape == (60,)
    write_chunk(str(chunk), np.frombuffer(chunk.read_bytes()[:-4], np.float64)[::-1])

    with pytest.raises(CheckpointCorruptError, match="has the fingerprint"):
        scores()[1]


@pytest.mark.slow
@pytest.mark.parametrize("table", ["queries.csv", "scores.csv"])
def test_a_table_that_lost_a_line_does_not_move_the_scores(table, opened):
    """Each query would have begun at another place of the row, in silence."""
    scores, folder, _ = opened
    (folder / table).write_text("".join((folder / table).read_text().splitlines(True)[:-1]))

    with pytest.raises(CheckpointCorruptError, match=f"has 180 scores.*{table}"):
        scores()[0]


def test_a_group_of_subsets_is_never_larger_than_asked_for(recipe):
    """And together they are all of each percentage."""
    groups = [
        (each.removals.percent, each.start, each.stop) for each in subsets(recipe.attribution)
    ]

    assert groups == [(10, 0, 4), (10, 4, 6), (20, 0, 4), (20, 4, 6)]


@pytest.mark.slow
def test_a_basis_is_swept_in_place_of_the_queries_and_the_report_shows_its_error(
    prefect_server, tmp_path
):
    """Four directions and two queries are swept for nine; all nine have scores, and are judged."""
    settings = {**TINY["attribution"], "num_queries": 9, "basis": 4, "drops": [20]}
    recipe = validate_recipe({**TINY, "attribution": settings}, "test")

    found = attribution(recipe, str(tmp_path))

    scores = engine.open_run(str(tmp_path), found.run).scores
    problem = build_problem(recipe.descent)
    exact = metagradients(problem.routine, query_outputs(problem, recipe.attribution.queries))
    truth = torch.stack([each["weights"] for each in exact])
    told = read_scalars(str(tmp_path), found.found.spanned)
    errors = ((scores.values() - truth).norm(dim=1) / truth.norm(dim=1)).tolist()
    assert [each[-1] for each in told["errors"]] == pytest.approx(errors[:2])
    assert found.basis is not None
    assert f"{max(errors[:2]):.2g} at most" in found.basis
    assert any(found.basis in line for line in found.findings())
    with open(found.content(str(tmp_path))["report"]) as file:
        assert "Scores from a basis of directions" in file.read()
    assert scores.basis(trusted=True).query(query_outputs(problem, recipe.attribution.queries)[8])


@pytest.mark.slow
def test_a_run_without_a_basis_says_how_one_is_had(record):
    """Whoever asks a finished run for more queries is told the setting."""
    found, store = record

    with pytest.raises(ConfigurationError, match=r"attribution\.basis"):
        engine.open_run(store, found.run).scores.basis()
