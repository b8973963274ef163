"""What adapters of several libraries share."""

import pytest
import torch
from torch import nn

from engine.problems.adapters.adapted import only_looked_at


def test_a_look_leaves_modes_and_generators_as_they_are():
    """Layer by layer: ``train()`` at the end would let a frozen normalization move again."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval(), nn.Dropout())
    modes, generator = [each.training for each in model.modules()], torch.get_rng_state()

    def fails():
        with only_looked_at(model):
            assert not any(each.training for each in model.modules())
            torch.rand(3)
            raise ValueError("of the loss")

    with pytest.raises(ValueError, match="of the loss"):
        fails()

    assert [each.training for each in model.modules()] == modes == [True, True, False, True]
    assert torch.equal(torch.get_rng_state(), generator)
