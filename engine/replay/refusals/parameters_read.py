"""Parameters that the loss of the first step reads, noted while that step is run.

A parameter whose value is read and that has no part in the gradient was cut out of the graph.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from engine.errors import UndifferentiableError, WitnessError
from engine.replay.interpreter import check_losses
from engine.routine.idle import noting_used, refuse_moved
from engine.routine.module.stop_gradient import whole_derivatives
from engine.routine.outputs import parts_of
from engine.routine.routine import Routine
from engine.step.pulls import gradient_of
from engine.types import Output, State
from engine.witness.in_place import nothing_moves
from engine.witness.leaves import refuse_leaves


@dataclass(eq=False)
class ParametersRead:
    """What the first step reads.

    Attributes:
        called: Names of the modules that are called.
        without: Names of the parameters that have no part in the loss; None until that is known.
    """

    called: set[str] = field(default_factory=set)
    without: list[str] | None = None

    @property
    def unused(self) -> list[str]:
        """Parameters that have no part in the loss, of modules that were called."""
        return [name for name in self.without or () if name.rpartition(".")[0] in self.called]

    @property
    def idle(self) -> list[str]:
        """Parameters that have no part in the loss, of modules that were not called.

        One may belong to an expert that got no example: its gradient is zero in this step, and need
            not be in others.
        """
        return [name for name in self.without or () if name.rpartition(".")[0] not in self.called]


@contextmanager
def noting_reads(routine: Routine, reads: ParametersRead, params: Tensor) -> Iterator[None]:
    """Note what a first step inside the block reads, unless that is known.

    Raises:
        WitnessError: If it changes parameters or what no state holds, or reads parameters of
            somebody else's.
    """
    unmoved = nothing_moves(routine.model, routine, params)  # nor by a first call alone
    if reads.without is not None:
        with unmoved:
            yield
        return
    try:
        with unmoved, _noting_calls(routine.model, reads.called), noting_used() as seen:
            yield
    except WitnessError:
        raise
    except UndifferentiableError:  # perhaps it reads nothing else
        _refuse_foreign(routine, params)
        raise
    names = [*routine.layout.shapes]
    found = seen.found or [False] * len(names)
    reads.without = [name for name, is_used in zip(names, found, strict=True) if not is_used]
    if reads.without:  # perhaps it reads others
        _refuse_foreign(routine, params)


def find_reads(routine: Routine, params: Tensor, reads: ParametersRead) -> None:
    """Note what the first step reads, by a gradient that is made for that alone."""
    params = params.detach().requires_grad_()
    with noting_reads(routine, reads, params), torch.enable_grad(), routine.binding.keeping():
        first = routine.first_piece(next(routine.terms(0)))
        loss = routine.term_loss(params, first, routine.point(), 0)
        if not loss.requires_grad:
            raise UndifferentiableError(
                "The loss does not depend on the parameters, so there is nothing to train. Look "
                "for a detach(), a .data or a no_grad() in the model or the loss."
            )
        check_losses({0: loss.detach()}, 0, 1)
        gradient_of(loss, params, create_graph=False)


def _refuse_foreign(routine: Routine, params: Tensor) -> None:
    first, point = routine.first_piece(next(routine.terms(0))), routine.point()
    leaf = params.detach().requires_grad_()
    with torch.enable_grad(), routine.binding.keeping():
        refuse_leaves(
            routine.given,
            "loss",
            lambda: routine.term_loss(leaf, first, point, 0),
            [leaf, *point.values()],
        )


def refuse_detached(
    routine: Routine, reads: ParametersRead, state: State, outputs: Sequence[Output]
) -> None:
    """Refuse a parameter that has no part in the gradient, where loss or output read its value.

    A parameter that nothing reads, such as a pooling layer that a model brings along, may stay. A
    parameter that is read may not: the optimizer's decay would move it here, and leaves it as it is
    in the user's own training. An output may read a parameter of an expert that got no example so
    far.
    """
    evaluated, first = routine.optimizer.evaluated, routine.first_piece(next(routine.terms(0)))
    parts = [part for output in outputs for part in parts_of(output)] if reads.without else []

    cut = _cut_out(routine, state, reads.without or [])
    idle = [name for name in reads.without or () if name in reads.idle or name not in cut]

    def loss(params: Tensor) -> list[Tensor]:
        params = params.requires_grad_()  # a loss may take derivatives
        with torch.enable_grad(), routine.reading(state), routine.binding.keeping():
            return [routine.term_loss(params, first, routine.point(), 0).detach()]

    def values(params: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [routine.evaluate(part, {**state, evaluated: params}) for part in parts]

    for read, row, names in (
        (loss, state["params"], cut),
        (values, state[evaluated], [name for name in reads.unused if name in cut]),
        (values, state[evaluated], idle),
    ):
        if not names:
            continue
        moved = row.detach().clone()
        for name in names:
            views = routine.layout.views(moved)
            moved = routine.layout.flatten({**views, name: 1.25 * views[name] + 0.1})
        if not all(map(torch.equal, read(row.detach().clone()), read(moved))):
            if names == idle and read is values:
                refuse_moved(routine, names)
                return
            raise UndifferentiableError(
                f"Parameter {names[0]!r} has no part in the loss of step 0 that has a derivative, "
                "so its gradient is None, but its value is read. Freeze it with "
                "requires_grad_(False), or look for a detach() before the loss; where some steps "
                "shall hold it, write engine.stop_gradient(x) in place of x.detach()."
            )


def _cut_out(routine: Routine, state: State, names: Sequence[str]) -> Sequence[str]:
    """Leave out the names of what the loss of step 0 reads through ``stop_gradient`` alone.

    Its derivative is not lost: a layer that is trained from a later step on is held so until then.
    """
    if not names:
        return names
    first = routine.first_piece(next(routine.terms(0)))
    params = state["params"].detach().requires_grad_()
    with (
        torch.enable_grad(),
        routine.reading(state),
        routine.binding.keeping(),
        noting_used() as seen,
    ):
        loss = routine.term_loss(params, first, routine.point(), 0)
        with whole_derivatives():
            gradient_of(loss, params, create_graph=False)
    found = dict(zip(routine.layout.shapes, seen.found or (), strict=False))
    return [name for name in names if not found.get(name)]


@contextmanager
def _noting_calls(model: nn.Module, called: set[str]) -> Iterator[None]:
    """Collect the names of the modules that are called inside the block."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            # Those without parameters of their own have none to answer for.
            if isinstance(module, torch.jit.ScriptModule):
                called.add(name)  # takes no hook
            elif any(tensor is not None for tensor in module._parameters.values()):
                handle = module.register_forward_pre_hook(lambda *_, n=name: called.add(n))
                stack.callback(handle.remove)
        yield
