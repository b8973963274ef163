"""One step's numbers from both sides: the engine's beside those of the module by itself."""

from collections.abc import Callable, Mapping

import torch

from engine.errors import WitnessError
from engine.routine.routine import Routine
from engine.witness.agreement import gradient_limit, least_size, relative, value_limit
from engine.witness.in_place import Seen

FLOOR = 0.1
"""Share of the whole gradient below which a tensor's own gradient counts as that much: those that
cancel to nothing, as of a bias before a normalization, are noise."""


def compare_steps(routine: Routine, own: Seen, theirs: Seen, again: Callable[[], Seen]) -> float:
    """Return the largest error of the gradient; refuse what differs, with the likely cause.

    Args:
        routine: The run.
        own: What the engine found.
        theirs: What the handed-in module found by itself.
        again: Takes the engine's step once more; called if something differs.

    Raises:
        WitnessError: If loss, gradient or statistics differ by more than roundings do.
    """
    whole = float(torch.stack([g.double().norm() for g in theirs.gradient.values()]).norm())
    errors = {
        name: relative(own.gradient[name], gradient, FLOOR * whole)
        for name, gradient in theirs.gradient.items()
    }
    moved = {
        name: relative(own.statistics[name], value, 1e-3)
        for name, value in theirs.statistics.items()
    }
    limit, worst = gradient_limit(routine), max(errors.values())
    loss_error = relative(own.losses, theirs.losses, least_size(routine))
    differs = loss_error > value_limit(routine)
    if not differs and worst <= limit and max(moved.values(), default=0) <= limit:
        return worst
    _refuse_moving_loss(own, again())
    if differs:
        raise WitnessError(_other_loss(own, theirs))
    if worst > limit:
        raise WitnessError(_other_gradient(errors, limit))
    name = max(moved, key=lambda n: moved[n])
    raise WitnessError(
        f"After one step of its own the module's {name!r} differs by {moved[name]:.1e} from the "
        f"engine's. {_cure_of_move(routine, name)}"
    )


def _refuse_moving_loss(own: Seen, repeated: Seen) -> None:
    """Refuse a loss that is another one when it is called again: whatever differs comes of that.

    Raises:
        WitnessError: With what it may read.
    """
    if not torch.equal(repeated.losses, own.losses):
        raise WitnessError(
            "Two calls of the loss with the same parameters, batch and seed gave "
            f"{own.total:.8g} and {repeated.total:.8g}, so something that it reads is "
            "neither in the state nor made from the step's number: a module outside of the run "
            "that moves with it, a counter, a cache, or random numbers that torch does not draw. "
            "Keep nothing between two calls, and draw from torch's global generator."
        )


def _other_loss(own: Seen, theirs: Seen) -> str:
    return (
        f"At the same parameters and batch the module that you handed in has the loss "
        f"{theirs.total:.8g}, and the engine's copy of it {own.total:.8g}. The "
        "loss or the forward pass reads something besides the module that it is given (another "
        "module or a list of parameters that it holds, a detached copy of weights, a counter "
        "or a cache, the .grad of parameters, a mode that was changed after the routine was "
        "made), reads running "
        "statistics that its own batch has just moved, or asks whether a tensor is an "
        "nn.Parameter or a leaf, which the engine's are not. Read all of it from the module "
        "that the loss is given, statistics before the layer is called, and tell parameters by "
        "requires_grad."
    )


def _other_gradient(errors: Mapping[str, float], limit: float) -> str:
    names = sorted((n for n in errors if errors[n] > limit), key=lambda n: -errors[n])
    return (
        f"The loss is the same, but its gradient by {', '.join(map(repr, names[:3]))} is off "
        f"by {errors[names[0]]:.1e} from the one that the module finds by itself. Code that runs "
        "in the backward pass (a hook, a custom autograd function, a recomputation) reads or "
        "changes something that the engine does not carry. Write it with differentiable "
        "operations of the module's own parameters, or as a hook on a parameter."
    )


def _cure_of_move(routine: Routine, name: str) -> str:
    if routine.statistics is not None and name in routine.statistics.carried.all:
        return (
            "Something besides the forward pass moves it, such as a hook of the backward pass, or "
            "reads the module that you handed in. Let the forward pass of the module that the loss "
            "is given move it, by operations of torch."
        )
    return (
        "So the layer moves its running statistics by rules of its own. Let it call "
        "torch.nn.functional.batch_norm with its statistics, or use group or layer normalization."
    )
