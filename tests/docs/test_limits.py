"""The table of the README's Limits: what is refused, and that what comes nearest works."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, logsigmoid

import engine
from engine.errors import UndifferentiableError

ROOT = Path(__file__).parents[2]
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 4, generator=GENERATOR, dtype=torch.float64)
Y = torch.randint(0, 3, (60,), generator=GENERATOR)
V = torch.randn(40, generator=GENERATOR, dtype=torch.float64)


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def routine(model=None, loss=loss, optimizer=None, **more):
    """Return a run of twelve steps with a weight for each example."""
    torch.manual_seed(0)
    made = model() if model else nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3))
    weights = engine.ExampleWeights(torch.ones(40, dtype=torch.float64))
    return engine.Routine(
        made.double(), loss, (X[:40], Y[:40]), optimizer or engine.sgd(), num_steps=12,
        batch_size=10, metaparameters={"weights": weights}, **({"learning_rate": 0.1} | more),
    )  # fmt: skip


def metagradient(run, output=None, **options):
    output = output or (lambda model: loss(model, (X[40:], Y[40:])).mean())
    return engine.metagradient(run, output, **options)


def agrees(run, output=None):
    """Compare the metagradient with a central difference of two trainings."""
    output = output or (lambda model: loss(model, (X[40:], Y[40:])).mean())
    found = float(metagradient(run, output)["weights"] @ V)
    return (
        found == pytest.approx(engine.central_difference(run, output, {"weights": V}), rel=1e-4)
        and abs(found) > 1e-6
    )


class Net(nn.Module):
    """A net whose first layer is changed by the subclasses."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, inputs):
        return self.last(torch.tanh(self.first(inputs)))


class PowerIteration(Net):
    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(self.first)


class Carries(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("hidden", torch.zeros(6))

    def forward(self, inputs):
        hidden = torch.tanh(self.first(inputs) + self.hidden)
        self.hidden = hidden.mean(0).detach()
        return self.last(hidden)


class CarriesOutside(Net):
    def __init__(self):
        super().__init__()
        self.hidden = [torch.zeros(6, dtype=torch.float64)]

    def forward(self, inputs):
        hidden = torch.tanh(self.first(inputs) + self.hidden[-1])
        self.hidden.append(hidden.mean(0).detach())
        return self.last(hidden)


class Rounds(Net):
    def forward(self, inputs):
        hidden = torch.tanh(self.first(inputs))
        return self.last(hidden + (torch.round(4 * hidden) / 4 - hidden).detach())


def halves(model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return loss(model.float(), (batch[0].float(), batch[1]))


def detached(model, batch):
    losses = loss(model, batch)
    return losses * losses.detach()


class Reverse(torch.autograd.Function):
    """The gradient reversal layer."""

    @staticmethod
    def forward(ctx, inputs):
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.made = nn.Linear(2, 4)
        self.judge = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 1))


def game(model, batch, between=lambda made: made):
    noise = torch.randn(len(batch[0]), 2, dtype=torch.float64)
    real, made = model.judge(batch[0]), model.judge(between(model.made(noise)))
    return -(logsigmoid(real) + logsigmoid(-made)).squeeze(1)


def judged(model):
    return model.judge(X[40:]).square().mean()


def signed(smooth):
    """Return Lion without its decay, with the sign or a smooth one."""

    def update(state, gradient, settings, step):
        mixed = 0.9 * state["m"] + 0.1 * gradient
        way = mixed / (mixed.square() + 1e-6).sqrt() if smooth else torch.sign(mixed)
        return {
            "params": state["params"] - settings["learning_rate"] * way,
            "m": 0.99 * state["m"] + 0.01 * gradient,
        }

    return engine.Optimizer("lion", {}, lambda params: {"m": torch.zeros_like(params)}, update)


def uphill_for_the_generator():
    signs = [
        torch.full((value.numel(),), -1.0 if name.startswith("made") else 1.0, dtype=torch.float64)
        for name, value in Gan().named_parameters()
    ]
    signs = torch.cat(signs)

    def update(state, gradient, settings, step):
        return {"params": state["params"] - settings["learning_rate"] * signs * gradient}

    return engine.Optimizer("game", {}, lambda params: {}, update)


REFUSED = {
    "carried over": (lambda: routine(CarriesOutside), "Keep nothing between|outside the param"),
    "bfloat16": (lambda: routine(loss=halves), "fewer than 32 bits"),
    "detached weights of a loss": (lambda: routine(loss=detached), "second derivative"),
    "straight-through rounding": (lambda: routine(Rounds), "second derivative"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case):
    """The table says that the engine refuses it before it trains."""
    run, reason = REFUSED[case]

    with pytest.raises(engine.EngineError, match=reason):
        metagradient(run())


def test_plateau_schedule_is_refused_with_what_comes_nearest():
    """Its rates can be handed in once it has taken them."""
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(torch.optim.SGD(Net().parameters()))

    with pytest.raises(engine.EngineError, match="hand in the rates that it took"):
        engine.rates(scheduler, 12)

    assert agrees(routine(learning_rate=[0.1] * 6 + [0.01] * 6))


def test_accuracy_is_refused_as_an_output():
    """It is constant almost everywhere."""
    with pytest.raises(engine.EngineError, match="use a loss"):
        metagradient(routine(), lambda model: (model(X[40:]).argmax(1) == Y[40:]).double().mean())


def test_optimizer_of_torch_is_refused():
    """In the tests the types of arguments are checked before the engine's own words."""
    with pytest.raises((engine.EngineError, TypeError), match="LBFGS"):
        routine(optimizer=torch.optim.LBFGS(Net().parameters()))


@pytest.mark.parametrize("model", [Carries, PowerIteration])
def test_what_the_module_keeps_in_buffers_works(model):
    """What the table offers in the place of a list: it is a part of the state."""
    assert agrees(routine(model))


def test_sign_has_a_metagradient_of_zero_and_a_smooth_one_has_not():
    """Zero is right, and says nothing: it is refused by name, unless nobody asks."""
    jumping = routine(optimizer=signed(smooth=False))
    with pytest.raises(UndifferentiableError, match="lion"):
        metagradient(jumping)
    assert not metagradient(jumping, witness=False)["weights"].any()
    assert agrees(routine(optimizer=signed(smooth=True), learning_rate=0.01))


def test_minimax_game_is_one_loss_with_an_update_that_goes_uphill_for_one_player():
    """What the table offers in the place of two losses."""
    assert agrees(routine(Gan, game, uphill_for_the_generator()), judged)


def test_minimax_game_is_one_loss_with_a_reversal_of_gradients():
    """As a custom function, which is how people write it."""
    assert agrees(routine(Gan, lambda model, batch: game(model, batch, Reverse.apply)), judged)


def test_hidden_state_works_as_a_state_of_the_run():
    """What the table offers in the place of what is kept outside of the module."""

    def stateful(model, batch, state=None):
        hidden = 0.0 if state is None else state["hidden"]
        return cross_entropy(
            model.last(torch.tanh(model.first(batch[0]) + hidden)), batch[1], reduction="none"
        )

    def advance(state, params, batch, step, model):
        return {"hidden": torch.tanh(model.first(batch[0]) + state["hidden"]).mean(0)}

    run = routine(
        Net, stateful, state={"hidden": torch.zeros(6, dtype=torch.float64)}, advance=advance
    )

    assert agrees(run, lambda model: stateful(model, (X[40:], Y[40:])).mean())


def test_every_row_of_the_table_is_tried_here():
    """A row that is added is tried as well."""
    text = (ROOT / "README.md").read_text().partition("\n## Limits\n")[2]
    rows = re.findall(r"^\| (?!what people|---)(.*?) \|", text.partition("\n- ")[0], re.MULTILINE)

    assert len(rows) == 10, "try the new row in this file, and count it"
