"""Seeds for each purpose, and switches that are given back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine.numerics.determinism import deterministic, filling, generator, seed_for, seeded
from engine.numerics.environment import environment

PURPOSES = st.lists(st.one_of(st.integers(0, 10**6), st.text("abc", min_size=1)), max_size=3)


def switches():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
    )


def test_seed_is_the_same_on_every_machine():
    """A seed from Python's own hash would change with every process; this number is fixed."""
    assert seed_for(0, "order", 2, 1) == 0x5AC9695F01B92111


@given(seed=st.integers(0, 2**32), purpose=PURPOSES)
def test_seed_fits_a_generator(seed, purpose):
    """A generator takes 64 bits, and a sign bit would be read in two ways."""
    assert 0 <= seed_for(seed, *purpose) < 2**63


@pytest.mark.parametrize(
    "other",
    [(1, "step", 3), (0, "step", 4), (0, "order", 3), (0, "step"), (0, "step", 3, 0), (0, 3)],
)
def test_each_seed_step_and_purpose_draws_other_numbers(other):
    """Two purposes with one stream would tie dropout to the order of the examples."""
    seed, *purpose = other

    drawn = torch.rand(4, generator=generator(seed, *purpose))

    assert not torch.equal(drawn, torch.rand(4, generator=generator(0, "step", 3)))


def test_generator_starts_anew_each_time():
    """A replayed step asks again and must get the same numbers, however often it is replayed."""
    first = torch.rand(4, generator=generator(0, "step", 3))

    again = torch.rand(4, generator=generator(0, "step", 3))

    assert torch.equal(first, again)


def test_seeded_block_draws_what_its_purpose_says():
    """nn.Dropout has no generator argument, so the global one is seeded for the block."""
    with seeded(0, "step", 3):
        inside = torch.rand(4)

    assert torch.equal(inside, torch.rand(4, generator=generator(0, "step", 3)))


def test_seeded_block_gives_the_global_generator_back_even_after_an_error():
    """The user's own random numbers must not depend on whether a metagradient was taken."""
    before = torch.random.get_rng_state()

    with pytest.raises(ZeroDivisionError), seeded(0, "step", 3):
        float(torch.rand(4).sum()) / 0

    assert torch.equal(torch.random.get_rng_state(), before)


def test_deterministic_block_sets_every_switch():
    """TF32 and autotuned kernels change the last digits, which a long run then amplifies."""
    with deterministic():
        inside = switches()

    assert inside == (True, False, "highest", False)


def test_deterministic_block_runs_on_the_threads_it_is_given():
    """The last digits depend on their number, so a recipe may fix it; a block inside keeps it."""
    before = torch.get_num_threads()

    with deterministic(before + 1), deterministic():
        inside = torch.get_num_threads()

    assert (inside, torch.get_num_threads()) == (before + 1, before)


def test_deterministic_block_gives_the_switches_back_even_after_an_error(monkeypatch):
    """A notebook's other code keeps the speed that its owner chose."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    before = switches()

    with pytest.raises(ZeroDivisionError), deterministic():
        raise ZeroDivisionError

    assert switches() == before


def test_environment_tells_thread_counts_apart():
    """Sums over two threads have other bits than over one, so their stages must not be mixed."""
    threads = torch.get_num_threads()
    one = environment()
    try:
        torch.set_num_threads(threads + 1)
        other = environment()
    finally:
        torch.set_num_threads(threads)

    assert one != other
    assert one == environment()


def test_environment_has_a_json_form():
    """It is part of every stage's key, and a key is the digest of JSON."""
    assert json.loads(json.dumps(environment())) == environment()


def test_fresh_memory_is_filled_while_a_run_is_looked_at_only():
    """Filling it costs a pass over the memory of many results, at every step."""
    with deterministic():
        assert not torch.utils.deterministic.fill_uninitialized_memory
        with filling(), deterministic():
            assert torch.empty(1000).isnan().all()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_numbers_that_nobody_has_written_are_refused_before_a_run():
    """They may be zeros at every call of a test, and something else on another day."""

    class Unwritten(torch.nn.Linear):
        def forward(self, inputs):
            """Return what torch.empty happens to hold, added to a layer's result."""
            return super().forward(inputs) + torch.empty(len(inputs), 1)

    routine = engine.Routine(
        Unwritten(4, 3),
        lambda model, batch: torch.nn.functional.cross_entropy(
            model(batch[0]).square(), batch[1], reduction="none"
        ),
        (torch.randn(8, 4), torch.arange(8) % 3),
        engine.sgd(),
        learning_rate=0.1,
        num_steps=3,
        batch_size=4,
        metaparameters={"weights": engine.ExampleWeights(torch.ones(8))},
    )
    with pytest.raises(engine.EngineError, match=r"(?i)nan|finite"):
        engine.metagradient(routine, lambda model: model(torch.ones(2, 4)).sum())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_seeded_block_covers_the_gpu_and_gives_its_generator_back():
    """Dropout on a GPU draws from that GPU's own generator."""
    device = torch.device("cuda")
    before = torch.cuda.get_rng_state(device)

    with seeded(0, "step", 3, device=device):
        first = torch.rand(4, device=device)
    with seeded(0, "step", 3, device=device):
        again = torch.rand(4, device=device)

    assert torch.equal(first, again)
    assert torch.equal(torch.cuda.get_rng_state(device), before)


@pytest.mark.slow
def test_environment_tells_kernels_of_one_capability_apart():
    """Libraries have variables and choices of their own, under which a replay makes other bits."""
    code = (
        "import torch; from engine.numerics.environment import environment\n"
        "a, b = torch.randn(2, 301, 303, generator=torch.Generator().manual_seed(0))\n"
        "print(environment()['kernels'], hash((a @ b.T).numpy().tobytes()))"
    )

    def told(**variables):
        root = str(Path(__file__).parents[3])
        known = os.environ | {"PYTHONPATH": root, "PYTHONHASHSEED": "0"} | variables
        return subprocess.check_output([sys.executable, "-c", code], env=known, text=True).split()

    plain, again, other = told(), told(), told(MKL_CBWR="COMPATIBLE")

    assert plain == again
    if other[1] == plain[1]:
        pytest.skip("MKL_CBWR changes no bit here")
    assert other[0] != plain[0]
