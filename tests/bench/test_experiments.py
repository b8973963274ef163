"""Bounded twins of the experiments on exactness and cost; the full ones are in ``tests/bench``."""

import pytest

from tests.bench.bench_counts import PUBLISHED, tree_rows
from tests.bench.bench_exactness import measure


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "optimizer"), [("weights", "sgd"), ("scalars", "adamw")])
def test_a_metagradient_is_exact_and_two_trainings_confirm_it(kind, optimizer):
    """A1: the bits of store-all, 1e-12 in float64, 1e-4 in float32, a correlation of 0.9999."""
    row = measure(kind, optimizer, 12, directions=3)

    assert row["bits float64"]
    assert row["bits float32"]
    assert row["error float64"] < 1e-12
    assert row["error float32"] < 1e-4
    assert 0 < row["off"] < 1e-4  # float32 against float64: never the same number twice
    assert row["correlation"] > 0.9999
    assert row["worst"] < 1e-3


def test_steps_and_states_are_those_of_the_published_tree():
    """A2: no more forward steps and live states than the paper's lazy tree, of any size."""
    found = {(t, k): (cost.forward_steps, cost.peak_states) for t, k, cost, _ in tree_rows(256)}

    assert found == {size: counts for size, counts in PUBLISHED.items() if size[0] <= 256}
