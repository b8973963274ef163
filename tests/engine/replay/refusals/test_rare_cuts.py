"""Steps that lose the graph now and then, where no comparison of all runs comes by."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import engine
from engine.errors import WitnessError
from tests.strangers.plain import data
from tests.strangers.witnessed import Counting, output, routine

_STEPS = 40  # of which the last two and those in the middle and after three quarters are compared


def _loss(change: Callable[[Tensor], Tensor], every: int = 11) -> Callable[..., Tensor]:
    """Cross-entropy, which is changed in every so many calls."""

    def own(model: Counting, batch: tuple[Tensor, Tensor]) -> Tensor:
        losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        is_due = model.training and int(model.count) % every == 0
        return change(losses) if is_due else losses

    return own


def _run(change: Callable[[Tensor], Tensor], every: int = 11, **changes: object) -> engine.Routine:
    own = {"loss": _loss(change, every), "num_steps": _STEPS, "learning_rate": 0.1}
    return routine(Counting(), **(own | changes))


def _held(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(data()[0][24:]), data()[1][24:])


def _by_its_own_constant(losses: Tensor) -> Tensor:
    return losses * losses.detach()


def _from_a_terminal() -> Callable[[Tensor], Tensor]:
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    text = "def change(losses):\n    return losses * losses.detach()\n"
    exec(compile(text, "<stdin>", "exec"), found)
    return found["change"]


def _hooked(losses: Tensor) -> Tensor:
    losses = 1 * losses
    if losses.requires_grad:
        losses.register_hook(lambda gradient: 8 * gradient * gradient.detach())
    return losses


CUTS = {
    "detach": _by_its_own_constant,
    "tensor": lambda losses: losses * torch.tensor(losses.mean(), dtype=torch.float64),
    "new_tensor": lambda losses: losses * losses.new_tensor(losses),
    "complex": lambda losses: losses * complex(losses.mean()).real,
    "linspace": lambda losses: (
        losses * torch.linspace(0, losses.sum(), len(losses), dtype=losses.dtype)
    ),
    "vmap": lambda losses: losses * torch.func.vmap(lambda each: each.detach())(losses),
    "a hook": _hooked,
    "in a terminal": _from_a_terminal(),
}


@pytest.mark.filterwarnings("ignore:To copy construct:UserWarning")
@pytest.mark.filterwarnings("ignore:Converting a tensor:UserWarning")
@pytest.mark.parametrize("change", CUTS.values(), ids=CUTS)
def test_what_loses_the_graph_now_and_then_is_refused(change):
    """Whatever it is called."""
    with pytest.raises(WitnessError, match="comes only now and then"):
        engine.metagradient(_run(change), _held)


@pytest.mark.parametrize(
    "change",
    [torch.zeros_like, lambda losses: losses * torch.ones_like(losses)],
    ids=["zeros", "ones"],
)
def test_what_reads_a_shape_only_is_no_cut(change):
    """Nothing is compared because of it, and nothing said."""
    found = engine.metagradient(_run(lambda losses: losses + 0 * change(losses)), _held)

    assert "taken out of the graph" not in found.witness.sentence


@pytest.mark.parametrize("shards", [2, 4])
def test_a_cut_in_another_shard_than_the_first_is_refused(shards):
    """Each piece of a batch goes through the module by itself."""
    run = _run(_by_its_own_constant, 3 * shards, shards=shards, num_steps=10)

    with pytest.raises(WitnessError, match="second derivative"):
        engine.metagradient(run, _held)


def test_a_cut_in_a_step_whose_graph_is_kept_is_refused():
    """It is met long before the step is reversed, after many others that do not cut."""
    run = _run(_by_its_own_constant, 5, num_steps=24)
    once = routine(
        Counting(),
        loss=lambda m, b: _loss(_by_its_own_constant, 5 if int(m.count) < 5 else 99)(m, b),
        num_steps=24,
    )

    for each in (run, once):
        with pytest.raises(WitnessError, match="That is so in step"):
            engine.metagradient(each, _held, unroll=24)


def test_a_cut_that_few_examples_do_not_lead_to_is_refused():
    """Of a large model one example is compared; here it takes many that are large."""

    def own(model: Counting, batch: tuple[Tensor, Tensor]) -> Tensor:
        losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        is_due = model.training and int(model.count) == 4 and len(losses) > 4
        return losses * losses.mean().detach() if is_due else losses

    run = routine(Counting(14_000), loss=own, num_steps=12, learning_rate=1e-3)

    with pytest.raises(WitnessError, match="That is so in step 3"):
        engine.metagradient(run, _held)


def _constant(value: Tensor) -> Tensor:
    return value.detach()


def test_a_helper_that_logs_first_is_compared_where_it_is_called_from_elsewhere():
    """One line may serve a log at each step, and a constant at some."""
    seen: list[Tensor] = []

    def update(state, gradient, hyper, step):
        seen.append(_constant(gradient.norm()))
        size = _constant(gradient.norm()) if step % 30 == 27 else gradient.norm()
        return {"params": state["params"] - hyper["learning_rate"] * gradient * (1 + size)}

    own = engine.Optimizer("own", {}, lambda params: {}, update)

    with pytest.raises(WitnessError, match=r"update of optimizer 'own'.*step 27"):
        engine.metagradient(routine(optimizer=own, num_steps=_STEPS, learning_rate=0.1), output)


def test_a_line_where_no_difference_settles_is_not_taken_for_compared(monkeypatch):
    """Whatever came out of it, nothing was learned there."""
    from engine.replay.refusals import later_steps

    real = later_steps.compare_loss
    monkeypatch.setattr(
        later_steps, "compare_loss", lambda *given: (real(*given) and None, "it did not settle")
    )

    found = engine.metagradient(_run(lambda losses: losses + 0 * losses.detach()), _held)

    assert "was met by no comparison" in found.witness.sentence


def test_a_hook_that_loses_the_weight_of_an_example_is_refused():
    """By the parameters the gradient moves as it should; half of that by the weights is missing."""
    with pytest.raises(WitnessError, match="second derivative"):
        engine.metagradient(_run(_hooked, every=1, num_steps=4), _held)


def test_updates_of_the_engine_are_not_listened_to(monkeypatch):
    """They call torch more often than the rest of a small step, and cut nothing."""
    from engine.witness.cuts.places import CutPlaces

    heard: list[object] = []
    real = CutPlaces.on_call
    monkeypatch.setattr(
        CutPlaces, "on_call", lambda self, *call: (heard.append(call[0]), real(self, *call))[1]
    )

    engine.metagradient(routine(optimizer=engine.adamw(eps_root=1e-6)), output)

    assert F.cross_entropy in heard
    assert torch.lerp not in heard
