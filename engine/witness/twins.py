"""Short twins of a routine: fewer steps, fewer examples, another number format.

A twin is a routine like any other, so every check runs the code that the run itself will run.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from engine.metaparameters.base import Metaparameter
from engine.routine.examples import Batches, Columns
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.module.buffers.moving import inherit
from engine.routine.number_format import in_format, output_in_format
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.types import Output, State

EXACT_STEPS, EXACT_BATCH, EXACT_EXAMPLES = 8, 32, 128
"""Size of the float64 twin, on which derivatives are compared: small, as it is trained often."""

LONG_STEPS, LONG_BYTES = 40, 1 << 30
"""Steps of the twin that trains as the run does, and the memory that its states may take."""


def long_twin(routine: Routine) -> Routine:
    """Return the run with fewer steps and examples, and all else as it is.

    Its learning rates are those of the run at evenly spaced steps, so the highest is among them.
    """
    state_bytes = sum(row.numel() * row.element_size() for row in routine.initial_state().values())
    num_steps = min(routine.num_steps, max(4, min(LONG_STEPS, LONG_BYTES // state_bytes)))
    return _shorter(
        routine, num_steps, routine.batch_size, max(4 * routine.batch_size, EXACT_EXAMPLES)
    )


def exact_twin(
    routine: Routine, output: Output, dtype: torch.dtype = torch.float64
) -> tuple[Routine, Output]:
    """Return a run of few small steps in another number format, and its output."""
    return exact_run(routine, dtype), output_in_format(output, dtype, EXACT_EXAMPLES)


def exact_run(routine: Routine, dtype: torch.dtype = torch.float64) -> Routine:
    """Return a run of few small steps in another number format."""
    num_steps = min(routine.num_steps, EXACT_STEPS)
    short = _shorter(routine, num_steps, min(routine.batch_size, EXACT_BATCH), EXACT_EXAMPLES)
    return in_format(short, dtype)


def exact_state(state: State) -> State:
    """Return the part of a state that a loss reads, in float64."""
    return {name: exact(state[name]) for name in ("params", BUFFERS, OWN) if name in state}


def exact(tensor: Tensor) -> Tensor:
    """Return a tensor without its graph, in float64 if it has real numbers."""
    return tensor.detach().double() if tensor.is_floating_point() else tensor.detach()


def exact_few(routine: Routine) -> Routine:
    """Return the run in float64, whose examples are converted when they are used; never trained."""
    if routine.layout.dtype == torch.float64:
        return routine
    if isinstance(routine.examples, tuple):
        columns = Columns(routine.examples, routine.device)
        routine = inherit(replace(routine, examples=columns), routine)
    return in_format(routine, torch.float64)


def _shorter(routine: Routine, num_steps: int, batch_size: int, num_examples: int) -> Routine:
    examples, kinds = _fewer(routine, max(num_examples, batch_size))
    if routine.own is not None:
        batch_size = routine.batch_size  # of which its state may have a row for each example
    kept = [step * routine.num_steps // num_steps for step in range(num_steps)]
    rate = routine.learning_rate
    if not isinstance(rate, int | float):
        rate = tuple(rate[step] for step in kept)
    hyper = {
        name: value if isinstance(value, int | float) else tuple(value[step] for step in kept)
        for name, value in routine.optimizer.hyperparameters.items()
    }
    kinds = {name: kind.in_steps(routine.num_steps, num_steps) for name, kind in kinds.items()}
    made = replace(
        routine,
        examples=examples,
        num_steps=num_steps,
        batch_size=batch_size,
        order=routine.order_of(kept, batch_size),
        shards=min(routine.shards, max(1, batch_size // 2)),  # of one example no layer normalizes
        optimizer=replace(routine.optimizer, hyperparameters=hyper),
        learning_rate=rate,
        metaparameters=kinds,
    )
    return inherit(made, routine)


def _fewer(routine: Routine, num_examples: int) -> tuple[Any, dict[str, Metaparameter]]:
    """Return the first examples and their metaparameters; all, where a kind needs all."""
    kinds, examples = routine.metaparameters, routine.examples
    if routine.order_of([], 1) is not None:
        return examples, kinds  # the order names all of them
    can_be_cut = isinstance(examples, tuple | Batches)
    if len(routine) <= num_examples or not can_be_cut:
        return examples, kinds
    shorter = {name: _of_first(kind, num_examples) for name, kind in kinds.items()}
    cut = {name: kind for name, kind in shorter.items() if kind is not None}
    if len(cut) < len(kinds):
        return examples, kinds
    if not isinstance(examples, tuple):
        return examples.first(num_examples), cut
    return tuple(column[:num_examples] for column in examples), cut


def _of_first(kind: Metaparameter, num_examples: int) -> Metaparameter | None:
    """Return a kind for the first examples, if its own class, and no base of it, says how."""
    return kind.of_first(num_examples) if "of_first" in vars(type(kind)) else None
