"""The part of a step that is named where the metagradient is not the derivative of the run."""

import pytest
import torch

from engine.metaparameters.weights import ExampleWeights
from engine.preflight.cuts import find_cut
from tests.helpers.trainings.broken_routines import BROKEN
from tests.helpers.trainings.routines import NUM_EXAMPLES, routine

ANY = {"weights": torch.zeros(NUM_EXAMPLES)}
"""A metagradient, of which the names are read alone."""


class HalfCut(ExampleWeights):
    """Weights whose second half takes no part in the derivative."""

    def weights(self, z, indices):
        """Return them, half of them detached."""
        found = super().weights(z, indices)
        return torch.where(indices < NUM_EXAMPLES // 2, found, found.detach())


def test_a_sound_step_has_no_cut():
    """The update, the gradient and the way of z in agree with differences, each by itself."""
    assert "Each part of one step agrees" in find_cut(routine(num_steps=3), ANY)


@pytest.mark.parametrize(
    ("name", "where"),
    [("half-detached moment", "the update of optimizer 'half', with respect to 'm'"),
     ("wrong custom backward", "the gradient of the model or the loss")],
)  # fmt: skip
def test_the_part_that_was_cut_is_named(name, where):
    """Whoever reads it looks there, and nowhere else."""
    assert where in find_cut(BROKEN[name].make(), ANY)


def test_a_metaparameter_that_is_cut_in_part_is_named():
    """The step is right, and the way into it is not."""
    kind = HalfCut(torch.ones(NUM_EXAMPLES, dtype=torch.float64))

    found = find_cut(routine(num_steps=3, metaparameters={"weights": kind}), ANY)

    assert found == "The cut is in the way of metaparameter 'weights' into the step."
