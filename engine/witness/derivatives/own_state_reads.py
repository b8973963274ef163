"""Compares how the gradient of a step follows the state that a problem keeps for itself.

A teacher, a target network or a queue of keys is read under ``no_grad()`` in nearly every script
that has one. The gradient of a step is right then, and so is its derivative by the parameters; that
by the state, through which earlier steps act on this one, is lost.
"""

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from engine.errors import WitnessError
from engine.numerics.determinism import generator
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.step.pulls import gradient_of
from engine.types import Metaparams, State
from engine.witness.finite_differences import Function, compare_first, directions, not_settled
from engine.witness.lines import cuts, first_line
from engine.witness.twins import exact, exact_few, exact_state

_SHARE = 0.01
"""Of the numbers of a state, by which they are moved to see what moves with them."""


def refuse_cut_own_state(routine: Routine, state: State, z: Metaparams, step: int) -> str:
    """Refuse a loss that takes out of the graph what it reads from the problem's own state.

    What follows nothing but the number of the step, such as a ramp, has no derivative to lose, and
    may be read in any way.

    Args:
        routine: The run; nothing is done if it has no state of its own.
        state: Where.
        z: Metaparameters.
        step: t.

    Returns:
        What was not compared, and why; mostly empty.

    Raises:
        WitnessError: Names the lines that cut.

    Cost:
        A few calls of ``advance``; a gradient of a batch in float64 with its graph, its derivative,
        and a gradient more; four more where that does not agree.
    """
    if routine.own is None:
        return ""
    followers = _followers(routine, state, z, step)
    said = _refuse_cut(routine, state, z, step, followers) if followers else None
    if said is not None:
        return said
    alone = _by_step_alone(routine, state, z, step)
    followers = [name for name in followers if name not in alone]
    if not followers:
        return ""
    return _refuse_cut(routine, state, z, step, followers, is_known=True) or ""


def _refuse_cut(
    routine: Routine,
    state: State,
    z: Metaparams,
    step: int,
    followers: Sequence[str],
    *,
    is_known: bool = False,
) -> str | None:
    """Compare, and say what was not; None where it is wrong and not known whether all follow."""
    names = ", ".join(f"state{name}" for name in followers[:3])
    what = f"How the gradient of the loss follows {names}"
    try:
        twin, function = _slope(routine, state, z, step, followers)
        own = exact(state[OWN])
        with twin.binding.keeping():
            found = compare_first(function, [own])
    except Exception as error:  # e.g. a loss that insists on float32
        return f"{what} was not compared: {first_line(error)}"
    if not found.is_wrong:
        return not_settled(what, found)
    if not is_known:
        return None
    lines: list[str] = []
    with suppress(Exception), twin.binding.keeping():  # which would hide what is wrong
        lines = cuts(lambda: function([own.requires_grad_()]))
    where = f" by {', '.join(lines)}" if lines else " by an item(), a float() or a numpy()"
    raise WitnessError(
        f"The loss reads {names}, which move with the parameters of earlier steps, but what it "
        f"computes from them is taken out of the graph{where}, so their derivative would be lost. "
        "Leave no_grad() and detach() out there: the gradient of a step stops at the state anyway. "
        "Around what holds the parameters of the step, too, write engine.stop_gradient(x)."
    )


def _followers(routine: Routine, state: State, z: Metaparams, step: int) -> list[str]:
    """Return the parts of the state that follow parameters or metaparameters.

    Those that ``advance`` moves with them in this step, or with other such parts; and of more than
    one number, those that earlier steps have moved: a target that is copied now and then is moved
    in few of them. A ramp of several numbers is among them, until ``_by_step_alone`` is asked.
    """
    assert routine.own is not None
    layout = routine.own.layout
    first = routine.initial_state(z)[OWN]
    found = {
        name
        for name, number in zip(layout.shapes, _differs(routine, first, state[OWN]), strict=True)
        if number and layout.shapes[name] not in ((), (1,))
    }
    if any(kind.shapes_start for kind in routine.metaparameters.values()):
        start = routine.initial_state(_moved_z(z))[OWN]
        found |= _names(routine, first, start)
    rows = {name: row.detach() for name, row in state.items()}
    params, known = rows["params"], -1
    with torch.no_grad():
        still = routine.moved_own(rows, params, z, step)[OWN]
        other = {**rows, "params": _moved(params)}
        while len(found) > known:
            known = len(found)
            views = layout.views(rows[OWN])
            moved = {n: _moved(view) if n in found else view for n, view in views.items()}
            given = {**other, OWN: layout.flatten(moved)}
            after = routine.moved_own(given, given["params"], _moved_z(z), step)[OWN]
            found |= _names(routine, still, after)
    return [name for name in layout.shapes if name in found]


def _by_step_alone(routine: Routine, state: State, z: Metaparams, step: int) -> set[str]:
    """Return the parts of the state that are the same bits with other parameters and values.

    Cost:
        ``advance`` of all earlier steps, twice; only where something is about to be refused.
    """
    assert routine.own is not None
    rows = {name: row.detach() for name, row in state.items()}
    others: set[str] = set()
    try:
        for params, at_z in ((rows["params"], z), (_moved(rows["params"]), _moved_z(z))):
            own = routine.initial_state(at_z)[OWN]
            for at in range(step):
                with torch.no_grad():
                    given = {**rows, "params": params, OWN: own}
                    own = routine.moved_own(given, params, at_z, at)[OWN]
            others |= _names(routine, own, state[OWN])
    except Exception:  # of code of the user, which goes well with the run's own parameters
        return set()
    return {*routine.own.layout.shapes} - others


def _differs(routine: Routine, one: Tensor, other: Tensor) -> list[bool]:
    assert routine.own is not None
    pairs = zip(
        one.split(routine.own.layout.sizes), other.split(routine.own.layout.sizes), strict=True
    )
    return [not torch.equal(a, b) for a, b in pairs]


def _names(routine: Routine, one: Tensor, other: Tensor) -> set[str]:
    assert routine.own is not None
    pairs = zip(routine.own.layout.shapes, _differs(routine, one, other), strict=True)
    return {name for name, differs in pairs if differs}


def _moved(values: Tensor) -> Tensor:
    return values + _SHARE * (values.abs() + values.abs().mean())


def _moved_z(z: Metaparams) -> Metaparams:
    return {
        name: value.detach() * (1 + _SHARE) if value.is_floating_point() else value
        for name, value in z.items()
    }


def _slope(
    routine: Routine, state: State, z: Metaparams, step: int, followers: Sequence[str]
) -> tuple[Routine, Function]:
    """Return a product of the gradient as a function of the state, and the run that computes it."""
    twin, read = exact_few(routine), exact_state(state)
    assert twin.own is not None
    layout, kept = twin.own.layout, read[OWN].detach().clone()
    term = twin.first_piece(next(twin.terms(step)))  # whole: the state may have a row for each
    point = {name: exact(value) for name, value in z.items()}
    weights = directions(read["params"], generator(0, "own state"))

    def slope(leaves: Sequence[Tensor]) -> Tensor:
        views, still = layout.views(leaves[0]), layout.views(kept)
        given = {name: views[name] if name in followers else still[name] for name in views}
        with torch.enable_grad(), twin.reading({**read, OWN: layout.flatten(given)}):
            params = read["params"].detach().requires_grad_()
            loss = twin.term_loss(params, term, point, step)
            gradient = gradient_of(loss, params, create_graph=True)
        assert gradient is not None
        return gradient @ weights

    return twin, slope
