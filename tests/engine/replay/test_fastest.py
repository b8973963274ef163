"""The schedule auto in a notebook: the bits of any other, within the memory that was allowed."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from engine import metagradient
from engine.errors import ConfigurationError
from engine.recipes.replay import ReplaySettings, ScheduleName
from engine.replay.fastest import with_fitting_schedule
from engine.replay.step_costs import counted_costs
from engine.replay.sweep_costs import Memory
from engine.schedules.by_name import schedule_maker
from engine.schedules.simulator import measure
from engine.schedules.trees import whole_run
from engine.step.reference import step_vjp
from tests.helpers.trainings import routines

BITS = ["store-all", "sqrt", "k-ary", "auto"]


@pytest.fixture(scope="module")
def expected():
    return metagradient(routines.routine(), routines.output)["weights"]


@pytest.mark.slow
@pytest.mark.parametrize("place", [None, "memory", "path"])
@pytest.mark.parametrize("schedule", BITS)
def test_auto_gives_the_bits_of_every_schedule(expected, schedule, place, tmp_path):
    """A clock chooses, so a choice that changed a digit would make runs irreproducible."""
    store = {None: None, "memory": "memory://auto", "path": tmp_path / "store"}[place]

    found = metagradient(routines.routine(), routines.output, schedule=schedule, store=store)

    assert torch.equal(found["weights"], expected)


def test_auto_keeps_to_the_memory_that_it_is_given(expected):
    """The promise of the option: the schedule that it takes needs no more than the cap."""
    routine = routines.routine()
    costs = counted_costs(routine)
    cap = costs.graph_bytes + 6 * costs.state_bytes

    chosen = with_fitting_schedule(
        ReplaySettings(schedule=ScheduleName.AUTO, max_device_bytes=cap),
        routine, routines.output, step_vjp, None,
    )  # fmt: skip

    plan = schedule_maker(chosen)
    cost = measure(whole_run(routine.num_steps, plan, first_step=0, tier=plan.first_tier))
    kept = costs.state_bytes * cost.peak_states + costs.graph_bytes * max(cost.peak_graphs, 1)
    assert kept <= cap
    assert chosen.unroll == 1
    found = metagradient(routine, routines.output, schedule="auto", max_device_bytes=cap)
    assert torch.equal(found["weights"], expected)


def test_auto_takes_graphs_where_memory_allows():
    """The cap above is what made the difference, not something else."""
    routine = routines.routine(num_steps=64)
    plenty = ReplaySettings(schedule=ScheduleName.AUTO, max_device_bytes=1 << 34)
    costs = counted_costs(routine)
    tight = plenty.model_copy(
        update={"max_device_bytes": costs.graph_bytes + 6 * costs.state_bytes}
    )

    def states(replay):
        plan = schedule_maker(
            with_fitting_schedule(replay, routine, routines.output, step_vjp, None)
        )
        cost = measure(whole_run(routine.num_steps, plan, tier=plan.first_tier))
        return cost.peak_states + cost.peak_graphs

    assert states(tight) < states(plenty)


@pytest.mark.parametrize("schedule", ["auto", "store-all", "k-ary", "sqrt", "binomial"])
def test_a_cap_that_nothing_fits_is_refused(schedule):
    """It was documented and ignored: a byte was enough for any run."""
    with pytest.raises(ConfigurationError, match=r"bytes are needed and max_device_bytes is 1\."):
        metagradient(routines.routine(), routines.output, schedule=schedule, max_device_bytes=1)


def test_a_cap_on_the_store_holds_for_the_states_kept_there(tmp_path):
    """A disk that others share is as real a limit as memory."""
    routine = routines.routine()
    state = counted_costs(routine).state_bytes

    with pytest.raises(ConfigurationError, match="max_store_bytes"):
        metagradient(
            routine, routines.output,
            store=tmp_path, schedule="store-all", max_store_bytes=3 * state,
        )  # fmt: skip
    metagradient(
        routine, routines.output, store=tmp_path, schedule="auto", max_store_bytes=3 * state
    )


@pytest.mark.parametrize("shared", [True, False])
def test_host_memory_counts_for_the_device_only_where_both_are_one(shared):
    """On a CPU states of the host lie where graphs do; on a GPU they leave it free."""
    peak = {"graphs": 40, "device": 30, "host": 50, "store": 10}

    assert Memory(device=100, host=60).excess(peak, shared=shared) == (
        "120 bytes are needed and max_device_bytes is 100" if shared else ""
    )
    assert "max_host_bytes is 49" in Memory(device=120, host=49).excess(peak, shared=shared)
    assert "max_store_bytes is 9" in Memory(120, 50, 9).excess(peak, shared=shared)
    assert Memory(120, 50, 10).excess(peak, shared=shared) == ""


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_graph_of_a_sparse_product_is_counted_by_what_it_is_made_of():
    """A sparse tensor, as a graph's neighbours are, has no storage of its own to ask for."""
    mask = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0], [4.0, 0.0, 0.0]]).double()
    costs = []
    for neighbours in (mask, mask.to_sparse(), mask.to_sparse_csr()):

        def loss(model, batch, neighbours=neighbours):
            mixed = (neighbours @ model(batch[0]).T).T
            return cross_entropy(mixed, batch[1], reduction="none")

        costs.append(counted_costs(routines.routine(loss=loss)).graph_bytes)

    dense, coordinates, rows = costs
    held, index = int(mask.count_nonzero()), torch.int64.itemsize
    # What is kept besides the mask is the same; its numbers and indices stand in its place, some
    # of them twice: torch may keep copies of a sparse tensor.
    assert 1 <= (coordinates - dense + mask.nbytes) / (held * (8 + 2 * index)) <= 2
    assert 1 <= (rows - dense + mask.nbytes) / (held * (8 + index) + 4 * index) <= 2
