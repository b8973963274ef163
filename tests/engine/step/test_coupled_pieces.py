"""A coupled batch in pieces: the product of the whole batch, to rounding."""

from dataclasses import replace

import pytest
import torch

import engine
from engine.errors import ConfigurationError, UndifferentiableError
from engine.metaparameters.counts import Counts
from engine.metaparameters.inputs import Inputs
from engine.metaparameters.weights import ExampleWeights
from engine.models.losses import per_example_cross_entropy
from engine.problems.pairs.loss import ContrastiveLoss
from engine.problems.pairs.towers import build_towers
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.arguments.pairs import ContrastiveSettings
from engine.replay.step_costs import graph_bytes, measure_costs
from engine.step.coupled_pieces import gradient_in_pieces
from engine.step.reference import step_vjp
from tests.helpers.data import pairs

KINDS = {
    "weights": ExampleWeights(torch.linspace(0.2, 1.5, 20).double()),
    "counts": Counts(torch.tensor([1.0] * 16 + [0.0] * 3 + [2.0]).double(), injection_step=3),
}
TOWERS = {
    "vit": {"name": "vit", "width": 8, "depth": 1, "heads": 2, "patch_size": 2, "norm": "layer"},
    "resnet": {"name": "resnet", "width": 4, "depth": 1, "norm": "group"},
}


def towers(name):
    settings = ContrastiveSettings(**(pairs.SETTINGS.model_dump() | {"vocabulary": 12}))
    model = ModelSettings(**TOWERS[name])
    return build_towers(model, settings, (1, 4, 4), 12, seed=0, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "optimizer"),
    [("vit", "counts", "adamw"), ("vit", "weights", "adamw"), ("resnet", "counts", "sgd")],
)
def test_metagradient_in_pieces_is_that_of_the_whole_batch(name, kind, optimizer):
    """Batches of 4,096 fit into no memory at once; a negative left out would be another loss."""
    chosen = engine.sgd(0.9) if optimizer == "sgd" else engine.adamw(eps_root=1e-6)
    whole = pairs.routine(KINDS[kind], model=towers(name), optimizer=chosen, num_steps=5)

    found = engine.metagradient(replace(whole, piece=4), pairs.output()).gradient["z"]

    _, expected = engine.whole_run_gradient(whole, pairs.output())
    assert float((found - expected["z"]).norm() / expected["z"].norm()) < 1e-10


REFUSED = {
    "uncoupled": ({"loss": per_example_cross_entropy}, "use micro_batch"),
    "compiled": ({"compile": True}, "not compiled"),
    "none": ({"piece": 0}, "at least one example"),
    "inputs": (
        {"metaparameters": {"z": Inputs(pairs.pairs(2)[0], torch.arange(2), 20)}},
        "do not know a metaparameter",
    ),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_pieces_cannot_carry_is_refused(changes, reason):
    """It would be left out of the product without an error."""
    with pytest.raises(ConfigurationError, match=reason):
        pairs.routine(KINDS["weights"], **({"piece": 4} | changes))


class _CutOff(ContrastiveLoss):
    """Compares embeddings that lead nowhere, with a temperature that is still learned."""

    def couple(self, model, embeddings, multiplicity=None):
        """See ``CoupledLoss``."""
        return super().couple(model, embeddings.detach(), multiplicity)


def test_a_loss_that_is_cut_off_from_its_embeddings_is_refused():
    """Its gradient by the temperature alone would pass for that of the towers."""
    routine = pairs.routine(KINDS["weights"], loss=_CutOff(), piece=4)
    (term,) = routine.terms(0)
    state, z = routine.initial_state(), routine.point()

    with pytest.raises(UndifferentiableError, match="does not depend on its embeddings"):
        gradient_in_pieces(routine, state["params"], term, z, 0)


def test_costs_of_a_step_in_pieces_are_measured_without_a_graph_of_the_whole(tmp_path):
    """On the GPU that pieces are for, one graph of the whole batch would be out of memory."""
    whole = pairs.routine(KINDS["counts"])
    routine = replace(whole, piece=2)

    costs = measure_costs(routine, pairs.output(), step_vjp, str(tmp_path), seconds=0.01)

    assert costs.graph_bytes < measure_graph(whole)
    assert costs.injected > 0


def measure_graph(routine):
    z, state = routine.point(), routine.initial_state()
    return graph_bytes(routine, state, z, routine.first_step + 1)
