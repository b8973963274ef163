"""Code that computes something else when it is called again, and digests that every process has."""

import os
import subprocess
import sys

import pytest
import torch

from engine.errors import ConfigurationError
from engine.problems.built import build_problem, check_repeats
from engine.problems.identity.names import BEHAVIOUR
from engine.problems.identity.tried import canonical
from tests.helpers.data.own_problem import own, replaced

LOSS = 'return cross_entropy(model(batch["x"]), batch["y"], reduction="none")'
METRIC = 'metrics={"accuracy": accuracy}'
NET = "    net = nn.Sequential"
COUNTED = """    calls = []
    def counted(model, batch):
        calls.append(1)
        return FACTOR * loss(model, batch)
"""


def counting(factor):
    """Return the problem with a loss that counts its calls, anew in each call of its function."""
    content = replaced(NET, COUNTED.replace("FACTOR", factor) + NET)
    return content.replace("loss=loss,", "loss=counted,")


KEPT = {
    "the first call alone": counting("(2.0 if len(calls) == 1 else 1.0)"),
    "each call": counting("(1 + 0.01 * len(calls))"),
    "a number of Python's": replaced(LOSS, LOSS.replace("return ", "return random.random() * "))
    .replace("import torch\n", "import random\nimport torch\n", 1),
    "a score of time": replaced(METRIC, "metrics={'seconds': seconds}").replace(
        "def two_clouds",
        "import time\ndef seconds(model, batch): return torch.tensor(time.perf_counter())\n\n\n"
        "def two_clouds",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", KEPT)
def test_what_differs_with_the_number_of_calls_is_refused(way, tmp_path):
    """Two calls of the function see the same, since each begins to count anew."""
    recipe = own(tmp_path, KEPT[way])

    with pytest.raises(ConfigurationError, match="kept between calls") as refused:
        check_repeats(recipe)

    assert "same steps are tried again" in str(refused.value)


def test_a_loss_that_counts_without_using_it_is_let_go(tmp_path):
    """A log that a loss keeps changes no number."""
    check_repeats(own(tmp_path, counting("(1.0 if calls else 2.0)")))


ASKED = f"""
import sys
from engine.problems.built import build_problem
from engine.recipes.files import load_recipe
print(build_problem(load_recipe(sys.argv[1])).digests[{BEHAVIOUR!r}])
"""


@pytest.mark.slow
def test_every_process_has_the_same_digest_of_metrics_from_a_set(tmp_path):
    """A set has another order in each process; a run is to go on in another one."""
    names = "{name: accuracy for name in {'a', 'bb', 'ccc', 'dddd', 'e', 'f'}}"
    own(tmp_path, replaced(METRIC, f"metrics={names}"))
    found = {
        subprocess.run(
            [sys.executable, "-c", ASKED, str(tmp_path / "clouds.yaml")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(found) == 1


class Curve:
    """What a user's score may return."""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": {2.0}}, {"b": {2.0}, "a": 1}),
        (Curve(), Curve()),
        ([float("nan")], [float("nan")]),
    ],
)
def test_what_is_the_same_is_shown_alike(one, other):
    """The address of an object, and the order of a set, are those of a process."""
    assert repr(canonical(one)) == repr(canonical(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(5000), torch.eye(5000)[2500]),
        (torch.tensor([1.0]), torch.tensor([1.0 + 1e-6])),
        ({"a": 0.0}, {"a": -0.0}),
        ({"a": 1}, {"a": "1"}),
        ([1, 2], [2, 1]),
    ],
)  # fmt: skip
def test_what_differs_is_shown_otherwise(one, other):
    """The text of a long tensor leaves most of its numbers out."""
    assert repr(canonical(one)) != repr(canonical(other))


SHORT = {
    "a device": "raise torch.OutOfMemoryError('CUDA out of memory')",
    "this machine": "raise RuntimeError('DefaultCPUAllocator: not enough memory')",
    "a file": "raise TimeoutError('the share did not answer')",
}


@pytest.mark.parametrize("what", SHORT)
def test_what_fails_for_a_moment_makes_no_other_digest(what, tmp_path):
    """Another worker had enough memory, and its stages are to be found."""
    recipe = own(tmp_path, replaced(LOSS, SHORT[what]))

    with pytest.raises((RuntimeError, TimeoutError)):
        build_problem(recipe)


def test_what_fails_always_is_told_by_others(tmp_path):
    """A check says in which line a loss fails, which building a problem cannot."""
    recipe = own(tmp_path, replaced(LOSS, "raise ValueError('always')"))

    assert BEHAVIOUR not in build_problem(recipe).digests
