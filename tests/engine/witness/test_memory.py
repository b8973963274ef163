"""What an update or a loss keeps between two calls, outside of the state."""

from functools import cache

import pytest
import torch

import engine
from engine.errors import WitnessError
from engine.witness.memory.kept import KeptByFunctions
from tests.strangers.plain import loss
from tests.strangers.witnessed import output, routine

_STEPS = 20


def _optimizer(update):
    return engine.Optimizer("own", {}, lambda params: {}, update)


def _step(state, gradient, hyper, factor: float | torch.Tensor = 1.0):
    return {"params": state["params"] - hyper["learning_rate"] * factor * gradient}


def _by_step():
    kept = {}

    def update(state, gradient, hyper, step):
        if step not in kept:
            kept[step] = float(gradient.norm())
        return _step(state, gradient, hyper, 1 + kept[step])

    return update


def _by_step_at_times():
    inner = _by_step()

    def update(state, gradient, hyper, step):
        return (inner if step % 11 == 10 else lambda *given: _step(*given[:3]))(
            state, gradient, hyper, step
        )

    return update


def _anchored():
    kept = []

    def update(state, gradient, hyper, step):
        if not kept:
            kept.append(gradient.detach().clone())
        return _step(state, gradient + 0.3 * kept[0], hyper)

    return update


def _of_the_last():
    kept = {}

    def update(state, gradient, hyper, step):
        before = kept.get(step - 1, torch.zeros_like(gradient))
        kept[step] = gradient.detach().clone()
        return _step(state, gradient + 0.5 * before, hyper)

    return update


def _variable():
    kept = None

    def update(state, gradient, hyper, step):
        nonlocal kept
        kept = float(gradient.norm()) if kept is None else kept
        return _step(state, gradient, hyper, 1 + kept)

    return update


def _written_into():
    kept = torch.zeros(1, dtype=torch.float64)

    def update(state, gradient, hyper, step):
        if not kept.any():
            kept.copy_(gradient.detach().norm())
        return _step(state, gradient, hyper, 1 + kept)

    return update


def _cached():
    here = {}

    @cache
    def size(step):
        return float(here["gradient"].norm())

    def update(state, gradient, hyper, step):
        here["gradient"] = gradient.detach()
        return _step(state, gradient, hyper, 1 + size(step))

    return update


class _Object:
    def __init__(self):
        self.kept = {}

    def update(self, state, gradient, hyper, step):
        self.kept.setdefault(step, float(gradient.norm()))
        return _step(state, gradient, hyper, 1 + self.kept[step])


IMPURE = {
    "by step": _by_step,
    "by step, at times": _by_step_at_times,
    "an anchor": _anchored,
    "the last gradient": _of_the_last,
    "a variable": _variable,
    "a tensor": _written_into,
    "a cache": _cached,
    "an object": lambda: _Object().update,
}


@pytest.mark.parametrize("make", IMPURE.values(), ids=IMPURE)
def test_an_update_that_keeps_what_it_computed_is_refused(make):
    """Whenever the step is asked again that is a constant, and each difference agrees."""
    run = routine(optimizer=_optimizer(make()), num_steps=_STEPS)

    with pytest.raises(WitnessError, match="depends on what an earlier call has left in"):
        engine.metagradient(run, output)


def test_where_it_is_kept_is_named():
    """A person finds it by that."""
    run = routine(optimizer=_optimizer(_by_step()), num_steps=_STEPS)

    with pytest.raises(WitnessError, match="left in 'kept'.*Let init return"):
        engine.train(run)


def test_an_inner_optimizer_is_looked_into():
    """An average is made of another one's update."""
    run = routine(optimizer=engine.averaged(_optimizer(_by_step()), 0.9), num_steps=_STEPS)

    with pytest.raises(WitnessError, match="depends on what an earlier call has left"):
        engine.metagradient(run, output)


def _of_a_schedule():
    kept = {}

    def update(state, gradient, hyper, step):
        kept.setdefault(step, (1 + step) ** -0.5)
        return _step(state, gradient, hyper, kept[step])

    return update


def _of_noise():
    kept = {}

    def update(state, gradient, hyper, step):
        if step not in kept:
            drawn = torch.Generator().manual_seed(step)
            kept[step] = torch.randn(gradient.shape, generator=drawn, dtype=torch.float64)
        return _step(state, gradient + 0.01 * kept[step], hyper)

    return update


def _with_a_log():
    seen, calls = [], [0]

    def update(state, gradient, hyper, step):
        seen.append(gradient.norm().item())
        calls[0] += 1
        return _step(state, gradient, hyper)

    return update


SOUND = {"a schedule": _of_a_schedule, "noise": _of_noise, "a log": _with_a_log}


@pytest.mark.parametrize("make", SOUND.values(), ids=SOUND)
def test_an_update_that_keeps_what_is_the_same_each_time_is_sound(make):
    """As caches and logs are."""
    found = engine.metagradient(routine(optimizer=_optimizer(make())), output)

    assert found["weights"].any()


@pytest.mark.parametrize("by_batch", [True, False])
def test_a_loss_that_keeps_what_it_computed_is_refused(by_batch):
    """By the batch, or whatever comes first."""
    kept = {}

    def own(model, batch):
        losses = loss(model, batch)
        key = float(batch[0].sum()) if by_batch else 0
        return losses * (1 + kept.setdefault(key, float(losses.mean())))

    with pytest.raises(
        WitnessError, match="loss depends on what an earlier call has left in 'kept'"
    ):
        engine.metagradient(routine(loss=own, num_steps=_STEPS), output)


def test_a_loss_with_a_cache_of_its_data_and_a_log_is_sound():
    """The same batch leads to the same entry."""
    kept, seen = {}, []

    def own(model, batch):
        key = float(batch[0].sum())
        kept.setdefault(key, batch[0].square().mean())
        losses = loss(model, batch)
        seen.append(float(losses.mean()))
        return losses * (1 + kept[key])

    found = engine.metagradient(routine(loss=own), output)

    assert found["weights"].any()


def test_memory_is_put_back():
    """A user's log does not hold what the engine has tried."""
    inner: list[int] = [1]
    kept: dict[str, object] = {"a": inner}
    count, row, drawn = 0, torch.zeros(2), [0]

    def function():
        nonlocal count
        count += 1
        inner.append(2)
        kept["b"] = 3
        row.add_(1)
        drawn[:] = [5, 6]

    memory = KeptByFunctions(function)
    function()
    assert {"count", "kept", "row", "drawn"} <= {*memory.changed()}
    memory.put_back()

    assert (count, kept, row.tolist(), drawn) == (0, {"a": [1]}, [0, 0], [0])
    assert not memory.changed()
