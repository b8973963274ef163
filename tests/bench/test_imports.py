"""Benchmarks are run by hand, so nobody else notices that a name of the engine has moved."""

from importlib import import_module
from pathlib import Path

import pytest

BENCHES = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHES)
def test_every_benchmark_can_be_loaded(name):
    """With whatever it imports from the engine when it is loaded."""
    assert import_module(f"tests.bench.{name}").__doc__
