"""The vector-Jacobian product of a step by reverse over reverse: the reference of all others."""

from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

import torch

from engine.routine.routine import Routine
from engine.step.coupled_pieces import pull_in_pieces
from engine.step.step import StepGraph, open_step
from engine.step.two_stage import TwoStageVjp, pull_reverse
from engine.types import Metaparams, State


@runtime_checkable
class StepVjp(Protocol):
    """The signature of ``step_vjp``, and of every faster or leaner way to the same product."""

    def __call__(
        self,
        routine: Routine,
        state: State,
        z: Metaparams,
        step: int,
        cotangent: State,
        *,
        to_state: bool = True,
    ) -> tuple[State, Metaparams]:
        """See ``step_vjp``."""
        ...


@runtime_checkable
class GraphPull(Protocol):
    """A way to pull cotangents through the graph of a step; it may make the graph several times."""

    def __call__(
        self, opened: Callable[[], StepGraph], cotangent: State, *, to_state: bool
    ) -> tuple[State, Metaparams]:
        """Compute ``step_vjp``."""
        ...


def one_by_one(
    opened: Callable[[], StepGraph], cotangent: State, *, to_state: bool
) -> tuple[State, Metaparams]:
    """Pull cotangents through one graph, one after the other."""
    return opened().pull(cotangent, to_state=to_state)


def step_vjp(  # noqa: PLR0913 (a step, and how it is reversed)
    routine: Routine,
    state: State,
    z: Metaparams,
    step: int,
    cotangent: State,
    *,
    to_state: bool = True,
    pull: GraphPull = one_by_one,
) -> tuple[State, Metaparams]:
    """Pull a cotangent back through one training step, by reverse over reverse.

    Computes (lambda_t, g_t) = (lambda_{t+1} ds_{t+1}/ds_t, lambda_{t+1} ds_{t+1}/dz).

    Args:
        routine: The run.
        state: s_t.
        z: Metaparameters.
        step: t.
        cotangent: lambda_{t+1}, same names and shapes as ``state``, or K of them: one more axis
            in front, which the results have as well.
        to_state: Whether lambda_t is wanted; the first step that reads z can do without.
        pull: How several are pulled through the graph of a step that is one piece.

    Returns:
        lambda_t (empty if not wanted), and this step's share of the metagradient: a tensor for each
        metaparameter that enters the step.

    Raises:
        UndifferentiableError: If a kernel has no second derivative, or something that should carry
            a gradient is cut out of the graph.

    Cost:
        Three plain steps: the step with its graph, and twice its products; 1 + 2 K for K
        cotangents. See ``tests/bench/bench_reverse.py`` and ``tests/bench/bench_outputs.py``.
    """
    if routine.piece is not None or routine.shards > 1:
        return _vjp_in_pieces(routine)(routine, state, z, step, cotangent, to_state=to_state)
    return pull(partial(open_step, routine, state, z, step), cotangent, to_state=to_state)


def _vjp_in_pieces(routine: Routine) -> StepVjp:
    """Return the product of a run in pieces; one for all of its steps, because it is checked."""
    pull = pull_reverse if routine.piece is None else pull_in_pieces
    return routine.programs.setdefault("in pieces", TwoStageVjp(pull))


def difference(
    found: tuple[State, Metaparams], expected: tuple[State, Metaparams], count: int = 1
) -> str | None:
    """Say which part of a product is not the reference's to rounding; None if all are.

    Args:
        found: Made in another way.
        expected: What ``step_vjp`` returned.
        count: Number of cotangents; with several, each is compared by itself.
    """
    for part, reference in zip(found, expected, strict=True):
        if part.keys() != reference.keys():
            return f"it has shares of {sorted(part)}, not of {sorted(reference)}."
        for name, row in reference.items():
            off = (part[name] - row).reshape(count, -1).norm(dim=1)
            error = float((off / row.reshape(count, -1).norm(dim=1).clamp(min=1e-30)).max())
            if not error < torch.finfo(row.dtype).eps ** 0.5:
                return f"its {name!r} is off by {error:.1e}."
    return None
