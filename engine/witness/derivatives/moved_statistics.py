"""Compares derivatives of running statistics, and of other buffers, with finite differences.

A call of the model without a graph (pseudo-labels under ``no_grad()``, a detached input) moves the
statistics of its batch normalizations as any other does, by numbers that move with the parameters.
No loss shows that, and no gradient. Of buffers that a module moves by rules of its own the way into
the gradient is compared, too: it may read one as a number of Python's.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from engine.errors import WitnessError
from engine.numerics.determinism import generator
from engine.routine.loss_terms import Term
from engine.routine.module.buffers.batch_norm import BUFFERS, RunningStatistics
from engine.routine.module.buffers.calls import follows_now
from engine.routine.routine import Routine
from engine.types import Metaparams, State
from engine.witness.finite_differences import (
    Curvature,
    Function,
    compare_first,
    directions,
    not_settled,
)
from engine.witness.lines import cuts, first_line
from engine.witness.twins import exact, exact_few, exact_state

_FEW = 32
"""Examples of a step that are looked at."""


def refuse_cut_statistics(routine: Routine, state: State, z: Metaparams, step: int) -> str:
    """Refuse a step that moves running statistics by what is cut out of the graph.

    Args:
        routine: The run; nothing is done if it has none.
        state: Where.
        z: Metaparameters.
        step: t.

    Returns:
        What was not compared, and why; mostly empty.

    Raises:
        WitnessError: Names the lines that cut.

    Cost:
        The loss of at most 32 examples in float64 with its graph, and once without; some more
        where that does not agree. Two losses more where a real number counts. Where the module
        moves buffers by rules of its own, a gradient of them, its derivative, and a gradient more.
    """
    if routine.statistics is None:
        return ""
    carried, notes = routine.statistics.carried, list[str]()
    if any(value.is_floating_point() for value in carried.clocks.values()):
        _refuse_followed(routine, state, z, step)
    if routine.statistics.layers or carried.quantities:
        notes.append(_refuse_cut_moves(routine, state, z, step))
    if carried.quantities:
        notes.append(_refuse_cut_reads(routine, state, z, step))
    return " ".join(filter(None, notes))


def _statistics(routine: Routine) -> RunningStatistics:
    """Return the statistics of a run that has some, as all below here have."""
    assert routine.statistics is not None
    return routine.statistics


def _refuse_followed(routine: Routine, state: State, z: Metaparams, step: int) -> None:
    """Refuse a real number that counts, and follows the parameters now."""
    statistics = _statistics(routine)
    term, ends = _term(routine, step), list[dict[str, Tensor]]()
    for scale in (1.0, 1.05):
        params = (scale * state["params"].detach()).requires_grad_()  # a loss may differentiate
        with torch.enable_grad(), routine.reading(state) as calls, routine.binding.keeping():
            routine.term_losses(params, term, z, step)
        ends.append({n: end.detach().clone() for n, end in calls.left.items()})
    for name, value in statistics.carried.clocks.items():
        if value.is_floating_point() and not torch.equal(ends[0][name], ends[1][name]):
            raise WitnessError(follows_now(name))


def _refuse_cut_moves(routine: Routine, state: State, z: Metaparams, step: int) -> str:
    what = "The derivative of running statistics"
    if _statistics(routine).carried.all:
        what = f"The derivative of {_subject(routine)}"
    try:
        found, function, leaves = _compared(routine, state, z, step, _moved, ["params", BUFFERS])
    except Exception as error:  # e.g. a loss that insists on float32
        return f"{what} was not compared: {first_line(error)}"
    if not found.is_wrong:
        return not_settled(what, found)
    raise WitnessError(
        f"{_subject(routine).capitalize()} are moved by numbers that move with the parameters and "
        f"are taken out of the graph{_lines(function, leaves)}, so their derivative would be lost. "
        f"{_cure(routine)}"
    )


def _refuse_cut_reads(routine: Routine, state: State, z: Metaparams, step: int) -> str:
    """Refuse a step whose gradient reads a buffer by what has no derivative."""
    what = f"How the gradient follows {_subject(routine)}"
    try:
        found, function, leaves = _compared(routine, state, z, step, _slope, [BUFFERS])
    except Exception as error:  # e.g. a loss that insists on float32
        return f"{what} was not compared: {first_line(error)}"
    if not found.is_wrong:
        return not_settled(what, found)
    raise WitnessError(
        f"The loss reads {_subject(routine)}, but what it computes from them is taken out of the "
        f"graph{_lines(function, leaves)}, so their derivative would be lost. {_cure(routine)}"
    )


def _compared(
    routine: Routine,
    state: State,
    z: Metaparams,
    step: int,
    made: Callable[[Routine, State, Metaparams, int], Function],
    names: Sequence[str],
) -> tuple[Curvature, Function, list[Tensor]]:
    """Compare a first derivative of a step in float64, on a few examples, by rows of its state."""
    twin, read = exact_few(routine), exact_state(state)
    function = made(twin, read, {name: exact(value) for name, value in z.items()}, step)
    function, leaves = _symmetric(twin, function, read[BUFFERS]), [read[name] for name in names]
    with twin.binding.keeping():
        return compare_first(function, leaves), function, leaves


def _symmetric(routine: Routine, function: Function, buffers: Tensor) -> Function:
    """Return a function whose last leaf, the buffers, keeps symmetric matrices symmetric.

    No run moves a covariance in another way, and what is made of one may read half of it.
    """
    layout = _statistics(routine).layout
    names = {
        name
        for name, view in layout.views(buffers).items()
        if view.ndim > 1 and view.shape[-1] == view.shape[-2] and torch.allclose(view, view.mT)
    }
    if not names:
        return function

    def symmetric(leaves: Sequence[Tensor]) -> Tensor:
        views = layout.views(leaves[-1]).items()
        parts = [(v + v.mT) / 2 if name in names else v for name, v in views]
        joined = torch.cat([part.flatten() for part in parts])
        return function([*leaves[:-1], joined])

    return symmetric


def _subject(routine: Routine) -> str:
    names = list(_statistics(routine).carried.quantities)
    if not names:
        return "the running statistics of batch normalizations"
    return f"the buffers {', '.join(map(repr, names[:3]))} that the forward pass moves"


def _cure(routine: Routine) -> str:
    if _statistics(routine).carried.quantities:
        return (
            "Compute what is written into them, and what is made of them, by operations of torch: "
            "no item(), float(), numpy() or tolist(); detach() and no_grad() may stay."
        )
    return (
        "Write engine.stop_gradient(x) in place of x.detach(), and engine.stop_gradient(model(x)) "
        "in place of a call under no_grad(); or put the model into evaluation mode for that call."
    )


def _lines(function: Function, leaves: Sequence[Tensor]) -> str:
    lines: list[str] = []
    with suppress(Exception):  # which would hide what is wrong
        rows = [row.requires_grad_() for row in leaves]
        lines = cuts(lambda: function(rows))
    return f" by {', '.join(lines)}" if lines else " by an item(), a float() or a numpy()"


def _term(twin: Routine, step: int) -> Term:
    term = twin.first_piece(next(twin.terms(step)))
    return term.at(term.indices[:_FEW])


def _slope(twin: Routine, read: State, z: Metaparams, step: int) -> Function:
    term = _term(twin, step)
    real, kept = _statistics(twin).real, read[BUFFERS]
    weights = directions(read["params"], generator(0, "statistics"))

    def function(leaves: Sequence[Tensor]) -> Tensor:
        buffers = torch.cat([leaves[0][:real], kept[real:]])  # what counts has no derivative
        with torch.enable_grad(), twin.reading({**read, BUFFERS: buffers}):
            params = read["params"].detach().requires_grad_()
            loss = twin.term_loss(params, term, z, step)
            (slope,) = torch.autograd.grad(loss, params, create_graph=True)
        return slope @ weights

    return function


def _moved(twin: Routine, read: State, z: Metaparams, step: int) -> Function:
    term = _term(twin, step)
    real, kept = _statistics(twin).real, read[BUFFERS]
    weights = directions(kept, generator(0, "statistics"))[:real]

    def function(leaves: Sequence[Tensor]) -> Tensor:
        params, buffers = leaves
        given = {**read, BUFFERS: torch.cat([buffers[:real], kept[real:]])}
        with torch.enable_grad(), twin.reading(given) as calls:
            leaf = params if params.requires_grad else params.clone().requires_grad_()
            twin.term_losses(leaf, term, z, step)
            return twin.moved_buffers(given, calls, step)[BUFFERS][:real] @ weights

    return function
