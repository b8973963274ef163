"""Buffers and frozen parameters that the forward pass of a step moves: found before the run."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.errors import WitnessError
from engine.routine.module.buffers.holding import Holding
from engine.routine.module.buffers.saved_copies import is_alike
from engine.routine.module.calls_again import HOLDING, Way, call_as_wanted, wants_holding

if TYPE_CHECKING:
    from engine.routine.module.held_module import HeldModule
    from engine.routine.routine import Routine

MOVING = "moving buffers"
"""Where a routine notes them, among what was measured of its step."""

_MOST_FROZEN = 1 << 24
"""Numbers of frozen parameters that are copied to see whether a forward pass moves them."""


@dataclass(frozen=True)
class Moving:
    """Tensors of a module that a step moves and that no optimizer does, by name.

    Attributes:
        quantities: They follow parameters or examples; their first values.
        clocks: Whole numbers, and those that go the same way whatever the parameters and examples
            are, so that they have no derivative; their first values.
    """

    quantities: dict[str, Tensor] = field(default_factory=dict)
    clocks: dict[str, Tensor] = field(default_factory=dict)

    @property
    def all(self) -> dict[str, Tensor]:
        """Both kinds; the clocks come last."""
        return self.quantities | self.clocks


def moving(routine: "HeldModule", skipped: frozenset[str]) -> Moving:
    """Find what the first step of a run moves besides its parameters.

    Args:
        routine: The run.
        skipped: Names that are not looked at: running statistics, which a state holds anyway.

    Raises:
        WitnessError: If what moves has more digits than the numbers of a state.

    Cost:
        Nothing if the module has no such tensors; a forward pass of a batch if it has, and two more
        if one of them moves.
    """
    if MOVING not in routine.programs:
        routine.programs[MOVING] = _find_moving(routine, _watched(routine, skipped))
    return routine.programs[MOVING]


def inherit(run: "Routine", source: "Routine") -> "Routine":
    """Return a run that was made of another one, and knows what calls do in that one.

    The copy would find the same by itself, except a buffer that moves by less than one rounding.
    """
    _ = source.statistics
    run.programs[HOLDING] = source.programs.get(HOLDING, 0)
    known: Moving | None = source.programs.get(MOVING)
    if known is None or not known.all:
        return run
    held = {**dict(run.model.named_parameters()), **dict(run.model.named_buffers())}
    kinds = (known.quantities, known.clocks)
    run.programs[MOVING] = Moving(
        *({name: held[name].detach().clone() for name in kind} for kind in kinds)
    )
    return run


def _find_moving(routine: "HeldModule", watched: Mapping[str, Tensor]) -> Moving:
    if not watched:
        return Moving()
    # Not at the first parameters: a teacher that begins as its student would not move there.
    first = after_a_call(routine, watched)
    moved = [name for name, tensor in first.items() if differs(tensor, watched[name])]
    if not moved:
        return Moving()
    # Those that count go the same way, whatever parameters, examples and metaparameters are.
    others = [after_a_call(routine, watched, 0, 1.1, 0.01), after_a_call(routine, watched, 1, 1.0)]
    found = Moving()
    for name in moved:
        ends = [end.get(name) for end in others]
        by_itself = all(end is not None and _same(end, first[name]) for end in ends)
        is_clock = by_itself or not watched[name].is_floating_point()
        (found.clocks if is_clock else found.quantities)[name] = watched[name]
    dtype = routine.layout.dtype
    for name, tensor in found.all.items():
        if not _same(tensor.to(dtype).to(tensor.dtype), tensor) or (
            name in found.quantities and torch.finfo(tensor.dtype).bits > torch.finfo(dtype).bits
        ):
            raise WitnessError(
                f"The forward pass moves the buffer {name!r} of {tensor.dtype}, which the state, "
                f"whose numbers are {dtype}, cannot hold without rounding it. Give the buffer the "
                "format of the parameters, or convert the model with model.double()."
            )
    return found


def _watched(routine: "HeldModule", skipped: frozenset[str]) -> dict[str, Tensor]:
    """Return copies of the tensors that no state holds, by name."""
    model = routine.model
    found = {name: tensor for name, tensor in model.named_buffers() if name not in skipped}
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    if sum(tensor.numel() for tensor in frozen.values()) <= _MOST_FROZEN:
        found |= frozen
    return {
        name: tensor.detach().clone()
        for name, tensor in found.items()
        if type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_complex()
        and tensor.device.type != "meta"
    }


def after_a_call(
    routine: "HeldModule",
    watched: Mapping[str, Tensor],
    step: int = 0,
    scale: float = 1.05,
    shift: float = 0.0,
) -> dict[str, Tensor]:
    """Return the watched tensors after a forward pass, those that are still of their kind."""
    run: Routine = routine  # pyright: ignore[reportAssignmentType] (the only kind of one)
    step = min(step, run.num_steps - 1)
    # A bias that begins at zero moves, too.
    views = {n: (scale * p + 0.1 * (scale - 1)) for n, p in run.trainable.items()}
    with torch.enable_grad():  # no leaves, as in a run
        views = {n: p.requires_grad_().view_as(p) for n, p in views.items()}

    def call(way: Way) -> tuple[dict[str, Tensor | None], bool]:
        holds = way is not Way.PLAIN
        return _left_by_a_call(run, views, watched, step, shift, holds=holds), False

    now = call_as_wanted([*views.values()], run.device, call)
    return {
        name: end.detach()
        for name, end in now.items()
        if end is not None and name in watched and is_alike(end, watched[name])
    }


def _left_by_a_call(
    run: "Routine",
    views: Mapping[str, Tensor],
    watched: Mapping[str, Tensor],
    step: int,
    shift: float,
    *,
    holds: bool,
) -> dict[str, Tensor | None]:
    """Return what the module holds after a forward pass; nothing, if the user's code fails."""
    term = run.first_piece(next(run.terms(step)))
    binding = run.binding
    with torch.enable_grad(), binding.keeping():
        # Running statistics are not looked at, and have to stay where they are as well.
        buffers = {
            name: tensor.detach().clone()
            for name, tensor in run.model.named_buffers()
            if binding.knows(name)  # not one that a call before has made
        }
        frozen = {name: tensor.clone() for name, tensor in watched.items()}
        mode = Holding(buffers | frozen, views) if holds else nullcontext()
        # A step may be at work around this, which goes on with what it has bound.
        with binding.holding({**views, **buffers, **frozen}):
            run.modes.train()
            try:
                z = {n: (1 + shift) * value.detach() + shift for n, value in run.point().items()}
                batch, arguments = run.loss_inputs(term, z, step)
                with run.seeded(term, step), mode:
                    run.loss(run.model, batch, **arguments)  # pyright: ignore[reportCallIssue] (checked when made)
            except Exception as error:  # of the user's code, and told where a step is taken
                if wants_holding(error) and not holds:
                    raise
                return {}
            binding.refuse_parted(buffers)
            return binding.bound()


def differs(one: Tensor, other: Tensor) -> bool:
    """Say whether two tensors differ in a bit, or in their kind."""
    return not _same(one, other)


def _same(one: Tensor, other: Tensor) -> bool:
    equal_nan = one.is_floating_point()
    return is_alike(one, other) and torch.allclose(one, other, rtol=0, atol=0, equal_nan=equal_nan)
