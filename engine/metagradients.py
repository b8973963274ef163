"""The one call that a notebook needs."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.checks import check_routine
from engine.config import ScheduleName
from engine.determinism import deterministic
from engine.errors import ScheduleError
from engine.replay import Sweep, replay
from engine.routine import Routine
from engine.schedule import Action, Plan, Tier, kary_schedule, store_all_schedule, whole_run
from engine.store import MemoryStates, RowStore, StateStore
from engine.types import Metaparams, Output, State


@dataclass(frozen=True)
class Metagradient:
    """A metagradient and the run that it belongs to.

    Attributes:
        gradient: d phi / d z by metaparameter, each with the shape of z.
        output: phi(s_T).
        state: s_T.
        losses: Batch loss of each step, shape (T,).
        adjoint_norms: Norm of lambda_t, by t, for the steps that were reversed.
    """

    gradient: Metaparams
    output: float
    state: State
    losses: Tensor
    adjoint_norms: dict[int, float]

    def __getitem__(self, name: str) -> Tensor:
        return self.gradient[name]


def metagradient(
    routine: Routine,
    output: Output,
    z: Metaparams | None = None,
    *,
    schedule: ScheduleName | str = ScheduleName.KARY,
    arity: int = 4,
    store: str | None = None,
) -> Metagradient:
    """Train a routine and differentiate an output of the trained model through the whole run.

    Args:
        routine: The run, with at least one metaparameter.
        output: phi: maps the trained model, in evaluation mode, to a scalar.
        z: Where; the metaparameters' own values by default.
        schedule: ``k-ary`` or ``store-all``; changes cost, never the answer.
        arity: k of the k-ary tree.
        store: fsspec URL of a folder for the checkpoints; in memory by default. States are
            deleted as they are consumed, the empty arrays stay.

    Returns:
        The metagradient, exact to rounding.

    Raises:
        UndifferentiableError: Before any training, if the step cannot be differentiated twice.
        NonFiniteError: If training or the adjoint diverges; names the step.
        ConfigurationError: If there is no metaparameter, or the schedule is impossible.

    Cost:
        With d = ceil(log_k T): at most T d plain steps forward and 3 T for the products, with at
        most (k - 1) d + 1 states kept; ``store-all`` takes 4 T and keeps T states.

    References:
        Engstrom et al. 2025, arXiv:2503.13751 (REPLAY).
    """
    point = routine.point() if z is None else z
    tier = Tier.MEMORY if store is None else Tier.STORE
    plan = make_plan(schedule, arity, tier)
    check_routine(routine, output, point)
    actions = whole_run(routine.num_steps, plan, first_step=routine.first_step, tier=tier)
    with deterministic():
        sweep = Sweep(state=routine.initial_state(point))
        replay(actions, routine, point, {tier: _states(routine, store)}, sweep, output=output)
    return Metagradient(
        gradient=sweep.metagradient,
        output=float(sweep.output),
        state=sweep.final,
        losses=torch.stack([sweep.losses[step] for step in range(routine.num_steps)]),
        adjoint_norms={step: float(norm) for step, norm in sweep.adjoint_norms.items()},
    )


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


def _states(routine: Routine, store: str | None) -> StateStore:
    if store is None:
        return MemoryStates()
    layout = {name: (len(row), row.dtype) for name, row in routine.initial_state().items()}
    return RowStore.create(store, layout, routine.num_steps + 1, attributes={})
