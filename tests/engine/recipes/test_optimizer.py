"""What a recipe says of its optimizer: every setting is read, or refused."""

import pytest
from pydantic import ValidationError

from engine.recipes.optimizer import READS, OptimizerName, OptimizerSettings, ParameterGroup
from engine.recipes.training import RateSchedule
from engine.routine.optimizers import OPTIMIZERS, make_optimizer
from engine.routine.rates import SHAPES


def test_every_name_has_a_description_and_a_function():
    """A name without either would be a KeyError at the start of a run."""
    assert set(OPTIMIZERS) == set(READS) == set(OptimizerName)
    assert set(SHAPES) == set(RateSchedule)


@pytest.mark.parametrize("name", OptimizerName)
def test_every_setting_that_is_read_reaches_the_optimizer(name):
    """A setting that is read and dropped would train something else under the same name."""
    changed = {
        "momentum": 0.5,
        "nesterov": True,
        "weight_decay": 0.25,
        "beta1": 0.6,
        "beta2": 0.7,
        "alpha": 0.35,
        "centered": True,
        "eps": 1e-5,
        "eps_root": 1e-6,
        "rest": ("head.*",),
        "rest_rate": 0.5,
    }
    settings = {key: changed[key] for key in changed if key in READS[name] | {"weight_decay"}}

    made = make_optimizer(
        OptimizerSettings(name=name, clip_norm=0.75, ema_decay=0.85, ema_start=2, **settings)
    )

    numbers = set(made.hyperparameters.values())
    wanted = {value for value in settings.values() if type(value) is float} - {0.5}
    assert wanted | {0.75, 0.85} <= numbers
    assert made.evaluated == "average"


def test_rest_rate_is_a_factor_of_what_muon_leaves():
    """Half the rate for biases; the matrices keep theirs."""
    import torch

    from engine.routine.layout import Layout

    shapes = {"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2), "head.weight": torch.eye(2)}
    layout = Layout.of({name: value.double() for name, value in shapes.items()})
    states = []
    for rate in (1.0, 0.5):
        settings = OptimizerSettings(
            name=OptimizerName.MUON, rest=("head.*",), rest_rate=rate, eps_root=0.0
        )
        made = make_optimizer(settings).on(layout, torch.device("cpu"))
        start = torch.ones(layout.size, dtype=torch.float64)
        gradient = torch.linspace(1, 2, layout.size, dtype=torch.float64)
        hyper = {**made.at(0), "learning_rate": 0.1}
        moved = made.update({"params": start, **made.init(start)}, gradient, hyper, 0)
        states.append(layout.views(moved["params"] - start))

    whole, half = states
    assert torch.equal(whole["0.weight"], half["0.weight"])
    for name in ("0.bias", "head.weight"):
        assert torch.allclose(0.5 * whole[name], half[name], rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "sgd", "alpha": 0.9},
            "alpha is 0.9, but optimizer.name is sgd, which does not read it. Use rmsprop",
        ),
        ({"name": "adam", "rest": ("head.*",)}, "optimizer.rest"),
        ({"name": "rmsprop", "nesterov": True}, "optimizer.nesterov"),
        ({"name": "muon", "centered": True}, "optimizer.centered"),
        (
            {"groups": ({"beta1": 0.5},)},
            "beta1=0.5, but optimizer.name is sgd, which does not read it",
        ),
        ({"groups": ({"lr": 0.5},)}, "lr"),
        ({"clip_norm": 1.0, "clip_value": 1.0}, "Use one of them"),
        ({"clip_norm": 0.0}, "greater than 0"),
        ({"ema_start": 3}, "there is no average"),
        ({"ema_decay": 1.0}, "less than 1"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(settings, message):
    """A run that is not what its recipe says is the worst kind of slip."""
    with pytest.raises(ValidationError, match=message):
        OptimizerSettings(**settings)


def test_a_pattern_is_that_of_a_file():
    """One pattern may stand without a list."""
    group = ParameterGroup.model_validate({"names": "*.bias", "max_axes": 1})

    assert group.has("0.bias", (3,))
    assert not group.has("0.weight", (3,))
    assert not group.has("0.bias", (3, 1))
