"""The public calls: train a run and differentiate outputs of the trained model through it."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.numerics.determinism import deterministic
from engine.progress.board import one_work
from engine.progress.counted import whole_work
from engine.progress.displays import Shown, showing
from engine.recipes.replay import ReplaySettings, ScheduleName, replay_from
from engine.replay.borders import Borders
from engine.replay.fastest import with_fitting_schedule
from engine.replay.final_state import FinalState
from engine.replay.interpreter import Sweep, check_losses
from engine.replay.interpreter import replay as carry_out
from engine.replay.refusals.first_step import check_routine, check_unroll
from engine.replay.refusals.later_steps import LaterSteps
from engine.replay.sweep_costs import fits_at_once
from engine.reports.derivative import derivative_figure
from engine.reports.shown_figures import ShownFigure
from engine.routine.diagnosis import asked_rightly, told_by_witness, told_while_training
from engine.routine.idle import skipping_idle
from engine.routine.intake import outputs_from, point_from
from engine.routine.routine import Routine
from engine.schedules.by_name import schedule_maker
from engine.schedules.trees import Tier, whole_run
from engine.shown.html import curve, pairs_html
from engine.shown.line import shown_tensor
from engine.step.by_name import make_vjp
from engine.storage.background import BackgroundStates
from engine.storage.location import check_writable
from engine.storage.states import MemoryStates, RowStore, StateStore
from engine.types import Metaparams, Output, State
from engine.witness.derivatives.updates import refuse_misfit
from engine.witness.memory.asked import refuse_memory
from engine.witness.memory.between_steps import BetweenSteps
from engine.witness.precision import refuse_low_precision
from engine.witness.repeated import FirstCalls
from engine.witness.witness import Witness, testify

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Metagradient:
    """A metagradient and the run that it belongs to.

    Attributes:
        gradient: d phi / d z by metaparameter, each with the shape of z.
        output: phi(s_T).
        state: s_T.
        losses: Batch loss of each step, shape (T,).
        adjoint_norms: Norm of lambda_t, by t, for the steps that were reversed; with several
            outputs, that of all their adjoints together.
        witness: How the run's step compares with one that the module took without the engine.
    """

    gradient: Metaparams
    output: float
    state: State
    losses: Tensor
    adjoint_norms: dict[int, float]
    witness: Witness

    def __getitem__(self, name: str) -> Tensor:
        return self.gradient[name]

    def __repr__(self) -> str:
        found = "; ".join(f"{name}: {shown_tensor(g)}" for name, g in self.gradient.items())
        losses = f"loss {float(self.losses[0]):.4g} to {float(self.losses[-1]):.4g}"
        return (
            f"Metagradient({found}; output {self.output:.4g}; {len(self.losses)} steps, {losses}; "
            f"witness {'agrees' if self.witness.was_asked else 'not asked'})"
        )

    def _repr_html_(self) -> str:
        """Return ranges, signs and curves as a table, for a notebook."""
        pairs: dict[str, object] = {}
        for name, g in self.gradient.items():
            flat = g.detach().reshape(-1)
            pairs[f"d output / d {name}"] = (
                f"{shown_tensor(g)}; norm {float(flat.norm()):.4g}; {int((flat < 0).sum()):,} "
                f"negative, {int((flat > 0).sum()):,} positive"
            )
        norms = [norm for _, norm in sorted(self.adjoint_norms.items())]
        pairs |= {
            "output": self.output,
            "loss by step": curve(self.losses.tolist(), "Batch loss by step"),
            "adjoint norm by step": curve(norms, "Norm of the adjoint by step"),
        }
        said = "A negative entry says that more of it lowers the output."
        return pairs_html("Metagradient", pairs, [said, self.witness.sentence])

    def plot(self) -> ShownFigure:
        """Draw the entries, in their order and sorted; loss and adjoint by step; for a notebook.

        Its ``image`` is an SVG. With several outputs the entries of all of them are drawn.

        Raises:
            ConfigurationError: If matplotlib is not installed.
        """
        entries = {n: g.detach().reshape(-1).tolist() for n, g in self.gradient.items()}
        return derivative_figure(entries, self.losses.tolist(), self.adjoint_norms)


def metagradient(
    routine: Routine,
    output: Output,
    z: Metaparams | None = None,
    *,
    store: str | os.PathLike[str] | None = None,
    witness: bool = True,
    progress: Shown = False,
    **options: Any,  # noqa: ANN401 (the fields of ReplaySettings, checked by it)
) -> Metagradient:
    """Train a routine and differentiate an output of the trained model through the whole run.

    Args:
        routine: The run, with at least one metaparameter.
        output: phi: maps the trained model, in evaluation mode, to a scalar.
        z: Where; the metaparameters' own values by default.
        store: fsspec URL of a folder for the checkpoints; in memory by default. With the schedule
            ``two-level`` it is the slow tier. They are written and read ahead by threads, and
            deleted as they are consumed; the empty arrays stay.
        witness: Whether the module that was handed in takes a step by itself, with which the
            engine's has to agree; see ``engine.witness.witness``. Without it the result says so.
        progress: True: show how far the run is, in a notebook, a terminal or plain lines. A
            function: is called with an ``engine.progress.snapshot.Snapshot`` twice a second, from a
            thread of its own.
        **options: How the run is reversed: any of the settings of
            ``engine.recipes.replay.ReplaySettings`` but ``steps_per_segment``, by name:
            ``schedule``, ``arity``, ``num_slots``, ``slow_slots``, ``slow_cost``, ``unroll``,
            ``vjp``, ``micro_batch``, and the caps ``max_device_bytes``, ``max_host_bytes`` and
            ``max_store_bytes``. With ``schedule="auto"`` the step is measured, and the fastest
            that fits is taken.

    Returns:
        The metagradient, exact to rounding.

    Raises:
        WitnessError: Before any training, if the module's own step is another one.
        UndifferentiableError: Before any training, if the step cannot be differentiated twice.
        NonFiniteError: If training or the adjoint diverges; names the step.
        ReplayMismatchError: If a replayed state differs from the saved one; names step and tensor.
        ConfigurationError: If there is no metaparameter, an option is unknown or impossible, or no
            schedule fits into the memory allowed.
        StoreError: If a checkpoint cannot be written or read back.

    Cost:
        With d = ceil(log_k T): at most T d plain steps forward and 3 T for the products, with at
        most (k - 1) d + 1 states kept; ``store-all`` takes 4 T and keeps T states. A step whose
        graph is kept takes one step less.

    References:
        Engstrom et al. 2025, arXiv:2503.13751 (REPLAY).
    """
    replay = replay_from(options, "metagradient", _OTHERS)
    with showing(progress, "metagradient"):
        (found,) = differentiate(routine, [output], z, replay, store, witness=witness)
    return found


def metagradients(
    routine: Routine,
    outputs: Sequence[Output],
    z: Metaparams | None = None,
    *,
    store: str | os.PathLike[str] | None = None,
    witness: bool = True,
    progress: Shown = False,
    **options: Any,  # noqa: ANN401 (the fields of ReplaySettings, checked by it)
) -> list[Metagradient]:
    """Train a routine once and differentiate several outputs in one reverse sweep.

    In the default mode each metagradient has the bits that ``metagradient`` gives for its output.

    Args:
        routine: The run, with at least one metaparameter.
        outputs: phi_1 .. phi_K.
        z: As for ``metagradient``.
        store: As for ``metagradient``.
        witness: As for ``metagradient``; each output is compared.
        progress: As for ``metagradient``.
        **options: As for ``metagradient``.

    Raises:
        ConfigurationError: If there is no output.

    Cost:
        As ``metagradient``, with 1 + 2 K in place of 3 plain steps for the products of a step.
        Measured in ``tests/bench/bench_outputs.py``.
    """
    replay = replay_from(options, "metagradients", _OTHERS)
    with showing(progress, "metagradients"):
        return differentiate(routine, outputs, z, replay, store, witness=witness)


_OTHERS = ("z", "store", "witness", "progress")


@skipping_idle
@torch.inference_mode(mode=False)  # also where a notebook is in it
def differentiate(  # noqa: PLR0913 (what a call of a user, and one of a recipe, says)
    routine: Routine,
    outputs: Sequence[Output],
    z: Metaparams | None,
    replay: ReplaySettings,
    store: str | os.PathLike[str] | None = None,
    *,
    witness: bool = False,
    twice: bool | None = None,
    later: LaterSteps | None = None,
) -> list[Metagradient]:
    """Carry out ``metagradients`` with settings that were checked already, e.g. a recipe's.

    The run is reversed as one segment, whatever ``steps_per_segment`` says. There is no witness by
    default, because the preflight of a recipe includes it; ``later`` checks what no preflight can
    see. ``twice`` is handed to ``check_routine``; by default it is true where there is no witness.
    """
    outputs = outputs_from(outputs)
    point = point_from(routine, z)
    place = _place(store)
    if place is not None and routine.skip_idle:  # whose states are others than those without
        place = f"{place.rstrip('/')}/skip-idle"
    if replay.schedule is not ScheduleName.AUTO:
        schedule_maker(replay)  # refuses what is impossible before anything is tried
    memory = BetweenSteps(routine, point) if witness else None
    seen, first = check_one_step(routine, outputs, point, witness=witness, twice=twice)
    step_vjp = make_vjp(
        replay.vjp,
        micro_batch=replay.micro_batch,
        num_uses=routine.num_steps - routine.first_step,
        fits=partial(fits_at_once, replay),
    )
    phi = outputs[0] if len(outputs) == 1 else list(outputs)
    with deterministic():
        maker = schedule_maker(
            with_fitting_schedule(replay, routine, outputs[0], step_vjp, place),
            in_store=place is not None,
        )
        check_unroll(routine, maker.unroll)
        start = routine.initial_state(point)
        later = LaterSteps(routine, point, memory=memory) if witness else later
        watches = [Borders(routine, point), *filter(None, [later])]
        sweep = Sweep(state=start, vjp=step_vjp, watches=watches)
        actions = whole_run(
            routine.num_steps, maker, first_step=routine.first_step, tier=maker.first_tier
        )
        count = partial(whole_work, maker, routine.num_steps, routine.first_step, len(outputs))
        named = nullcontext() if later is None else later.memory.reversing()
        with one_work(count), told_while_training(), named, _tiers(routine, place) as tiers:
            carry_out(actions, routine, point, tiers, sweep, output=phi)
    first.refuse_another_loss(sweep.losses[0])
    first.refuse_other_outputs(point)
    if later is not None and later.note and seen.curvature is not None:  # else it is said already
        seen = replace(seen, note=f"{seen.note} {later.note}".strip())
    return _results(routine, sweep, len(outputs), seen)


def check_one_step(
    routine: Routine,
    outputs: Sequence[Output],
    z: Metaparams,
    *,
    witness: bool,
    twice: bool | None = None,
) -> tuple[Witness, FirstCalls]:
    """Make the checks of one step that come before any training.

    One step is run twice and compared with itself. If there is a witness, the step of the engine
    that it looks at is one of the two.

    Args:
        routine: The run.
        outputs: phi_1 .. phi_K.
        z: Metaparameters.
        witness: Whether one is asked.
        twice: Whether the first step is compared with itself; by default, if no witness is asked.

    Returns:
        What the witness said, and what the first calls did, to be compared with the training.

    Raises:
        EngineError: If anything is refused.

    Cost:
        About ten plain steps; ``tests/bench/results/`` has what a witness adds to that.
    """
    if witness:
        refuse_memory(routine, z)
    refuse_misfit(routine, z)
    with asked_rightly(routine, outputs):
        loss = refuse_low_precision(routine, z)
        first = FirstCalls(routine, loss)
        check_losses({0: loss}, 0, 1)
        values = check_routine(routine, outputs, z, twice=not witness if twice is None else twice)
        if witness:
            for output, value in zip(outputs, values, strict=True):
                first.see_output(output, value)
    with told_by_witness():
        seen = testify(routine, outputs, z) if witness else Witness()
    first.refuse_other_hooks()
    return seen, first


def _place(store: str | os.PathLike[str] | None) -> str | None:
    if store is not None and not isinstance(store, str | os.PathLike):
        raise ConfigurationError(
            f"store is a {type(store).__name__}. Hand in the URL or the path of a folder, or leave "
            "it out to keep the states in memory."
        )
    return None if store is None else os.fspath(store)


def _results(routine: Routine, sweep: Sweep, number: int, witness: Witness) -> list[Metagradient]:
    losses = torch.stack([sweep.losses[step] for step in range(routine.num_steps)])
    norms = {step: float(norm) for step, norm in sweep.adjoint_norms.items()}
    several = number > 1
    idle = [name for name, found in sweep.metagradient.items() if not found.any()]
    if idle and not any(repr(name) in witness.note for name in idle):
        words = (
            f"The metagradient of {', '.join(map(repr, idle))} is 0 in every number: values that "
            "are clipped, saturated units or a rate of 0 let nothing of it through to the output."
        )
        logger.warning("%s", words)
        witness = replace(witness, note=f"{witness.note} {words}".strip())
    return [
        Metagradient(
            gradient={name: g[i] if several else g for name, g in sweep.metagradient.items()},
            output=float(sweep.output[i] if several else sweep.output),
            state=FinalState(sweep.final),
            losses=losses,
            adjoint_norms=norms,
            witness=witness,
        )
        for i in range(number)
    ]


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
    check_writable(store)
    rows = RowStore.create(store, layout, routine.num_steps + 1, attributes={})
    with BackgroundStates(rows) as states:
        yield {**memory, Tier.STORE: states}
