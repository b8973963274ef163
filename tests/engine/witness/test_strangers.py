"""Strangers' code: what it is given in return is right, or a refusal that says why."""

from dataclasses import replace

import pytest

from engine import EngineError
from engine.errors import WitnessError
from tests.strangers import (
    carried,
    carried_more,
    complexes,
    frozen_parts,
    held_constant,
    inner_training,
    judged,
    kept_of_forward,
    mapped_gradients,
    modes,
    own_backward,
    sound_more,
    wrong_by_little,
    wrong_later,
)
from tests.strangers.plain import by_engine, by_trainings
from tests.strangers.sound import MODULES
from tests.strangers.sound_layers import LAYERS
from tests.strangers.sound_losses import LOSSES
from tests.strangers.wrong import REFUSED

SOUND = {
    **LAYERS,
    **LOSSES,
    **MODULES,
    **wrong_by_little.SOUND,
    **wrong_later.SOUND,
    **carried.SOUND,
    **carried_more.SOUND,
    **modes.SOUND,
    **complexes.SOUND,
    **sound_more.SOUND,
    **mapped_gradients.SOUND,
    **own_backward.SOUND,
    **judged.SOUND,
    **held_constant.SOUND,
    **kept_of_forward.SOUND,
    **inner_training.SOUND,
    **frozen_parts.SOUND,
}
ALWAYS = {
    "checkpoint",
    "checkpoint with batch norm",
    "checkpoint, selective",
    "frozen batch norm by train()",
    "ghost batch norm with statistics for each",
    "hook that clips",
    "experts, some idle",
    "weight norm",
    "siamese tower",
    "gradient penalty",
    "hardest examples",
    "cumulative product with a zero",
    "scripted module",
    "outer penalty: norm of one",
    "constant from the outer module: detached",
    "trained outside: a head",
    "a parameter in a list",
    "graph as a sparse buffer of rows",
    "graph as a sparse buffer",
    "a hard choice that is drawn",
    "carried: parts of split",
    "carried: row by row",
    "complex: a recurrence",
    "complex: a neural operator",
    "complex: a hook",
    "carried: a codebook",
    "carried: other memory by set_",
    "samples by rejection: Beta",
    "hook that draws from a generator of its own",
    "carried: an average that is evaluated",
    "frozen body whose statistics move",
    "batch norm in both modes",
    "teacher outside",
    "batch norm by own rules: ByData",
    "own backward: adversarial domains",
    "own backward: binary weights",
    "own backward: saved output, reversed",
    "own backward: reversal in a checkpoint",
    "own backward: a detached gradient",
    "own backward: marked once_differentiable",
    "own backward: marked once_differentiable, detached",
    *judged.SOUND,
    "copy inside: without a graph",
    "copy inside: in the output",
    "frozen for a term: critic with batch norm",
    "frozen for a term: what trains is counted",
    "frozen for a term: from a later step on",
    "frozen for a term: given to a custom function",
    "steps inside: of leaves",
    "steps inside: by an optimizer",
    "steps inside: weights by gradients",
    "steps inside: in the output",
    *inner_training.REFUSED,
    *frozen_parts.REFUSED,
    *kept_of_forward.SOUND,
    *kept_of_forward.REFUSED,
    "mapped gradient: reversal",
    "mapped gradient: hook that clips",
    "mapped gradient: a node's hook, after",
    "mapped gradient: a node's hook, before",
    "mapped gradient: an edge of the graph",
    "mapped gradient: a node's hook beside a buffer",
    *mapped_gradients.REFUSED,
    "own function, where all is 0 at first: a rectifier",
    "backward hook on layer 2: full",
    "gradients scaled by frequency",
    "noise of numpy in the output",
    "detach in the output: detached weights",
    "values from the first batch: copy",
    "another function without a graph (True)",
    "hook that reads the parameter: decay by its values",
    "constant from the outer module, times 1e-07",
    "rare draw of numpy in the loss",
    "rare draw of random in the output",
    "rare draw of random, seeded by the clock in the loss",
    "detach for confident ones",
    "seeded in the call",
    "hook whose counter runs out",
    "counter that turns in pairs",
    "cache by version and address",
    "activations collected by an object",
    "weight that is bounded later: clamp of .data",
    "weight that is bounded later: assignment of .data",
    "detach that begins later: learned examples",
    "every seventh step: detach",
    "every seventh step: float",
    "every seventh step: looked at",
    "loss that reads .grad",
    "loss that calls backward",
    "adapter merged for evaluation",
    "output that reads what the last batch left",
    "output that reads the best loss",
    "eval() that leaves something",
    "eval() that is training",
    "samples by what the index is",
    "samples that are flipped rarely",
    "held for steps: trained from a later step on",
    "held for steps by detach(): trained up to a step",
    "held for steps by detach(): by turns",
    "weight exchanged for a call: twice",
    "weight exchanged for a call: set and penalized",
    "weight exchanged for a call: registered and penalized",
    *sound_more.REFUSED,
    "buffer that becomes an attribute",
}
"""One of each kind runs always, all of them where every case is asked for (``-m exhaustive``)."""


IN_SHARDS = {
    "batch norm, plain average",
    "ghost batch norm with statistics for each",
    "batch norm by own rules: Assigned",
    "hardest examples",
    "drawn temperature",
    "kept of forward: beside its input",
    "samples with noise of torch",
    "frozen for a term: critic",
    "adapted before",
    "attack that clears its gradients",
}
"""Of those, the ones that run always with a batch in shards."""


def _cases(names, always=ALWAYS):
    return [
        pytest.param(name, marks=() if name in always else pytest.mark.exhaustive) for name in names
    ]


def test_there_are_at_least_a_hundred_of_each():
    """The figure that the engine is held to counts from a hundred on."""
    assert len(SOUND) >= 100
    assert len(REFUSED) >= 100


@pytest.mark.parametrize("name", _cases(SOUND))
def test_a_sound_run_is_right(name):
    """The reference trains the module in place and shares nothing with the engine but the order."""
    variant = SOUND[name]
    wanted, value = by_trainings(variant)

    found, output = by_engine(variant)

    assert output == pytest.approx(value, rel=1e-8)
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", _cases(SOUND, IN_SHARDS))
def test_a_sound_run_is_right_in_shards(name):
    """Scripts that accumulate normalize, compare and draw for each piece of a batch by itself."""
    variant = replace(SOUND[name], shards=2)
    if name == "attack that clears its gradients":  # of the shards before it
        with pytest.raises(WitnessError, match="The loss clears the .grad"):
            by_engine(variant)
        return
    wanted, value = by_trainings(variant)

    found, output = by_engine(variant)

    assert output == pytest.approx(value, rel=1e-8)
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", _cases(REFUSED))
def test_a_run_that_would_be_wrong_is_refused_by_name(name):
    """Without the refusal each gives a number that differs from two plain trainings."""
    variant, words = REFUSED[name]

    with pytest.raises(EngineError, match=words):
        by_engine(variant)
