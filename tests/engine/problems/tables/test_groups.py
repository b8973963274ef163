"""Columns of groups: who weighs what, and which names mean something else."""

import random

import numpy as np
import pytest
import torch

import engine
from engine.errors import ConfigurationError, DataError
from engine.problems.built import build_problem
from engine.problems.tables.groups import groups_of
from engine.recipes.files import validate_recipe
from tests.helpers.machine.needs import needs
from tests.helpers.runs.finished import finish

needs("pyarrow", "tables need the extra parquet")

SITES = ("Oslo", "Bern", "")
TRAINING = {"num_steps": 6, "batch_size": 8, "threads": 1, "learning_rate": 0.1}


@pytest.fixture
def rows(tmp_path):
    """Forty rows of three sites, one of which has no name; its CSV, and the site of each row."""
    drawn = random.Random(0)
    lines = ["who,x,y,site nr.,kind"]
    for number in range(40):
        x, y = drawn.gauss(0, 1), drawn.gauss(0, 1)
        kind = "ab"[x + drawn.gauss(0, 0.5) > 0]
        lines.append(f"p{number:02},{x},{y},{SITES[number % 3]},{kind}")
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines))
    return path


def recipe(path, metaparameters, **arguments):
    content = {
        "name": "sites",
        "problem": "table",
        "arguments": {
            **{"url": str(path), "label": "kind", "names": "who", "groups": ["site nr."]},
            **{"model": {"name": "mlp", "width": 4, "activation": "gelu"}, **arguments},
        },
        "training": TRAINING | {"dtype": "float64"},
        "metaparameters": metaparameters,
        "outer": {"update": "sign", "num_steps": 1},
        "preflight": "advise",
    }
    return validate_recipe(content, "the test")


BY_SITE = {"name": "group-weights", "groups": "site nr."}


def test_mixture_by_a_column_is_that_of_its_rows(rows):
    """The metagradient of a site is what the weights of its rows say, by the chain rule."""
    mixture = build_problem(recipe(rows, BY_SITE))
    weights = build_problem(recipe(rows, {"name": "weights"}))
    of_sites = engine.metagradient(mixture.routine, mixture.output)["group_weights"]
    of_rows = engine.metagradient(weights.routine, weights.output)["weights"]

    # Row p12 is of site 12 mod 3, whoever reads the file; groups are numbered by their names.
    site = [int(name[1:]) % 3 for name in weights.data.names]
    order = sorted(range(3), key=lambda number: SITES[number] or "missing")
    member = torch.tensor([[float(each == number) for each in site] for number in order])
    member = member.to(torch.float64)
    wanted = member @ of_rows - member.mean(dim=1) * of_rows.sum()
    torch.testing.assert_close(of_sites, wanted, rtol=1e-10, atol=1e-14)
    assert mixture.data.groups["site nr."].count("missing") == site.count(2) > 0
    note = f"{site.count(2)} training candidates have no 'site nr.', and are one group, called"
    assert any(note in each for each in mixture.notes)
    assert weights.data.splits["train"].inputs.shape[1] == 2  # no model reads the site


@pytest.mark.slow
def test_mixture_by_a_column_runs_from_the_recipe_alone(rows, tmp_path):
    """And its report calls the groups by their names."""
    given = recipe(rows, BY_SITE)

    record = finish(given, str(tmp_path / "store"))

    page = (tmp_path / "store" / "runs" / record.run / "report.html").read_text()
    assert [name for name in ("Oslo", "Bern", "missing") if f"({name}), " not in page] == []


def test_column_of_groups_is_read_where_features_name_it(rows):
    """Who weighs sites may still let the model know them; held-out rows need none."""
    held_out = rows.with_name("held_out.csv")
    held_out.write_text("x,y,kind\n0.5,1,a\n-0.5,1,b\n1.5,2,a\n-1.5,2,b\n0.1,1,a\n-0.1,1,b")

    known = build_problem(recipe(rows, BY_SITE, features=["x", "site nr."]))
    beside = build_problem(recipe(rows, BY_SITE, names=None, features=["x", "y"],
                                  objective=str(held_out)))  # fmt: skip

    assert known.data.splits["train"].inputs.shape[1] == 1 + 2
    assert len(beside.data.splits["train"]) == 40
    assert set(beside.data.groups) == {"site nr.", "kind"}
    assert list(beside.data.show(1)) == ["x", "y", "site nr.", "kind"]
    assert list(beside.data.show_held_out("objective", 0)) == ["x", "y", "kind"]


REFUSED = {
    "class": "has 'class', but metaparameters.groups=class means something else",
    "cluster": "has 'cluster', but metaparameters.groups=cluster means something else",
    "town": "has no column 'town'; it has who, x",
}


@pytest.mark.parametrize("name", REFUSED)
def test_groups_that_cannot_be_are_refused(name, rows):
    """A name that means something else would be another mixture in silence."""
    with pytest.raises(DataError, match=REFUSED[name]):
        build_problem(recipe(rows, {"name": "weights"}, groups=[name]))
    with pytest.raises(DataError, match="has 'x' twice"):
        build_problem(recipe(rows, {"name": "weights"}, groups=["x", "x"]))


def test_column_that_was_not_named_is_told_how_to(rows):
    """The remedy needs no Python."""
    with pytest.raises(ConfigurationError, match=r"or name the column in arguments\.groups"):
        build_problem(recipe(rows, {"name": "group-weights", "groups": "who"}))


def test_number_is_one_group_whatever_its_format():
    """Of files that count a site as 7 and as 7.0; lists are no groups."""
    found, notes = groups_of({"site": [7, 7.0, "7", None, float("nan")], "day": [1.5, 2, 3, 4, 5]})

    assert found == {"site": ["7"] * 3 + ["missing"] * 2, "day": ["1.5", "2", "3", "4", "5"]}
    assert len(notes) == 1
    with pytest.raises(DataError, match="holds lists"):
        groups_of({"site": [[1]]})


def test_parquet_and_npz_have_groups_too(tmp_path):
    """The file is what its content is."""
    site = np.arange(30) % 3
    np.savez(tmp_path / "rows.npz", x=np.arange(30.0) % 7, kind=np.arange(30) % 2, site=site)

    data = build_problem(
        recipe(tmp_path / "rows.npz", {"name": "group-weights", "groups": "site"},
               groups=["site"], names=None)
    ).data  # fmt: skip

    assert set(data.groups["site"]) == {"0", "1", "2"}
    assert data.splits["train"].inputs.shape[1] == 1
