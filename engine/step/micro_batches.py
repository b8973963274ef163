"""Whether the micro-batches of a step are independent of one another."""

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.routine.routine import Routine
from engine.types import Metaparams, State


def refuse_coupled(
    routine: Routine,
    states: tuple[State, State],
    gradient: Tensor,
    z: Metaparams,
    step: int,
    size: int,
) -> None:
    """Refuse micro-batches that do not lead to the state that the whole batch led to.

    Losses may couple the examples of a batch at some steps only, so it is asked at each. An update
    may enlarge roundings, as Adam does where a gradient is nothing else, but a sum of gradients,
    such as its first moment, does not: so all rows of the state have to be off.

    Args:
        routine: The run.
        states: s_t, and s_{t+1} of the training.
        gradient: That of the micro-batches together, shape (params,).
        z: Metaparameters.
        step: t.
        size: Examples in a micro-batch.

    Raises:
        ConfigurationError: If they lead elsewhere.

    Cost:
        An update.
    """
    state, after = states
    off: dict[str, tuple[float, float]] = {}
    with torch.no_grad():
        for name, made in routine.update(state, gradient, z, step).items():
            moved = (after[name] - state[name]).norm()
            error = (made - after[name]).norm()
            eps = torch.finfo(made.dtype).eps
            if error == 0:  # as of a row that counts steps
                continue
            if error <= 10 * eps**0.5 * moved + 10 * eps * after[name].norm():
                return
            off[name] = float(error), float(moved)
    if not off:
        return
    row, (by, of) = next(iter(off.items()))
    raise ConfigurationError(
        f"micro_batch is {size}, but the parts of step {step} lead to other {row!r} than its batch "
        f"did (a difference of {by:.1e}, where the step moved by {of:.1e}), so the loss of an "
        "example depends on the rest of its batch there. Leave micro_batch out, or write the loss "
        "as a CoupledLoss of engine.routine.coupled_loss.",
        settings=("replay.micro_batch",),
    )
