"""Whether a step would be another one if what it takes out of the graph were other numbers.

``torch.where(is_due, x.detach(), x)`` takes a value out at every step, and uses it at some. A
comparison at another step finds nothing, and has run through the line all the same. So the numbers
that a cut is given are changed a little, and the step is asked whether it notices.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from engine.numerics.determinism import filling
from engine.routine.loss_terms import Term
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.step.gradient import batch_in_order
from engine.step.pulls import gradient_of
from engine.torch_modes import listening
from engine.types import Metaparams, State
from engine.witness.agreement import least_size, relative, value_limit
from engine.witness.cuts.callers import Place, calling_place
from engine.witness.cuts.functions import is_in_graph, tensors_in
from engine.witness.cuts.places import CutPlaces, moves, writes
from engine.witness.memory.between_parts import parts_of_step

_SHARE = 0.01
"""By which share numbers are changed: by half and by one and a half of that, and between."""


class ChangedCuts(CutPlaces):
    """Changes the numbers that are taken out of the graph at some places inside the block.

    What the block writes into its other tensors are changed numbers then, as ``teacher.to(device)``
    does, which sets each parameter. They are the user's, so ``put_back`` has to be called after it.

    Args:
        places: Which.
    """

    def __init__(self, places: Collection[Place]) -> None:
        super().__init__()
        self._places = places
        self._before: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def on_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function``, and note what it writes into, as it was."""
        written = [*(args[:1] if writes(function) else ()), kwargs.get("out")]
        for each in tensors_in(written):
            if each.is_leaf and id(each) not in self._before:
                with suppress(Exception):  # one without memory, as of torch.func
                    self._before[id(each)] = (each, each.data, each.data.clone())
        return super().on_call(function, args, kwargs)

    def put_back(self) -> None:
        """Put back what was written into, which may have other memory by now."""
        for tensor, data, numbers in self._before.values():
            with suppress(Exception):  # one that has lost its memory
                if not tensor.is_leaf:
                    continue  # it was made for a graph, and holds what nobody else reads
                if tensor.data_ptr() != data.data_ptr() or tensor.dtype != data.dtype:
                    tensor.data = data
                data.copy_(numbers)  # no graph is told, since none of it is computed any more
        self._before.clear()

    def taken_out(
        self,
        place: Place | None,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *result: Any,  # noqa: ANN401 (whatever the function returns)
    ) -> Any:  # noqa: ANN401 (likewise)
        """Return what a function takes out of the graph, of other numbers at those places."""
        if place not in self._places:
            return super().taken_out(place, function, args, kwargs, *result)
        if function is torch.autograd.grad:  # which wants the graph's own tensors
            return tree_map(_other, function(*args, **kwargs))
        kept = args[:1] if writes(function) else ()  # it is written into, so it has to be itself
        others = tree_map(self._changed, args[len(kept) :])
        return function(*kept, *others, **tree_map(self._changed, kwargs))

    def around_function(self, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call a custom function, and let it leave what it leaves of other arguments."""
        is_asked = calling_place() in self._places
        if is_asked and self._in_nodes:
            args = tuple(_other(each) if self.in_node(each) else each for each in args)
        result = super().around_function(call, args)
        if not is_asked:
            return result
        with torch.random.fork_rng():
            others = call(*tree_map(self._changed, args))
        if not isinstance(result, tuple):
            return result if is_in_graph(result) else others
        pairs = zip(result, others, strict=True)
        return tuple(one if is_in_graph(one) else other for one, other in pairs)

    def _changed(self, value: Any) -> Any:  # noqa: ANN401 (any argument)
        counts = isinstance(value, Tensor) and moves(value)
        return _other(value) if counts or self.in_node(value) else value


def _other(value: Any) -> Any:  # noqa: ANN401 (any result)
    """Return a tensor of other numbers; each is moved by a share of its own."""
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return value
    with torch.no_grad():
        shares = torch.linspace(0.5, 1.5, max(value.numel(), 1), device=value.device)
        shares = _SHARE * shares[: value.numel()].reshape(value.shape).to(value.dtype)
        size = value.abs().mean() if value.numel() else 0.0
    return value + shares * (value.detach() + size)


def notices(  # noqa: PLR0913 (a step, and what of it is asked)
    routine: Routine,
    state: State,
    z: Metaparams,
    step: int,
    places: Collection[Place],
    *,
    in_backward: bool,
    in_update: bool,
) -> bool:
    """Say whether a step notices that other numbers are taken out of its graph.

    Args:
        routine: The run.
        state: s_t.
        z: Metaparameters.
        step: t.
        places: Where they are changed.
        in_backward: Whether some of the places are in the backward pass.
        in_update: Whether some may be in the update.

    Cost:
        The losses of the step's batch, twice; its gradients, too, where ``in_backward``; with
        ``in_update`` a plain step, and two updates.
    """
    found: list[list[Tensor]] = []
    rows = {name: row.detach() for name, row in state.items()}
    params = rows["params"].clone().requires_grad_()
    gradient = batch_in_order(routine, rows, params, z, step)[0].detach() if in_update else None
    parts = list(parts_of_step(routine, rows, z, step))
    changed = ChangedCuts(places)
    try:
        for mode in (CutPlaces(), changed):
            with filling(), listening(mode, in_updates=in_update):
                values = list(_of_parts(routine, parts, z, step, with_gradient=in_backward))
                if gradient is not None:
                    values += _updated(routine, rows, gradient, z, step)
                found.append(values)
        limit, least = value_limit(routine), least_size(routine)
        return any(relative(new, old, least) > limit for old, new in zip(*found, strict=True))
    except Exception:  # of code of the user, which goes well where nothing is changed
        return True
    finally:
        changed.put_back()


def _of_parts(
    routine: Routine,
    parts: list[tuple[Term, State]],
    z: Metaparams,
    step: int,
    *,
    with_gradient: bool,
) -> Iterator[Tensor]:
    # All that a product moves has a graph, or what is taken out of it would not be met.
    point = {name: _leaf(value) for name, value in z.items()}
    for part, rows in parts:
        params = _leaf(rows["params"])
        read = {name: _leaf(row) for name, row in rows.items() if name in (BUFFERS, OWN)}
        reading = routine.reading({**rows, **read})
        with torch.enable_grad(), reading, routine.binding.keeping():
            losses = routine.term_losses(params, part, point, step)
            yield losses.detach()
            if with_gradient:
                # A hook on the losses is given their weights, and may take those out.
                weights = torch.ones_like(losses, requires_grad=True)
                slope = gradient_of((weights * losses).sum(), params, create_graph=True)
                assert slope is not None
                yield slope.detach()


def _leaf(row: Tensor) -> Tensor:
    return row.detach().clone().requires_grad_(row.is_floating_point())


def _updated(
    routine: Routine, rows: State, gradient: Tensor, z: Metaparams, step: int
) -> list[Tensor]:
    given = {n: row.clone().requires_grad_() for n, row in rows.items() if n != BUFFERS}
    with torch.enable_grad(), routine.reading(rows), routine.binding.keeping():
        after = routine.update({**rows, **given}, gradient.clone().requires_grad_(), z, step)
        after = after | routine.moved_own({**rows, **given}, after["params"], z, step)
    return [row.detach() for row in after.values()]
