"""The one call that a notebook needs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.borders import Borders
from engine.checks import check_routine
from engine.config import ScheduleName, VjpMode
from engine.determinism import deterministic
from engine.errors import ConfigurationError, ScheduleError
from engine.replay import Sweep, replay
from engine.routine import Routine
from engine.schedule import Action, Plan, Tier, kary_schedule, store_all_schedule, whole_run
from engine.store import MemoryStates, RowStore, StateStore
from engine.types import Metaparams, Output, State
from engine.vjp import make_vjp
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
    """

    gradient: Metaparams
    output: float
    state: State
    losses: Tensor
    adjoint_norms: dict[int, float]

    def __getitem__(self, name: str) -> Tensor:
        return self.gradient[name]


def metagradient(  # noqa: PLR0913 (settings by keyword)
    routine: Routine,
    output: Output,
    z: Metaparams | None = None,
    *,
    schedule: ScheduleName | str = ScheduleName.KARY,
    arity: int = 4,
    store: str | None = None,
    vjp: VjpMode | str = VjpMode.REVERSE_OVER_REVERSE,
    micro_batch: int | None = None,
) -> Metagradient:
    """Train a routine and differentiate an output of the trained model through the whole run.

    Args:
        routine: The run, with at least one metaparameter.
        output: phi: maps the trained model, in evaluation mode, to a scalar.
        z: Where; the metaparameters' own values by default.
        schedule: ``k-ary`` or ``store-all``; changes cost, never the answer.
        arity: k of the k-ary tree.
        store: fsspec URL of a folder for the checkpoints; in memory by default. They are written
            and read ahead by threads, and deleted as they are consumed; the empty arrays stay.
        vjp: How a step is reversed, see ``engine.config.VjpMode``; changes cost, and the answer
            by rounding only.
        micro_batch: Examples of a step that are reversed at a time, which bounds the memory; all
            at once by default.

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
        most (k - 1) d + 1 states kept; ``store-all`` takes 4 T and keeps T states.

    References:
        Engstrom et al. 2025, arXiv:2503.13751 (REPLAY).
    """
    (found,) = metagradients(
        routine,
        [output],
        z,
        schedule=schedule,
        arity=arity,
        store=store,
        vjp=vjp,
        micro_batch=micro_batch,
    )
    return found


def metagradients(  # noqa: PLR0913 (settings by keyword)
    routine: Routine,
    outputs: Sequence[Output],
    z: Metaparams | None = None,
    *,
    schedule: ScheduleName | str = ScheduleName.KARY,
    arity: int = 4,
    store: str | None = None,
    vjp: VjpMode | str = VjpMode.REVERSE_OVER_REVERSE,
    micro_batch: int | None = None,
) -> list[Metagradient]:
    """Train a routine once and differentiate several outputs in one reverse sweep.

    The bits of each are those of its own ``metagradient`` in the default mode.

    Args:
        routine: The run, with at least one metaparameter.
        outputs: phi_1 .. phi_K.
        z: As for ``metagradient``.
        schedule: As for ``metagradient``.
        arity: As for ``metagradient``.
        store: As for ``metagradient``.
        vjp: As for ``metagradient``.
        micro_batch: As for ``metagradient``.

    Raises:
        ConfigurationError: If there is no output.

    Cost:
        As ``metagradient``, with 1 + 2 K in place of 3 plain steps for the products of a step.
        Measured in ``tests/bench/bench_outputs.py``.
    """
    if not outputs:
        raise ConfigurationError("There are no outputs to differentiate. Give at least one.")
    point = routine.point() if z is None else z
    tier = Tier.MEMORY if store is None else Tier.STORE
    plan = make_plan(schedule, arity, tier)
    step_vjp = make_vjp(
        vjp, micro_batch=micro_batch, num_uses=routine.num_steps - routine.first_step
    )
    for output in outputs:
        check_routine(routine, output, point)
    actions = whole_run(routine.num_steps, plan, first_step=routine.first_step, tier=tier)
    phi = outputs[0] if len(outputs) == 1 else list(outputs)
    with deterministic(), _states(routine, store) as states:
        start = routine.initial_state(point)
        sweep = Sweep(state=start, vjp=step_vjp, watch=Borders(routine, point))
        replay(actions, routine, point, {tier: states}, sweep, output=phi)
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
        )
        for i in range(len(outputs))
    ]


def make_plan(schedule: ScheduleName | str, arity: int = 4, tier: Tier = Tier.MEMORY) -> Plan:
    """Return the planner of reverse schedules that a name stands for.

    Raises:
        ConfigurationError: If there is no such schedule, or the arity is below 2.
    """
    names = [name.value for name in ScheduleName]
    if schedule not in names:
        raise ScheduleError(f"There is no schedule {schedule!r}. Use one of {', '.join(names)}.")
    kary_schedule(1, arity)  # refuses an impossible arity before anything is trained

    def plan(num_steps: int, start: int) -> Iterator[Action]:
        if schedule == ScheduleName.STORE_ALL:
            return store_all_schedule(num_steps, start=start, tier=tier)
        return kary_schedule(num_steps, arity, start=start, tier=tier)

    return plan


@contextmanager
def _states(routine: Routine, store: str | None) -> Iterator[StateStore]:
    """Yield where states are kept; those of a store are written and read in the background."""
    if store is None:
        yield MemoryStates()
        return
    layout = {name: (len(row), row.dtype) for name, row in routine.initial_state().items()}
    rows = RowStore.create(store, layout, routine.num_steps + 1, attributes={})
    with BackgroundStates(rows) as states:
        yield states
