"""What is gathered of the stages of a training and of a reverse sweep, the last of them given."""

import pytest

from engine.stages import monitoring
from engine.stages.monitoring import alarm, read_sweep, training_losses
from engine.stages.references import Ref

LAST, FIRST = (Ref(stage="some", key=32 * each, content=16 * "0") for each in "ab")
RECORDS = {
    LAST.key: {
        "losses": [0.3, 0.2],
        "adjoint_norms": {"0": 4.0, "1": 2.0},
        "layer_norms": {"0": [3.0, 4.0], "1": [1.0, 0.0]},
        "share_norms": {"0": [6.0, 8.0], "1": [0.0, 2.0]},
        "uncompared": [1],
    },
    FIRST.key: {
        "losses": [0.9, 0.5],
        "adjoint_norms": {"2": 1.0},
        "layer_norms": {"2": [0.5, 0.0]},
        "share_norms": {"2": [5.0, 12.0]},
        "uncompared": [2, 0],
    },
}


@pytest.fixture(autouse=True)
def two_stages(monkeypatch):
    """A stage that was made from another one."""
    monkeypatch.setattr(monitoring, "lineage", lambda store, ref, upstream: [LAST, FIRST])
    monkeypatch.setattr(monitoring, "read_scalars", lambda store, ref: RECORDS[ref.key])


def test_losses_are_in_the_order_of_the_steps():
    """The stages are found from the last one backwards."""
    assert training_losses("store", LAST) == [0.9, 0.5, 0.3, 0.2]


def test_norms_of_several_parts_are_one():
    """A step's share has a part for each metaparameter, and a norm is no sum."""
    found = read_sweep("store", LAST)

    assert found.shares == {0: 10.0, 1: 2.0, 2: 13.0}
    assert found.adjoint == {0: 4.0, 1: 2.0, 2: 1.0}
    assert found.layers[0] == [3.0, 4.0]
    assert found.uncompared == [0, 1, 2]


def test_alarm_names_the_outer_step_that_grew_fastest():
    """And is silent at the limit."""
    limit = monitoring.GROWTH_LIMIT

    assert alarm([]) is None
    assert alarm([1.0, limit]) is None
    assert alarm([1.0, 3 * limit, 2 * limit]).startswith("In outer step 1 the adjoint grew")
