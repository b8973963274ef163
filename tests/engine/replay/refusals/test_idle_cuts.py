"""What is taken out of the graph at every step, and counts at some."""

import pytest
import torch
from torch import nn

import engine
from engine.errors import WitnessError
from tests.strangers.plain import loss, mlp
from tests.strangers.witnessed import Counting, output, routine

_STEPS, _EVERY = 40, 11


class Centred(Counting):
    """Keeps a mean of what it computes, at times of numbers without a graph, which is sound."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, dtype=torch.float64))

    def forward(self, inputs):
        """Scale the logits by the mean."""
        found = super().forward(inputs)
        if self.training:
            now, is_due = found.mean(0), int(self.count) % _EVERY == 0
            self.mean.mul_(0.5).add_(is_due * now.detach() + (1 - is_due) * now)
        return found * (1 + self.mean)


def _is_due(model):
    return torch.tensor(model.training and int(model.count) % _EVERY == 0)


def _loss(change):
    def own(model, batch):
        return change(loss(model, batch), _is_due(model))

    return own


def _assigned(losses, due):
    factors = torch.ones_like(losses)
    chosen = due.expand(len(losses))
    factors[chosen] = losses.detach()[chosen]
    return losses * factors


def _without_graph(losses, due):
    with torch.no_grad():
        factors = torch.where(due, losses, torch.ones_like(losses))
    return losses * factors


def _by_data(losses, due):
    factors = torch.ones_like(losses)
    factors.data.add_(losses.data * due)
    return losses * factors


def _of_a_branch(losses, due):
    constant = losses.detach()
    return losses * constant if due else losses


def _hooked(losses, due):
    losses = 1 * losses
    if losses.requires_grad:
        losses.register_hook(lambda gradient: gradient * (1 + 8 * due * gradient.detach()))
    return losses


@torch.jit.script
def _scripted_branch(losses: torch.Tensor, due: bool) -> torch.Tensor:
    if due:
        losses = losses * losses.detach()
    return losses


@torch.jit.script
def _scripted_choice(losses: torch.Tensor, due: torch.Tensor) -> torch.Tensor:
    return losses * torch.where(due, losses.detach(), torch.ones_like(losses))


CUTS = {
    "where": lambda losses, due: losses * torch.where(due, losses.detach(), 1.0),
    "a mask": lambda losses, due: losses * (1 + due.double() * losses.data),
    "lerp": lambda losses, due: (
        losses * torch.lerp(torch.ones_like(losses), losses.detach(), due.double())
    ),
    "index_put": _assigned,
    "no_grad": _without_graph,
    "written into .data": _by_data,
    "a branch": _of_a_branch,
    "a number": lambda losses, due: losses * (1 + int(due) * losses.mean().item()),
    "numpy": lambda losses, due: losses * torch.from_numpy(1 + int(due) * losses.detach().numpy()),
    "a list": lambda losses, due: losses * (1 + int(due) * torch.tensor(losses.tolist()).double()),
    "a hook": _hooked,
    "scripted, in a branch": lambda losses, due: _scripted_branch(losses, bool(due)),
    "scripted, chosen": _scripted_choice,
}


@pytest.mark.parametrize("change", CUTS.values(), ids=CUTS)
def test_what_is_taken_out_always_and_counts_at_times_is_refused(change):
    """A comparison where it does not count runs through the same line."""
    run = routine(Counting(), loss=_loss(change), num_steps=_STEPS, learning_rate=0.1)

    with pytest.raises(WitnessError, match="comes only now and then"):
        engine.metagradient(run, output)


class _Rounds(Counting):
    def forward(self, inputs):
        outputs = super().forward(inputs)
        return outputs + 0.5 * _is_due(self) * (torch.round(outputs) - outputs).detach()


def test_a_forward_pass_that_rounds_at_times_is_refused():
    """As a straight-through rounding that is switched on."""
    run = routine(_Rounds(), num_steps=_STEPS, learning_rate=0.1)

    with pytest.raises(WitnessError, match="second derivative"):
        engine.metagradient(run, output)


@pytest.mark.parametrize("way", ["a mask", "a number"])
def test_an_update_that_uses_a_constant_at_times_is_refused(way):
    """At a step where no update is compared otherwise."""

    def update(state, gradient, hyper, step):
        size = gradient.norm().item() if way == "a number" else gradient.norm().detach()
        factor = 1 + (step == 27) * size
        return {"params": state["params"] - hyper["learning_rate"] * factor * gradient}

    own = engine.Optimizer("own", {}, lambda params: {}, update)

    with pytest.raises(WitnessError, match=r"update of optimizer 'own'.*step 27"):
        engine.metagradient(routine(optimizer=own, num_steps=_STEPS, learning_rate=0.1), output)


SOUND = {
    "a log": lambda losses, due: (losses, losses.detach().mean(), losses.mean().item())[0],
    "a largest one": lambda losses, due: (
        losses + (losses - losses.max().detach()).exp().sum().log() + losses.max().detach()
    ),
    "never": lambda losses, due: losses * torch.where(due & ~due, losses.detach(), 1.0),
    "a guard": lambda losses, due: torch.where(torch.isfinite(losses.detach()), losses, 0.0),
    "as much as it takes away": lambda losses, due: losses + losses.detach() - losses.detach(),
}


@pytest.mark.parametrize("change", SOUND.values(), ids=SOUND)
def test_what_counts_at_no_step_is_sound(change):
    """Or has no derivative."""
    run = routine(Counting(), loss=_loss(change), num_steps=_STEPS, learning_rate=0.1)
    direction = torch.randn(24, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    found = engine.metagradient(run, output)

    wanted = engine.central_difference(run, output, {"weights": direction})
    assert float(found["weights"] @ direction) == pytest.approx(wanted, rel=1e-5)
    assert "taken out of the graph" not in found.witness.sentence


class _Moves(nn.Module):
    """Counts in a buffer, and is scripted as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(nn.Tanh())
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.net(inputs)
        if self.training:
            self.count += 1
            if int(self.count) % 11 == 0:
                outputs = outputs * outputs.detach()
        return outputs


def test_a_scripted_module_whose_buffers_move_is_looked_at():
    """It has no way to ask for an inner module by its name."""
    with pytest.raises(WitnessError, match="second derivative"):
        engine.metagradient(routine(torch.jit.script(_Moves()), num_steps=_STEPS), output)


ADVANCES = {
    "a branch": lambda size, due: size.detach() if due else size,
    "a number": lambda size, due: size.item() if due else size,
    "chosen": lambda size, due: torch.where(torch.tensor(due), size.detach(), size),
}


@pytest.mark.parametrize("change", ADVANCES.values(), ids=ADVANCES)
def test_an_advance_that_uses_a_constant_at_times_is_refused(change):
    """It moves a state of the problem's own as an update moves parameters."""

    def advance(state, params, batch, step):
        size = sum((row**2).sum() for row in params.values()) / 50
        return {"scale": 0.9 * state["scale"] + 0.1 * change(size, step == 17)}

    run = routine(
        mlp(nn.Tanh()),
        loss=lambda model, batch, state: loss(model, batch) * (1 + state["scale"]),
        state={"scale": torch.zeros((), dtype=torch.float64)},
        advance=advance,
        num_steps=30,
    )

    with pytest.raises(WitnessError, match=r"or the problem's advance, .*step 17"):
        engine.metagradient(run, output)


def test_asking_leaves_the_buffers_of_the_run_as_they_were():
    """A second call of the loss, with other numbers, would hand its buffers to the product."""
    run = routine(Centred(), num_steps=_STEPS, learning_rate=0.1)

    found = engine.metagradient(run, output)["weights"]

    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found)
    wanted = engine.central_difference(run, output, {"weights": direction})
    assert float(found @ direction) == pytest.approx(float(wanted), rel=1e-6)
    assert torch.equal(found, engine.metagradient(run, output, witness=False)["weights"])
