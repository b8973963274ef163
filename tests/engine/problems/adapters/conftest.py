"""What tests of adapters share."""

import pytest


@pytest.fixture(scope="module")
def trainers():
    """Trainers of tests, imported when a test runs: each worker collects all files."""
    pytest.importorskip("transformers", reason="Trainers need the extra lm")
    pytest.importorskip("accelerate", reason="Trainers need accelerate")
    from tests.engine.problems.adapters import trainers

    return trainers


@pytest.fixture(scope="module")
def of_lightning():
    """Modules of Lightning, imported when a test runs: each worker collects all files."""
    pytest.importorskip("lightning.pytorch", reason="needs the extra lightning")
    from tests.engine.problems.adapters import lightning_modules

    return lightning_modules
