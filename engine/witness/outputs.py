"""The output of a run beside that of the handed-in module."""

import torch
from torch import Tensor, nn

from engine.errors import WitnessError
from engine.numerics.determinism import seeded
from engine.routine.module.batch_norm import BUFFERS
from engine.routine.module.operations import grouped_products
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.types import Output, State
from engine.witness.agreement import gradient_limit, least_size, relative
from engine.witness.in_place import InPlace
from engine.witness.leaves import foreign_leaves, refuse_leaves
from engine.witness.precision import full_precision


def own_output(place: InPlace, output: Output) -> Tensor:
    """Return what an output is of the handed-in module itself, without a graph.

    Args:
        place: Where the state is; it is put there anew.
        output: phi, or as much of it as ``compare_output`` takes.
    """
    place.put(evaluated=True)
    place.given.train(False)
    routine = place.routine
    with seeded(routine.seed, "evaluation", device=routine.device), grouped_products():
        return _without_graph(routine.told(first_part(output)), place.given)


def compare_output(routine: Routine, output: Output, state: State, theirs: Tensor) -> float:
    """Compare the output with a graph, of the engine, with that of the module, without one.

    Args:
        routine: The run.
        output: phi; of one with parts, the first is compared.
        state: Where.
        theirs: What ``own_output`` returned there.

    Raises:
        WitnessError: If they differ, or the output reads a tensor with a gradient from elsewhere.
    """
    part = first_part(output)
    leaves = {name: row.detach().clone().requires_grad_() for name, row in state.items()}

    def evaluated() -> Tensor:
        with torch.enable_grad(), routine.binding.kept():
            return routine.evaluate(part, leaves)

    with full_precision("output"):
        value = evaluated()
    known = [leaves[name] for name in (routine.optimizer.evaluated, BUFFERS, OWN) if name in leaves]
    if value.requires_grad and foreign_leaves(value, known):
        refuse_leaves(routine.given, "output", evaluated, known)
    own, limit = value.detach(), gradient_limit(routine)
    error = relative(own, theirs.to(own.device), least_size(routine))
    if error <= limit:
        return error
    again = routine.evaluate(part, leaves).detach()
    if not torch.equal(again, own):
        raise WitnessError(
            f"The output, called twice at the same parameters, is {float(own):.8g} and "
            f"{float(again):.8g}. Draw random numbers from torch's global generator, which is "
            "seeded for it, and keep nothing between two calls."
        )
    with torch.no_grad():
        bare = routine.evaluate(part, state)
    if relative(bare, own, least_size(routine)) > limit:
        raise WitnessError(
            f"The output is {float(own):.8g} where a graph is wanted and {float(bare):.8g} where "
            "none is, so its value and its derivative are of two functions. Look for "
            "is_grad_enabled() or requires_grad in the model or the output, and compute the same "
            "in both."
        )
    raise WitnessError(
        f"At the same parameters the output of the module that you handed in is "
        f"{float(theirs):.8g}, and that of the engine's copy {float(own):.8g}. The output reads "
        "something besides the module that it is given, or the module computes from what was "
        "there before evaluation began. Read all of it from the module that the output is given."
    )


def first_part(output: Output) -> Output:
    """Return the first part of an output that has several, or the output itself."""
    parts = output.parts() if hasattr(output, "parts") else [output]  # pyright: ignore[reportFunctionMemberAccess]
    return next(iter(parts))


def _without_graph(output: Output, module: nn.Module) -> Tensor:
    try:
        with torch.no_grad():
            return output(module).detach()
    except RuntimeError:  # an output that takes derivatives of its own
        with torch.enable_grad():
            return output(module).detach()
