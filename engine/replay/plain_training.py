"""A training run carried out from its first step to its last, with nothing kept."""

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.errors import ConfigurationError, WitnessError
from engine.numerics.determinism import deterministic
from engine.progress.meter import listening
from engine.replay.interpreter import check_losses
from engine.replay.per_step import PerStep
from engine.routine.diagnosis import asked_rightly
from engine.routine.idle import skipping_idle, skipping_never_used
from engine.routine.intake import point_from, refuse_no_routine, refuse_output
from engine.routine.module.buffers.counters import is_read
from engine.routine.routine import Routine
from engine.step.step import plain_step
from engine.types import Metaparams, Output, State
from engine.witness.repeated import FirstCalls


@skipping_idle
@torch.inference_mode(mode=False)  # also where a notebook is in it
def train_unchecked(
    routine: Routine, z: Metaparams | None = None, first: FirstCalls | None = None
) -> State:
    """Train all T steps at z and return s_T.

    Args:
        routine: The run.
        z: Metaparameters; the routine's own by default.
        first: The loss of step 0 from before the training, if it was computed there.

    Raises:
        NonFiniteError: If a loss is infinite or NaN; names the step.
        WitnessError: If the loss of step 0 differs from that of its first call.
    """
    point = point_from(routine, z)
    state, losses, heard = routine.initial_state(point), PerStep(), listening()
    with deterministic(), asked_rightly(routine, []):
        for step in range(routine.num_steps):
            state, losses[step] = plain_step(routine, state, point, step)
            if heard is not None:
                heard.ran(step, routine.num_steps)
    check_losses(losses, 0, routine.num_steps)
    another = skipping_never_used(routine)
    if another is not None:
        return train_unchecked(another, z, first)
    if first is not None:
        first.refuse_another_loss(losses[0])
    return state


@torch.inference_mode(mode=False)  # also where a notebook is in it
def evaluate(routine: Routine, state: State, output: Output) -> Tensor:
    """Return the output of a trained state, a scalar, without a graph.

    An output may differentiate inside, e.g. by the inputs of a physical equation: gradients can be
    taken there, and only the parameters are constants.
    """
    refuse_no_routine(routine)
    refuse_output(output)
    if not isinstance(state, Mapping) or not routine.initial_state().keys() <= state.keys():
        raise ConfigurationError(
            f"state is a {type(state).__name__}, which is none of this run's. Hand in what "
            "engine.train returned, or the state of a metagradient."
        )
    frozen = {name: row.detach() for name, row in state.items()}
    with asked_rightly(routine, [output]), torch.enable_grad():
        value = routine.evaluate(output, frozen)
        refuse_reader(routine, output, frozen)
    return value.detach() if isinstance(value, Tensor) else value


def refuse_reader(routine: Routine, output: Output, state: State) -> None:
    """Refuse an output that reads a buffer which training changes and which is in no state.

    Raises:
        WitnessError: If it is refused; names the buffer.
    """
    if routine.counters and is_read(routine.counters, lambda: routine.evaluate(output, state)):
        raise WitnessError(
            f"Buffer {next(iter(routine.counters))!r} changes during training, outside the state, "
            "and the output reads it, so it would be that of another model. Let the model read "
            "no counter in evaluation, or declare it as a state of the run, state= with advance=."
        )
