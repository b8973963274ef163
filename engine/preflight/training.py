"""Checks on a twin at the run's own rates: its loss falls, and its adjoint stays bounded."""

import math
from dataclasses import dataclass

import torch

from engine.errors import NonFiniteError
from engine.preflight.growth import GROWTH_LIMIT, growth_per_step
from engine.preflight.verdict import Check, Verdict
from engine.replay.seeding import seed_adjoint
from engine.routine.routine import Routine
from engine.step.reference import StepVjp
from engine.step.step import plain_step
from engine.types import Output, State


@dataclass(frozen=True)
class LongRun:
    """A twin trained at the run's own rates.

    Attributes:
        routine: The twin.
        states: s_0, ..., s_T.
        losses: Batch loss of each step.
    """

    routine: Routine
    states: list[State]
    losses: list[float]


def train_twin(routine: Routine) -> LongRun:
    """Train all steps and keep every state; no step is given one that is kept."""
    z = routine.point()
    states, losses = [routine.initial_state(z)], []
    for step in range(routine.num_steps):
        state, loss = plain_step(routine, copied(states[-1]), z, step)
        states.append(state)
        losses.append(float(loss))
    return LongRun(routine, states, losses)


def copied(state: State) -> State:
    """Return a state in memory of its own, into which a forward pass may write."""
    return {name: torch.clone(row) for name, row in state.items()}


def check_training(run: LongRun) -> Check:
    """Warn if the loss of the first batch is no lower at the end than at the start."""
    wrong = [step for step, loss in enumerate(run.losses) if not math.isfinite(loss)]
    advice = {"remedy": "Lower learning_rate.", "settings": ("training.learning_rate",)}
    if wrong:
        return Check(
            name="training",
            verdict=Verdict.REFUSE,
            value=None,
            limit=1,
            cause=f"The training loss is {run.losses[wrong[0]]} in step {wrong[0]}: training "
            "diverged, or the model or the loss divides by 0 or takes log(0) there.",
            **advice,
        )
    before, after = (_first_loss(run.routine, run.states[place]) for place in (0, -1))
    share = after / before if before > 0 else (1.0 if after >= before else 0.0)
    named = {"name": "training", "value": _finite(share), "limit": 1}
    steps = f"{run.routine.num_steps} steps"
    if not after < before:
        worse = not math.isfinite(after) or after > 1.5 * abs(before)
        return Check(
            **named,
            verdict=Verdict.REFUSE if worse else Verdict.WARN,
            cause=f"{steps} did not lower the loss of the first batch: from {before:.4g} to "
            f"{after:.4g}. A metagradient of such a run says how to disturb it, not how to help.",
            **advice,
        )
    cause = f"{steps} lowered the loss of the first batch from {before:.4g} to {after:.4g}."
    return Check(**named, verdict=Verdict.PASS, cause=cause)


def _first_loss(routine: Routine, state: State) -> float:
    term = next(routine.terms(0))
    params = state["params"].detach().requires_grad_()
    with torch.enable_grad():  # a loss may differentiate inside, also by the parameters
        losses = routine.term_losses(params, term, routine.point(), 0)
    return float(losses.detach().mean())


def check_adjoint(run: LongRun, output: Output, product: StepVjp) -> Check:
    """Warn if the adjoint grows at every step, refuse if it is not finite."""
    routine, z = run.routine, run.routine.point()
    named = {"name": "adjoint", "limit": GROWTH_LIMIT}
    try:
        _, adjoint = seed_adjoint(routine, run.states[-1], output)
    except NonFiniteError as error:
        return Check(
            **named,
            value=None,
            verdict=Verdict.REFUSE,
            cause=str(error),
            remedy="Lower learning_rate.",
            settings=("training.learning_rate",),
        )
    norms = {routine.num_steps: float(adjoint["params"].norm())}
    for step in reversed(range(routine.num_steps)):
        adjoint, _ = product(routine, run.states[step], z, step, adjoint)
        norms[step] = float(adjoint["params"].norm())
        if not all(bool(torch.isfinite(row).all()) for row in adjoint.values()):
            return Check(
                **named,
                value=None,
                verdict=Verdict.REFUSE,
                cause=f"The adjoint became infinite or NaN when step {step} was reversed, although "
                "training is finite there.",
                remedy="With Adam, use eps_root=1e-8 or more; otherwise lower learning_rate.",
                settings=("optimizer.eps_root", "training.learning_rate"),
            )
    growth = growth_per_step(norms)
    steps = f"{routine.num_steps} steps"
    if growth > GROWTH_LIMIT:
        return Check(
            **named,
            value=growth,
            verdict=Verdict.WARN,
            cause=f"The adjoint grows {growth:.2f}-fold at each step backwards over {steps}: the "
            "learning rate times the curvature of the loss passes 2, where a step overshoots by "
            "more than it corrects. Training is chaotic, and its metagradient true but useless.",
            remedy="Lower learning_rate, or raise batch_size.",
            settings=("training.learning_rate", "training.batch_size"),
        )
    cause = f"The adjoint stays finite over {steps} and grows {growth:.3f}-fold at each."
    return Check(**named, value=growth, verdict=Verdict.PASS, cause=cause)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
