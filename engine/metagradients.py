"""The one call that a notebook needs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from engine.borders import Borders
from engine.checks import check_routine, check_unroll
from engine.determinism import deterministic
from engine.errors import ConfigurationError
from engine.plans import NamedPlan, make_plan
from engine.replay import Sweep, replay
from engine.reversal import ScheduleName, VjpMode
from engine.revolve import SlowTier
from engine.routine import Routine
from engine.schedule import Tier, whole_run
from engine.store import MemoryStates, RowStore, StateStore
from engine.types import Metaparams, Output, State
from engine.vjp import make_vjp
from engine.witness import Witness, testify
from engine.writer import BackgroundStates


@dataclass(frozen=True)
class Metagradient:
    """A metagradient and the run that it belongs to.

    Attributes:
        gradient: d phi / d z by metaparameter, each with the shape of z.
        output: phi(s_T).
        state: s_T.
        losses: Batch loss of each step, shape (T,).
        adjoint_norms: Norm of lambda_t, by t, for the steps that were reversed; with several
            outputs, that of all their adjoints together.
        witness: What a step that the module took by itself said of the run's.
    """

    gradient: Metaparams
    output: float
    state: State
    losses: Tensor
    adjoint_norms: dict[int, float]
    witness: Witness

    def __getitem__(self, name: str) -> Tensor:
        return self.gradient[name]


class ReplayOptions(TypedDict, total=False):
    """How a run is reversed; changes cost, and the answer by rounding at most.

    Attributes:
        schedule: One of ``engine.reversal.ScheduleName``, ``k-ary`` by default; ``auto`` measures
            the step and takes the fastest that fits.
        arity: k of the k-ary tree, 4 by default.
        num_slots: States kept at once, for ``binomial`` and, in memory, ``two-level``; as many as
            the k-ary tree of that arity keeps by default.
        slow_slots: States in the slow tier besides s_0, for ``two-level``; no limit by default.
        slow_cost: Plain steps that a save to the slow tier takes, and a load from it; 1 by default.
        unroll: Steps whose graphs are kept at once, 1 by default. Where the path of the routine is
            plain, a step with its graph must make the bits of a plain step.
        max_device_bytes: Memory for states and graphs, for ``auto``; half of what is free by
            default.
        vjp: How a step is reversed, see ``engine.reversal.VjpMode``.
        micro_batch: Examples of a step that are reversed at a time, which bounds the memory; all
            at once by default.
    """

    schedule: ScheduleName | str
    arity: int
    num_slots: int | None
    slow_slots: int | None
    slow_cost: float
    unroll: int
    max_device_bytes: int | None
    vjp: VjpMode | str
    micro_batch: int | None
    witness: bool


def metagradient(
    routine: Routine,
    output: Output,
    z: Metaparams | None = None,
    *,
    store: str | None = None,
    **options: Unpack[ReplayOptions],
) -> Metagradient:
    """Train a routine and differentiate an output of the trained model through the whole run.

    Args:
        routine: The run, with at least one metaparameter.
        output: phi: maps the trained model, in evaluation mode, to a scalar.
        z: Where; the metaparameters' own values by default.
        store: fsspec URL of a folder for the checkpoints; in memory by default. With the schedule
            ``two-level`` it is the slow tier. They are written and read ahead by threads, and
            deleted as they are consumed; the empty arrays stay.
        **options: How the run is reversed, see ``ReplayOptions``.

    Returns:
        The metagradient, exact to rounding.

    Raises:
        UndifferentiableError: Before any training, if the step cannot be differentiated twice.
        NonFiniteError: If training or the adjoint diverges; names the step.
        ReplayMismatchError: If a replayed state differs from the saved one; names step and tensor.
        ConfigurationError: If there is no metaparameter, or the schedule is impossible.
        StoreError: If a checkpoint cannot be written or read back.

    Cost:
        With d = ceil(log_k T): at most T d plain steps forward and 3 T for the products, with at
        most (k - 1) d + 1 states kept; ``store-all`` takes 4 T and keeps T states. A step whose
        graph is kept takes one step less.

    References:
        Engstrom et al. 2025, arXiv:2503.13751 (REPLAY).
    """
    (found,) = metagradients(routine, [output], z, store=store, **options)
    return found


def metagradients(
    routine: Routine,
    outputs: Sequence[Output],
    z: Metaparams | None = None,
    *,
    store: str | None = None,
    **options: Unpack[ReplayOptions],
) -> list[Metagradient]:
    """Train a routine once and differentiate several outputs in one reverse sweep.

    The bits of each are those of its own ``metagradient`` in the default mode.

    Args:
        routine: The run, with at least one metaparameter.
        outputs: phi_1 .. phi_K.
        z: As for ``metagradient``.
        store: As for ``metagradient``.
        **options: As for ``metagradient``.

    Raises:
        ConfigurationError: If there is no output.

    Cost:
        As ``metagradient``, with 1 + 2 K in place of 3 plain steps for the products of a step.
        Measured in ``tests/bench/bench_outputs.py``.
    """
    if not outputs:
        raise ConfigurationError("There are no outputs to differentiate. Give at least one.")
    point = routine.point() if z is None else z
    plan = _plan(routine, point, store, options)
    step_vjp = make_vjp(
        options.get("vjp", VjpMode.REVERSE_OVER_REVERSE),
        micro_batch=options.get("micro_batch"),
        num_uses=routine.num_steps - routine.first_step,
    )
    for output in outputs:
        check_routine(routine, output, point)
    witness = testify(routine, outputs, point) if options.get("witness", True) else Witness()
    actions = whole_run(
        routine.num_steps, plan, first_step=routine.first_step, tier=plan.first_tier
    )
    phi = outputs[0] if len(outputs) == 1 else list(outputs)
    with deterministic(), _tiers(routine, store) as tiers:
        check_unroll(routine, plan.unroll)
        start = routine.initial_state(point)
        sweep = Sweep(state=start, vjp=step_vjp, watch=Borders(routine, point))
        replay(actions, routine, point, tiers, sweep, output=phi)
    losses = torch.stack([sweep.losses[step] for step in range(routine.num_steps)])
    norms = {step: float(norm) for step, norm in sweep.adjoint_norms.items()}
    several = len(outputs) > 1
    return [
        Metagradient(
            gradient={name: g[i] if several else g for name, g in sweep.metagradient.items()},
            output=float(sweep.output[i] if several else sweep.output),
            state=sweep.final,
            losses=losses,
            adjoint_norms=norms,
            witness=witness,
        )
        for i in range(len(outputs))
    ]


def _plan(routine: Routine, z: Metaparams, store: str | None, options: ReplayOptions) -> NamedPlan:
    unroll, mode = options.get("unroll", 1), options.get("vjp", VjpMode.REVERSE_OVER_REVERSE)
    if unroll > 1 and (mode != VjpMode.REVERSE_OVER_REVERSE or options.get("micro_batch")):
        raise ConfigurationError(
            f"unroll is {unroll}, which keeps the graphs of whole steps, but vjp is {mode} and "
            f"micro_batch is {options.get('micro_batch')}. Use vjp=reverse-over-reverse without "
            "micro-batches, or unroll=1."
        )
    two_levels = options.get("schedule") == ScheduleName.TWO_LEVEL
    cost = options.get("slow_cost", 1.0)
    slow_tier = Tier.HOST if store is None else Tier.STORE
    return make_plan(
        options.get("schedule", ScheduleName.KARY),
        options.get("arity", 4),
        Tier.MEMORY if store is None or two_levels else Tier.STORE,
        num_slots=options.get("num_slots"),
        unroll=unroll,
        slow=SlowTier(cost, cost, options.get("slow_slots"), slow_tier),
    )


@contextmanager
def _tiers(routine: Routine, store: str | None) -> Iterator[dict[Tier, StateStore]]:
    """Yield where states are kept; those of a store are written and read in the background."""
    memory: dict[Tier, StateStore] = {
        Tier.MEMORY: MemoryStates(),
        Tier.HOST: MemoryStates(torch.device("cpu")),
    }
    if store is None:
        yield memory
        return
    layout = {name: (len(row), row.dtype) for name, row in routine.initial_state().items()}
    rows = RowStore.create(store, layout, routine.num_steps + 1, attributes={})
    with BackgroundStates(rows) as states:
        yield {**memory, Tier.STORE: states}
