"""The interpreter of schedules: trains, saves, replays and reverses as the actions say.

One ``match`` statement carries out every schedule. Where a state is kept (in memory or in a zarr
store) and which states are saved when is decided elsewhere.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, assert_never

import torch
from torch import Tensor

from engine.errors import NonFiniteError, ReplayMismatchError, ScheduleError
from engine.numerics.fingerprint import fingerprint
from engine.progress.meter import Meter, listening
from engine.recipes.replay import StepPath
from engine.replay.per_step import PerStep
from engine.replay.seeding import seed_adjoint
from engine.replay.written_parameters import ParameterWatch
from engine.routine.routine import Routine
from engine.schedules.trees import Action, Delete, Forward, Load, Reverse, Save, Seed, Tier, Trace
from engine.step.nonfinite import refuse_nonfinite_adjoint, refuse_nonfinite_share
from engine.step.products import join
from engine.step.reference import StepVjp, step_vjp
from engine.step.step import NOTED, StepGraph, initial_vjp, open_step, plain_step
from engine.storage.background import announced
from engine.storage.states import StateStore
from engine.types import Metaparams, Output, State
from engine.witness.agreement import least_size, value_limit


@dataclass
class Sweep:
    """The progress of a run while a schedule is carried out, and its results.

    Attributes:
        state: The working state.
        adjoint: lambda_t, the cotangent of s_t; empty before it is seeded, and after the first
            step that reads z, which has no use for it. With K outputs, its vectors, the
            metagradient and the output have a leading axis of length K.
        metagradient: d phi / d z, summed over the steps reversed so far.
        output: phi(s_T), a scalar, once it is seeded.
        final: s_T, once the adjoint is seeded there.
        losses: Batch loss of each step trained, by step; replayed steps say the same again.
        losses_again: Batch losses that the products of the steps computed, by step, where they did.
        adjoint_norms: Norm of lambda_t, by t.
        layer_norms: Norm of each parameter tensor's part of lambda_t, by t, in the layout's order.
        share_norms: Norm of each metaparameter's share of step t, by t, in the routine's order; 0
            where it does not enter.
        vjp: How a step is reversed.
        graphs: Steps that were run with their graphs and are not reversed yet, by step.
        unmoved: Refuses steps that write into their parameters.
        paths_agree: Whether a step with its graph was seen to make the bits of a plain step.
        watches: Called with every action before it is carried out; see ``engine.replay.borders``
            and ``engine.replay.refusals.later_steps``.
        heard: The meter that each step is noted on, if progress is shown; see
            ``engine.progress.meter``.
    """

    state: State = field(default_factory=dict)
    adjoint: State = field(default_factory=dict)
    metagradient: Metaparams = field(default_factory=dict)
    output: Tensor = field(default_factory=lambda: torch.tensor(math.nan))
    final: State = field(default_factory=dict)
    losses: PerStep = field(default_factory=PerStep)
    losses_again: PerStep = field(default_factory=PerStep)
    adjoint_norms: PerStep = field(default_factory=PerStep)
    layer_norms: PerStep = field(default_factory=PerStep)
    share_norms: PerStep = field(default_factory=PerStep)
    vjp: StepVjp = step_vjp
    graphs: dict[int, StepGraph] = field(default_factory=dict)
    unmoved: ParameterWatch = field(default_factory=ParameterWatch)
    paths_agree: bool = False
    watches: "Sequence[Callable[[Action, Sweep], AbstractContextManager[None] | None]]" = ()
    heard: Meter | None = field(default_factory=listening)

    def before(self, step: int) -> State:
        """Return s_step when ``step`` is about to be reversed."""
        return self.graphs[step].state if step in self.graphs else self.state

    def after(self, routine: Routine, z: Metaparams, step: int) -> State:
        """Return s_{step + 1} as this replay makes it, when ``step`` is about to be reversed.

        Cost:
            A plain step, or nothing where the graph of the step was kept.
        """
        if step in self.graphs:
            return self.graphs[step].following()
        return plain_step(routine, self.state, z, step)[0]


def replay(
    actions: Iterable[Action],
    routine: Routine,
    z: Metaparams,
    tiers: Mapping[Tier, StateStore],
    sweep: Sweep,
    *,
    output: Output | Sequence[Output] | None = None,
) -> Sweep:
    """Carry out a schedule.

    Args:
        actions: The schedule. It is consumed a few actions ahead of the step that is computed.
        routine: The run.
        z: Metaparameters, on the routine's device.
        tiers: The states saved so far, in each tier that the schedule names.
        sweep: Where to start: the working state, or the adjoint at the step after the first
            ``Reverse``. It is advanced in place.
        output: phi, or several of them, if the schedule has a ``Seed``.

    Returns:
        ``sweep``.

    Raises:
        NonFiniteError: If a loss or an adjoint is infinite or NaN; names the step.
        ScheduleError: If a ``Seed`` finds no output, a ``Reverse`` no adjoint, or an action would
            leave graphs behind.
        ReplayMismatchError: If a step with its graph makes other bits than the run's own, or has
            another loss when it is reversed than when it was trained.
        WitnessError: If a step writes into its parameters.

    Cost:
        As ``engine.schedules.simulator.measure`` counts it: one plain step for each forward step,
        three for each reverse step, of which one is saved where the step's graph was kept.
    """
    for action in announced(actions, tiers):
        with ExitStack() as around:
            for watch in sweep.watches:
                entered = watch(action, sweep)
                if entered is not None:
                    around.enter_context(entered)
            match action:
                case Load(step, tier):
                    _refuse_open_graphs(sweep, action)
                    loaded = tiers[tier].load(step)
                    sweep.state = {name: row.to(routine.device) for name, row in loaded.items()}
                case Forward() | Trace():
                    _advance(routine, z, action, sweep)
                case Save(step, tier):
                    tiers[tier].save(step, sweep.state)
                case Delete(step, tier):
                    tiers[tier].delete(step)
                case Seed(_):
                    _seed(routine, sweep, output)
                case Reverse(step):
                    reverse_step(routine, z, step, sweep)
                case _:
                    assert_never(action)
    _check_adjoints(routine, sweep)
    sweep.unmoved.refuse_moved()
    _check_losses_again(routine, sweep)
    return sweep


def _advance(routine: Routine, z: Metaparams, action: Forward | Trace, sweep: Sweep) -> None:
    _refuse_open_graphs(sweep, action)
    traced, heard = isinstance(action, Trace), sweep.heard
    if traced and not sweep.paths_agree:
        check_paths_agree(routine, sweep.state, z, action.start)
        sweep.paths_agree = True
    for step in range(action.start, action.stop):
        if traced:
            with sweep.unmoved.watching(sweep.state, step):
                graph = sweep.graphs[step] = open_step(routine, sweep.state, z, step)
            sweep.state, sweep.losses[step] = graph.following(), graph.loss
        else:
            sweep.state, sweep.losses[step] = plain_step(routine, sweep.state, z, step)
        if heard is not None:
            heard.ran(step, routine.num_steps)
    check_losses(sweep.losses, action.start, action.stop)


def _refuse_open_graphs(sweep: Sweep, action: Action) -> None:
    """Stop before the working state changes, to which the graphs that are kept lead."""
    if sweep.graphs:
        raise ScheduleError(
            f"{action} cannot be carried out while the graphs of steps {sorted(sweep.graphs)} are "
            "kept: they would be used with another state. Reverse those steps first."
        )


def path_difference(routine: Routine, state: State, z: Metaparams, step: int) -> str:
    """Say how a step with its graph differs from the run's own step; empty if the bits are equal.

    Cost:
        Two plain steps.
    """
    plain, _ = plain_step(routine, state, z, step)
    traced = open_step(routine, state, z, step).following()
    for name, row in plain.items():
        if fingerprint(row) != fingerprint(traced[name]):
            off = float((row - traced[name]).norm() / row.norm())
            return (
                f"Step {step} makes other bits of {name!r} with its graph than without (a relative "
                f"difference of {off:.1e}), so a replay that keeps graphs would leave the "
                'trajectory that was trained. Use path="graph", which trains with the same '
                "kernels, or unroll=1."
            )
    return ""


def check_paths_agree(routine: Routine, state: State, z: Metaparams, step: int) -> None:
    """Raise unless a step with its graph makes the bits of the run's own path.

    Raises:
        ReplayMismatchError: Names the vector, and the settings that decide.
    """
    # Where the path is that of graphs, plain steps are steps with a graph.
    difference = "" if routine.path is StepPath.GRAPH else path_difference(routine, state, z, step)
    if difference:
        raise ReplayMismatchError(difference)


def _seed(routine: Routine, sweep: Sweep, output: Output | Sequence[Output] | None) -> None:
    if output is None:
        raise ScheduleError("The schedule seeds an adjoint, but no output was given to replay.")
    if isinstance(output, Sequence):
        values, adjoints = zip(
            *(seed_adjoint(routine, sweep.state, phi) for phi in output), strict=True
        )
        sweep.output, sweep.adjoint = torch.stack(values), join(adjoints)
    else:
        sweep.output, sweep.adjoint = seed_adjoint(routine, sweep.state, output)
    sweep.final = sweep.state


def reverse_step(routine: Routine, z: Metaparams, step: int, sweep: Sweep) -> None:
    """Pull the sweep's adjoint back through ``step``, and add the step's share."""
    if not sweep.adjoint:
        raise ScheduleError(
            f"There is no adjoint to pull back through step {step}. Seed one, or give it."
        )
    to_state = step > routine.first_step or routine.shapes_start
    if sweep.graphs:
        if step != max(sweep.graphs):
            raise ScheduleError(
                f"Step {step} cannot be reversed: the graphs that are kept are those of steps "
                f"{sorted(sweep.graphs)}, and the adjoint is at the last of them. Reverse that one "
                "first."
            )
        adjoint, shares = sweep.graphs.pop(step).pull(sweep.adjoint, to_state=to_state)
    else:
        token = NOTED.set(sweep.losses_again)
        try:
            with sweep.unmoved.watching(sweep.state, step):
                adjoint, shares = sweep.vjp(
                    routine, sweep.state, z, step, sweep.adjoint, to_state=to_state
                )
        finally:
            NOTED.reset(token)
    _add_shares(sweep, shares)
    sweep.share_norms[step] = _norms(
        [shares.get(name, z[name].new_zeros(1)) for name in routine.metaparameters]
    )
    if step == 0 and routine.shapes_start:
        _add_shares(sweep, initial_vjp(routine, z, adjoint))
    sweep.adjoint = adjoint
    if adjoint:
        sweep.adjoint_norms[step] = _norms([*adjoint.values()]).norm()
        sweep.layer_norms[step] = _norms(adjoint["params"].split(routine.layout.sizes, dim=-1))
    if sweep.heard is not None:
        sweep.heard.pulled(step, routine.num_steps)


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the norm of each of some tensors in one call, as torch's own clipping does."""
    return torch.stack(torch._foreach_norm(list(tensors)))  # pyright: ignore[reportPrivateImportUsage]


def _add_shares(sweep: Sweep, shares: Metaparams) -> None:
    for name, share in shares.items():
        known = sweep.metagradient.get(name)
        sweep.metagradient[name] = share if known is None else known + share


def _check_losses_again(routine: Routine, sweep: Sweep) -> None:
    """Refuse a product of a step whose loss was another one when the step was trained.

    Roundings apart, since kernels may be others where a graph is wanted.
    """
    steps = [step for step in sweep.losses_again if step in sweep.losses]
    if not steps:
        return
    again = torch.stack([sweep.losses_again[step] for step in steps])
    before = torch.stack([sweep.losses[step] for step in steps])
    most = value_limit(routine) * before.abs().clamp(min=least_size(routine))
    differs = ~((again - before).abs() <= most)  # NaN differs too
    if differs.any():
        at = int(differs.nonzero()[0])
        raise ReplayMismatchError(
            f"Step {steps[at]} had the loss {float(before[at]):.8g} when it was trained and "
            f"{float(again[at]):.8g} when it was reversed, at the same parameters and batch: what "
            "the loss computes depends on how often it was called. Keep no counter, no cache and "
            "no random numbers of your own in the model, the loss or the examples."
        )


def as_numbers(per_step: Mapping[int, Tensor]) -> dict[str, Any]:
    """Return numbers by step, as JSON takes them."""
    return {str(step): value.tolist() for step, value in per_step.items()}


def check_losses(losses: Mapping[int, Tensor], start: int, stop: int) -> None:
    """Raise if a loss of steps ``[start, stop)`` is infinite or NaN, naming the first such step."""
    steps = [step for step in range(start, stop) if step in losses]
    finite = torch.isfinite(torch.stack([losses[step] for step in steps]))
    if not finite.all():
        step = steps[int((~finite).nonzero()[0])]
        why = _why_not_finite(losses, step)
        raise NonFiniteError(
            f"The loss became {float(losses[step])} in step {step}. {why}",
            settings=("training.learning_rate", "optimizer.eps_root"),
        )


def _why_not_finite(losses: Mapping[int, Tensor], step: int) -> str:
    """Say what a loss that is not finite comes from, and what helps."""
    if step == 0:
        return (
            "Nothing is trained by then, so the model or the loss makes it from these examples: "
            "look for a log(0), a division by zero, an arccos beyond 1 or an overflow."
        )
    before = [abs(float(losses[at])) for at in sorted(losses) if at < step]
    if before and before[-1] <= 10 * max(before[0], 1.0):
        return (
            "The losses before it were ordinary, so one gradient was infinite or NaN although its "
            "loss was finite: look for a square root, a norm or a logarithm at 0 in the model or "
            "the loss. If there is none, use a lower learning_rate."
        )
    return (
        "Training has diverged: use a lower learning_rate or, with Adam, a larger eps_root, or "
        "look for an overflow in the model or the loss."
    )


def _check_adjoints(routine: Routine, sweep: Sweep) -> None:
    steps = sorted(sweep.adjoint_norms, reverse=True)
    norms = [sweep.adjoint_norms[step] for step in steps]
    finite = (
        torch.isfinite(torch.stack(norms))
        if norms
        else torch.ones(1, dtype=torch.bool, device="cpu")
    )
    if not finite.all():
        step = steps[int((~finite).nonzero()[0])]
        refuse_nonfinite_adjoint(
            routine, {at: float(sweep.adjoint_norms[at]) for at in steps}, step
        )
    for name, total in sweep.metagradient.items():
        refuse_nonfinite_share(routine, name, total)
