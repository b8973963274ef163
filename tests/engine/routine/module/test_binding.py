"""Tensors of a state in the place of a module's own."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import engine
from engine.errors import ConfigurationError
from engine.numerics.determinism import PROCESS
from engine.routine.module import binding as module
from engine.routine.module.binding import Binding, Modes, copied
from engine.routine.number_format import in_format
from tests.helpers.trainings import problems
from tests.strangers.plain import loss, mlp


def test_a_module_gets_its_own_tensors_back():
    """Also where the block ends by an error."""
    net = mlp()
    own = dict(net.named_parameters())
    binding = Binding(net)

    def fails():
        with binding.keeping():
            binding.put({name: tensor.detach() + 1 for name, tensor in own.items()})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()

    assert all(found is own[name] for name, found in net.named_parameters())


def _is_free():
    """Say whether another thread could begin a run."""
    if taken := PROCESS.acquire(blocking=False):
        PROCESS.release()
    return taken


def test_a_module_gets_its_own_tensors_back_where_a_correction_cannot_end(monkeypatch):
    """Else the next run would begin with the tensors, and the lock, of this one."""
    ended = []

    class Fails:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            raise ZeroDivisionError

    first = partial(closing, SimpleNamespace(close=partial(ended.append, "first")))
    monkeypatch.setattr(module, "corrections", lambda _: [first, Fails])
    net = mlp()
    own = dict(net.named_parameters())
    binding = Binding(net)

    for _ in range(2):
        with pytest.raises(ZeroDivisionError), binding.keeping():
            binding.put({name: tensor.detach() + 1 for name, tensor in own.items()})

    assert ended == ["first", "first"]
    assert all(found is own[name] for name, found in net.named_parameters())
    with ThreadPoolExecutor() as pool:
        assert pool.submit(_is_free).result()


def test_inner_blocks_leave_what_is_bound():
    """A backward pass runs after the call that bound the tensors."""
    net, other = mlp(), mlp()
    binding = Binding(net)
    with binding.keeping():
        with binding.keeping():
            binding.put(dict(other.named_parameters()))
        assert net[0].weight is other[0].weight
    assert net[0].weight is not other[0].weight


def test_a_tensor_of_several_slots_is_bound_in_each():
    """Tied weights, and one module under two names."""
    layer = nn.Linear(3, 3)
    net = nn.ModuleDict({"a": layer, "b": layer, "c": nn.Linear(3, 3)})
    net["c"].weight = layer.weight
    binding, bound = Binding(net), torch.zeros(3, 3)

    with binding.keeping():
        binding.put({"a.weight": bound})
        assert net["b"].weight is bound
        assert net["c"].weight is bound


def test_copies_keep_hooks_and_attributes_of_parameters():
    """Deepcopy drops both, and the sign of a gradient with them."""
    net = mlp()
    net[0].weight.register_hook(lambda g: -g)
    net[0].weight.decay = 0.5

    twin = copied(net)
    for model in (net, twin):
        loss(model, (torch.ones(2, 6).double(), torch.tensor([0, 1]))).sum().backward()

    assert torch.equal(twin[0].weight.grad, net[0].weight.grad)
    assert twin[0].weight.decay == 0.5
    assert twin[0].weight is not net[0].weight


def test_copies_hold_the_values_of_what_a_forward_pass_left():
    """A cache with a graph cannot be copied by torch."""
    net = mlp()
    net.cache = [net[0].weight * 2]

    twin = copied(net)

    assert torch.equal(twin.cache[0], net.cache[0])
    assert not twin.cache[0].requires_grad


def test_hooks_after_accumulation_are_refused():
    """They act on .grad, which a step of the engine does not have."""
    net = mlp()
    net[0].weight.register_post_accumulate_grad_hook(lambda p: None)

    with pytest.raises(ConfigurationError, match=r"0\.weight.*post_accumulate"):
        copied(net)


def test_layers_that_were_frozen_by_hand_stay_so():
    """A module that was handed in for training keeps what was set inside of it."""
    net = mlp(nn.Dropout(0.5))
    net[1].eval()
    modes = Modes(net)
    net.train()

    modes.train()

    assert net.training
    assert not net[1].training


def test_a_module_handed_in_for_evaluation_trains():
    """As from_pretrained returns it."""
    net = mlp(nn.Dropout(0.5)).eval()

    Modes(net).train()

    assert net[1].training


def test_threads_get_the_bits_of_one():
    """Switches, generators and bound tensors belong to the process."""
    runs = [problems.routine("sgd") for _ in range(2)]
    expected = engine.metagradient(runs[0], problems.output)["weights"]
    calls = [runs[0], runs[0], runs[1], runs[1]]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda run: engine.metagradient(run, problems.output), calls))

    assert all(torch.equal(each["weights"], expected) for each in found)
    assert torch.are_deterministic_algorithms_enabled()  # as tests/conftest.py sets it


MADE = {
    "with other values": lambda run: run.with_metaparameters(run.point()),
    "with another seed": lambda run: replace(run, seed=5),
    "in another format": lambda run: in_format(run, torch.float32),
}


@pytest.mark.parametrize("name", MADE)
def test_a_run_made_while_another_thread_is_at_a_step_starts_where_it_should(name):
    """It copies a module that holds the numbers of that step: it started from them, in silence."""
    run = problems.routine("sgd")
    expected = run.initial_state()["params"].clone()

    with ThreadPoolExecutor(1) as pool:
        with run.binding.keeping():
            run.binding.put({name: torch.zeros_like(row) for name, row in run.trainable.items()})
            made = pool.submit(MADE[name], run)
            with suppress(TimeoutError):
                made.result(timeout=0.2)
        found = made.result().initial_state()["params"]

    assert torch.equal(found, expected.to(found.dtype))
