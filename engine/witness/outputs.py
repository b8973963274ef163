"""Compares the output of a run with that of the module that was handed in."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from engine.errors import EngineError, WitnessError
from engine.numerics.determinism import seeded
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.module.operations import torchs_own
from engine.routine.module.stop_gradient import whole_derivatives
from engine.routine.outputs import MeanLoss, batches_of, parts_of
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.types import Metaparams, Output, State
from engine.witness.agreement import least_size, relative, value_limit
from engine.witness.draws import undrawn
from engine.witness.in_place import InPlace, put_into_training
from engine.witness.kept_attributes import kept_from_call_to_call
from engine.witness.leaves import foreign_leaves, refuse_leaves
from engine.witness.precision import full_precision


@dataclass(frozen=True)
class Answer:
    """What the engine finds an output to be.

    Attributes:
        error: Relative difference from that of the handed-in module.
        value: Value of the first part.
        slopes: The derivative of that part by what it reads of the state, by name; empty where it
            was not asked for, or it could not be made.
    """

    error: float
    value: Tensor
    slopes: State = field(default_factory=dict)


def read_by_outputs(routine: Routine, state: State) -> list[str]:
    """Return the names of what an output may read of a state, and has a derivative by."""
    names = (routine.optimizer.evaluated, BUFFERS, OWN)
    return [name for name in names if name in state and state[name].is_floating_point()]


def own_output(place: InPlace, output: Output) -> Tensor:
    """Return the value of an output by the handed-in module itself, without a graph.

    Args:
        place: Where the state is; it is put there anew.
        output: phi, or as much of it as ``compare_output`` takes.
    """
    place.put(evaluated=True)
    routine = place.routine
    put_into_training(place.given, routine)
    place.given.eval()
    with seeded(routine.seed, "evaluation", device=routine.device), torchs_own():
        return _without_graph(routine.with_own_state(first_part(output)), place.given)


def compare_outputs(
    routine: Routine,
    states: tuple[State, State],
    z: Metaparams,
    asked: Sequence[tuple[Output, Tensor, bool]],
) -> list[Answer]:
    """Compare outputs at the second state, after the loss was called at the first one.

    So it was called at another state and batch than before the module's own output. An output that
    reads what the last batch left behind, say features that a hook keeps, is then another one, and
    is seen: no replayed state has what it reads.

    Args:
        routine: The run.
        states: s_0, and where the outputs are compared.
        z: Metaparameters.
        asked: Each output, with what ``compare_output`` wants to know of it.

    Cost:
        That of ``compare_output`` for each, and a loss of two examples: of a batch, where the loss
        or an output cannot do with so few, or the state has more than parameters.
    """
    first, state = states
    whole = routine.first_piece(next(routine.terms(0)))
    alone = routine.own is None and routine.statistics is None
    for term in (whole.at(whole.indices[:2]), whole) if alone else (whole,):
        params = first["params"].detach().requires_grad_()
        try:
            with routine.reading(first), torch.enable_grad(), routine.binding.keeping():
                routine.term_losses(params, term, z, 0)
            return [
                compare_output(routine, output, state, value, sloped=sloped)
                for output, value, sloped in asked
            ]
        except EngineError:
            raise
        except Exception:
            if term is whole:
                raise
    raise AssertionError  # the last term returns or raises


def compare_output(
    routine: Routine, output: Output, state: State, theirs: Tensor, *, sloped: bool = True
) -> Answer:
    """Compare the output with a graph, of the engine, with that of the module, without one.

    Args:
        routine: The run.
        output: phi; of one with parts, the first is compared.
        state: Where.
        theirs: What ``own_output`` returned there.
        sloped: Whether its derivative is wanted, for ``compare_output_slope``.

    Raises:
        WitnessError: If they differ, or the output reads a tensor with a gradient from elsewhere.

    Cost:
        The output with its graph, and its gradient where that is wanted.
    """
    part = first_part(output)
    leaves = {name: row.detach().clone().requires_grad_() for name, row in state.items()}
    value, slopes = _with_graph(routine, part, leaves, sloped=sloped)
    own = value.detach()
    error = relative(own, theirs.to(own.device), least_size(routine))
    if error <= value_limit(routine):
        return Answer(error, own, slopes)
    _refuse_moving_output(routine, part, leaves, own)
    _refuse_two_functions(routine, part, state, own)
    _refuse_drawn_examples(output)
    values = (
        "At the same parameters, the output of the module that you handed in is "
        f"{float(theirs):.8g}, and that of the engine's copy is {float(own):.8g}."
    )
    kept = kept_from_call_to_call(routine.model, lambda: _trained_once(routine, state))
    if kept:
        raise WitnessError(f"{values} {kept}")
    raise WitnessError(
        f"{values} Either the output reads something besides the module that it is given, such as "
        "features that a training step has left behind, or the module computes from something that "
        "was there before evaluation began. Read everything from the module that the output is "
        "given, and call that module for what it computes."
    )


def _trained_once(routine: Routine, state: State) -> None:
    """Call the loss as a step of training does."""
    term = routine.first_piece(next(routine.terms(0)))
    params = state["params"].detach().requires_grad_()
    with routine.reading(state), torch.enable_grad(), routine.binding.keeping():
        routine.term_losses(params, term, routine.point(), 0)


def _with_graph(
    routine: Routine, part: Output, leaves: State, *, sloped: bool
) -> tuple[Tensor, State]:
    """Return the output with its graph, and its derivatives where they are wanted and exist.

    Raises:
        WitnessError: If the output reads a tensor with a gradient from elsewhere.
    """
    names = read_by_outputs(routine, leaves)
    known = [leaves[name] for name in names]

    def evaluated() -> Tensor:
        with torch.enable_grad():
            return routine.evaluate(part, leaves)

    slopes: State = {}
    with routine.binding.keeping():
        with full_precision("output"):
            value = undrawn("output", evaluated, part, routine.model)
        if value.requires_grad and foreign_leaves(value, known):
            refuse_leaves(routine.given, "output", evaluated, known)
        elif sloped and value.requires_grad:
            # An output that cannot be differentiated is refused later, in better words.
            with suppress(RuntimeError, NotImplementedError):
                slopes = dict(zip(names, _slopes(value, known), strict=True))
    return value, slopes


def _refuse_moving_output(routine: Routine, part: Output, leaves: State, first: Tensor) -> None:
    """Refuse an output that differs from itself when it is called again.

    Raises:
        WitnessError: If they differ; names both values.
    """
    again = routine.evaluate(part, leaves).detach()
    if not torch.equal(again, first):
        raise WitnessError(
            f"Two calls of the output at the same parameters returned {float(first):.8g} and "
            f"{float(again):.8g}. Draw random numbers from torch's global generator, which is "
            "seeded for each call, keep nothing between two calls, and do not write into tensors "
            "that the output holds."
        )


def _refuse_two_functions(routine: Routine, part: Output, state: State, own: Tensor) -> None:
    """Refuse an output whose value depends on whether gradients are enabled.

    Raises:
        WitnessError: If they differ; names both values.
    """
    with torch.no_grad():
        bare = routine.evaluate(part, state)
    if relative(bare, own, least_size(routine)) > value_limit(routine):
        raise WitnessError(
            f"The output is {float(own):.8g} with gradients enabled and {float(bare):.8g} without, "
            "so its value and its derivative belong to two functions. Look for is_grad_enabled() "
            "or requires_grad in the model or the output, and compute the same in both cases."
        )


def _refuse_drawn_examples(output: Output) -> None:
    """Refuse held-out examples that are others when they are read again.

    Raises:
        WitnessError: If they are.
    """
    if not isinstance(output, MeanLoss):
        return
    one, other = (tree_leaves(next(batches_of(output.examples, output.chunk))) for _ in range(2))
    pairs = zip(one, other, strict=False)
    if any(isinstance(a, Tensor) and not torch.equal(a, b) for a, b in pairs):
        raise WitnessError(
            "The held-out examples are others when they are read again: their data set draws "
            "random numbers, as for crops or negative samples, and phi would be another function "
            "at every call. Draw them once, when the data set is made, from a generator with a "
            "seed of its own; what is drawn anew in training belongs into augment."
        )


def first_part(output: Output) -> Output:
    """Return the first part of an output that has several, or the output itself."""
    return next(parts_of(output))


def _slopes(value: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    with whole_derivatives():
        return torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)


def _without_graph(output: Output, module: nn.Module) -> Tensor:
    try:
        with torch.no_grad():
            return output(module).detach()
    except RuntimeError:  # an output that takes derivatives of its own
        with torch.enable_grad():
            return output(module).detach()
