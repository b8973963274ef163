"""A preflight of few directions, for tests of what surrounds a run.

``tests/engine/preflight`` holds what the preflight itself has to find, with all of its directions.
"""

from collections.abc import Iterator
from functools import partial

import pytest


@pytest.fixture(scope="module", autouse=True)
def few_directions() -> Iterator[None]:
    """Let the preflight of a run take 2 random directions, not 20: half of a tiny run's time."""
    from engine.preflight.checkup import checked
    from engine.stages import training

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "checked", partial(checked, num_directions=2))
        yield
