"""Measured costs of the parts of a run on this machine: seconds and bytes of one step.

A few steps are run at s_0 with the code of the run itself, and one state is written and read back.
Nothing is trained, and the store is left as it was.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from engine.numerics.fingerprint import dense_parts, state_fingerprint
from engine.progress.meter import doing
from engine.replay.interpreter import Sweep, path_difference, replay, reverse_step
from engine.replay.seeding import seed_adjoint
from engine.routine.module.buffers.batch_norm import without_buffers
from engine.routine.outputs import parts_of
from engine.routine.routine import Routine
from engine.schedules.trees import Forward
from engine.step.coupled_pieces import pull_in_pieces
from engine.step.gradient import term_gradient
from engine.step.products import LossPart, entering, pull_gradient, pull_update
from engine.step.reference import StepVjp
from engine.step.step import open_step
from engine.storage.location import scratch_folder, store_errors
from engine.storage.states import MemoryStates, RowStore
from engine.types import Metaparams, Output, State

_ROUNDS = (3, 25)
"""Fewest and most rounds of each quantity."""

_STEPS = 8
"""Steps run in a row, as a run does."""


@dataclass(frozen=True)
class StepCosts:
    """Seconds (medians) and bytes of what a run is made of.

    Attributes:
        plain: A plain step.
        product: The product of a step, its graph included.
        traced: A step with its graph.
        pulled: The product of a step whose graph is there.
        injected: Additional time of all steps with injected losses together.
        seed: The output and its adjoint.
        copied: A state saved in the device's memory and loaded.
        moved: A state moved to host memory; and back, the same.
        saved: A state written to the store.
        loaded: A state read from the store.
        state_bytes: Bytes of a state.
        graph_bytes: Bytes that a step's graph keeps, its state included.
        paths_agree: Whether a step with its graph makes the bits of the run's own path.
    """

    plain: float
    product: float
    traced: float
    pulled: float
    injected: float
    seed: float
    copied: float
    moved: float
    saved: float
    loaded: float
    state_bytes: int
    graph_bytes: int
    paths_agree: bool


def measure_costs(
    routine: Routine, output: Output, vjp: StepVjp, store: str | None, *, seconds: float = 0.5
) -> StepCosts:
    """Measure a routine's steps, and a save to a store and a load from it.

    Args:
        routine: The run.
        output: phi.
        vjp: How a step is reversed.
        store: fsspec URL; nothing is left there. None if no state is kept in a store.
        seconds: Time for each quantity, after which no further round is begun.

    Cost:
        Some ten quantities, each with at least three rounds and one that warms up.
    """
    z, state = routine.point(), routine.initial_state()
    step = plain_step_of(routine)
    stop = min(step + _STEPS, routine.num_steps)
    forward = [Forward(step, stop)]
    parts = list(parts_of(output))
    _, cotangent = seed_adjoint(routine, state, parts[0])

    def timed(words: str, action: Callable[[], object]) -> float:
        with doing(words):
            return median_seconds(action, routine.device, seconds)

    def reverse() -> None:
        reverse_step(routine, z, step, Sweep(state=state, adjoint=cotangent, vjp=vjp))

    # Where a batch goes through in pieces no graph of a whole step is ever kept.
    whole = routine.in_one_piece()
    graphs = [open_step(whole, state, z, step)]

    def trace() -> None:
        graphs[:] = [open_step(whole, state, z, step)]
        graphs[0].following()

    traced = timed("a step with its graph", trace)
    both = timed("its product", lambda: (trace(), graphs.pop().pull(cotangent)))
    saved, loaded = (0.0, 0.0) if store is None else _store_seconds(state, store)
    memory, host = MemoryStates(), MemoryStates(torch.device("cpu"))
    return StepCosts(
        plain=timed("plain steps", lambda: replay(forward, routine, z, {}, Sweep(state=state)))
        / (stop - step),
        product=timed("a step in reverse", reverse),
        traced=traced,
        pulled=max(both - traced, 0.0),
        injected=_injected_seconds(routine, state, z, cotangent),
        seed=timed("the output", lambda: seed_adjoint(routine, state, parts[0])) * len(parts),
        copied=timed("states in memory", lambda: _there_and_back(memory, state)),
        moved=timed("states on the host", lambda: _there_and_back(host, state)) / 2,
        saved=saved,
        loaded=loaded,
        state_bytes=sum(row.nbytes for row in state.values()),
        graph_bytes=graph_bytes(whole, state, z, step),
        paths_agree=not path_difference(whole, state, z, step),
    )


def counted_costs(routine: Routine) -> StepCosts:
    """Return the bytes of a routine's states and graphs, with no time measured."""
    state, z = routine.initial_state(), routine.point()
    step = min(routine.first_step + 1, routine.num_steps - 1)
    whole = routine.in_one_piece()
    seconds = {each.name: 0.0 for each in fields(StepCosts) if each.type is float}
    return StepCosts(
        **seconds,
        state_bytes=sum(row.nbytes for row in state.values()),
        graph_bytes=graph_bytes(whole, state, z, step),
        paths_agree=False,
    )


def median_seconds(
    action: Callable[[], object], device: torch.device, seconds: float = 0.0
) -> float:
    """Return the median time of an action, after one round that warms up."""
    rounds: list[float] = []
    action()
    begun = time.perf_counter()
    while len(rounds) < _ROUNDS[0] or (
        len(rounds) < _ROUNDS[1] and time.perf_counter() - begun < seconds
    ):
        _wait(device)
        started = time.perf_counter()
        action()
        _wait(device)
        rounds.append(time.perf_counter() - started)
    return statistics.median(rounds)


def graph_bytes(routine: Routine, state: State, z: Metaparams, step: int) -> int:
    """Return the bytes that a step's graph keeps, the state that it starts from included.

    On a GPU it is the difference in allocated memory; on a CPU the sum over tensors that autograd
    saves, each storage once.
    """
    size = sum(row.nbytes for row in state.values())
    if routine.device.type == "cuda":
        _wait(routine.device)
        before = torch.cuda.memory_allocated(routine.device)
        graph = open_step(routine, state, z, step)
        kept = torch.cuda.memory_allocated(routine.device) - before
        del graph
        return size + kept
    known = {row.untyped_storage().data_ptr() for row in state.values()}
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        for part in dense_parts(tensor):  # a sparse one has no storage of its own
            storage = part.untyped_storage()
            if storage.data_ptr() not in known:
                found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        graph = open_step(routine, state, z, step)
    del graph
    return size + sum(found.values())


def _injected_seconds(routine: Routine, state: State, z: Metaparams, cotangent: State) -> float:
    """Time one of the terms injected at the first such step, for all of them."""
    steps = _injection_steps(routine)
    if not steps:
        return 0.0
    step, injected = steps[0], list(routine.injected_terms(steps[0]))
    params, leaves = state["params"].detach().requires_grad_(), entering(routine, z, step)
    inner = without_buffers(state)

    def pull() -> None:
        if routine.piece is not None:
            products = pull_update(
                routine, inner, torch.zeros_like(params), leaves, step, cotangent
            )
            part = LossPart(injected[0], step, frozenset(leaves))
            pull_in_pieces(routine, params, part, leaves, products)
            return
        share, _ = term_gradient(routine, params, injected[0], leaves, step, create_graph=True)
        gradient = torch.zeros_like(params)
        products = pull_update(routine, inner, gradient, leaves, step, cotangent)
        pull_gradient(share, leaves, products, step)

    with routine.reading(state):
        return median_seconds(pull, routine.device) * len(injected) * len(steps)


def plain_step_of(routine: Routine) -> int:
    """Return a step that reads z, and has no losses injected if there is one."""
    after = range(min(routine.first_step + 1, routine.num_steps - 1), routine.num_steps)
    injecting = _injection_steps(routine)
    return next((step for step in after if step not in injecting), after[0])


def _injection_steps(routine: Routine) -> list[int]:
    points = [(kind, kind.point()) for kind in routine.metaparameters.values()]
    return [
        step
        for step in range(routine.num_steps)
        if any(kind.injected(point, step) is not None for kind, point in points)
    ]


def _store_seconds(state: State, store: str) -> tuple[float, float]:
    """Time a stage's save of one state, and its load; both as stages do them.

    Raises:
        StoreError: If the store takes no state, e.g. because it is full.
    """
    row = {name: vector.detach().cpu() for name, vector in state.items()}
    layout = {name: (len(vector), vector.dtype) for name, vector in row.items()}
    saves: list[float] = []
    loads: list[float] = []
    with store_errors(store), scratch_folder(store) as folder:
        for number in range(_ROUNDS[0] + 1):
            place = f"{folder}/{number}"
            started = time.perf_counter()
            RowStore.create(place, layout, 1, attributes={}).save(0, row)
            state_fingerprint(row)
            saves.append(time.perf_counter() - started)
            started = time.perf_counter()
            RowStore.open(place).load(0)
            loads.append(time.perf_counter() - started)
    return statistics.median(saves[1:]), statistics.median(loads[1:])


def _there_and_back(states: MemoryStates, state: State) -> None:
    states.save(0, state)
    for name, row in states.load(0).items():
        row.to(state[name].device)
    states.delete(0)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
