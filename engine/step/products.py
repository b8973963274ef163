"""Products of one step, in two stages: through the update, then through the gradient.

A cotangent with a leading axis of length K is that of K outputs: its rows are pulled through one
graph, one after the other, with the bits that each has by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import UndifferentiableError
from engine.routine.loss_terms import Term
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.optimizer import refuse_other_tensors
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.step.pulls import pull, pull_through_every_node, pulls
from engine.types import Metaparams, State

PARAMS = "params of the model"
"""Key of the parameters among metaparameters; no metaparameter has this name."""


def of_state(name: str) -> str:
    """Return the key of a further vector of the state, whose name a metaparameter may have."""
    return f"{name} of the state"


@dataclass
class Product:
    """What one cotangent has been pulled back to so far.

    Attributes:
        adjoint: lambda_t by name; the update's part of it at first.
        direction: v, the cotangent of the gradient, shape (params,).
        shares: The step's share of the metagradient.
        statistics: Cotangent of the running statistics after the step, if there are any.
    """

    adjoint: State
    direction: Tensor
    shares: Metaparams
    statistics: Tensor | None = None

    def add(self, pulled: Metaparams) -> None:
        """Add what a gradient was pulled back to; consumes ``pulled``."""
        for source, name in ((PARAMS, "params"), *((of_state(n), n) for n in (BUFFERS, OWN))):
            if source in pulled:
                known, found = self.adjoint.get(name), pulled.pop(source)
                self.adjoint[name] = found if known is None else known + found
        for name, tensor in pulled.items():
            known = self.shares.get(name)
            self.shares[name] = tensor if known is None else known + tensor


def entering(routine: Routine, z: Metaparams, step: int) -> Metaparams:
    """Return the metaparameters that ``step`` reads, as leaves of a new graph."""
    return {
        name: z[name].detach().requires_grad_()
        for name, kind in routine.metaparameters.items()
        if kind.enters(step)
    }


def joined(
    products: Sequence[Product], leaves: Metaparams, step: int, *, to_state: bool
) -> tuple[State, Metaparams]:
    """Return adjoint and shares of all cotangents, with a leading axis if there are several.

    Raises:
        UndifferentiableError: If a metaparameter that enters the step has no share.
    """
    missing = sorted(leaves.keys() - products[0].shares.keys())
    if missing:
        raise UndifferentiableError(
            f"Metaparameter {missing[0]!r} enters step {step}, but nothing that the step computes "
            "depends on it, so its metagradient would be zero by mistake. Look for a detach() or "
            "a .data between the metaparameter and the loss."
        )
    adjoint = join([product.adjoint for product in products]) if to_state else {}
    return adjoint, join([product.shares for product in products])


def join(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of one, or those of several with a leading axis."""
    if len(rows) == 1:
        return rows[0]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def split(state: State) -> list[State]:
    """Undo ``join`` of vectors: those with two axes are several."""
    if next(iter(state.values())).ndim == 1:
        return [state]
    count = len(next(iter(state.values())))
    return [{name: rows[i] for name, rows in state.items()} for i in range(count)]


def pull_update(  # noqa: PLR0913 (the parts of a step)
    routine: Routine,
    state: State,
    gradient: Tensor,
    z: Metaparams,
    step: int,
    cotangent: State,
    *,
    used: Tensor | None = None,
    together: bool = False,
) -> list[Product]:
    """Pull cotangents, shaped like the state or K rows of it, through an update; as ``pulls``."""
    inputs = {name: tensor.detach().requires_grad_() for name, tensor in state.items()}
    gradient = gradient.detach().requires_grad_()
    with torch.enable_grad():
        following = routine.update(inputs, gradient, z, step, used)
    refuse_other_tensors(routine.optimizer, state, following, step)
    sources = [*inputs.values(), gradient]
    products, rows = [], split(cotangent)
    found_of = pulls(
        [following[name] for name in state],
        [*sources, *z.values()],
        [[row[name] for name in state] for row in rows],
        together=together,
    )
    given = {**inputs, _GRADIENT: gradient}
    for row, pulled in zip(rows, found_of, strict=True):
        known: list[Tensor] = []
        for (name, source), found in zip(given.items(), pulled, strict=False):
            if found is None:
                _refuse_lost(routine, given, name, z, step, used)
            known.append(torch.zeros_like(source) if found is None else found)
        of_z = zip(z, pulled[len(sources) :], strict=True)
        shares = {name: tensor for name, tensor in of_z if tensor is not None}
        adjoint = dict(zip(inputs, known, strict=False))
        products.append(Product(adjoint, known[-1], shares, row.get(BUFFERS)))
    return products


_GRADIENT = "the gradient"
"""What an update is given besides the state, for people."""


def _refuse_lost(
    routine: Routine,
    given: Mapping[str, Tensor],
    name: str,
    z: Metaparams,
    step: int,
    used: Tensor | None,
) -> None:
    """Refuse an update that reads ``name``, of which autograd found no derivative.

    Without a derivative nothing is lost if the update does not read it, as a first step does with
    a moment that begins at zero.
    """
    if _reads(lambda moved: routine.update(*_parted(moved), z, step, used), given, name):
        raise UndifferentiableError(
            f"The update of optimizer {routine.optimizer.name!r} does not depend on {name!r} at "
            f"step {step}, so the adjoint would lose it. Write the update without detach(), .data, "
            "in-place changes or no_grad()."
        )


def _parted(given: Mapping[str, Tensor]) -> tuple[State, Tensor]:
    """Return the state and the gradient that an update is given, without a graph."""
    rows = {name: tensor.detach() for name, tensor in given.items()}
    return rows, rows.pop(_GRADIENT)


def _reads(
    update: Callable[[Mapping[str, Tensor]], State], given: Mapping[str, Tensor], name: str
) -> bool:
    """Say whether an update changes with one of its inputs, which has no part in its graph.

    A little is asked, and everything turned round: a sign, or a value that is clipped, stays as it
    is where its input moves a little.
    """
    value = given[name]
    with torch.no_grad():
        before = update({**given, name: value})
        for other in (1.01 * value + 0.01, -value - 0.01):
            after = update({**given, name: other})
            if not all(torch.equal(before[row], after[row]) for row in before):
                return True
    return False


def before_hooks(
    routine: Routine, gradient: Tensor, directions: Sequence[Tensor], step: int, shard: int
) -> list[Tensor]:
    """Pull cotangents of a shard's gradient through the hooks, see ``Routine.hooked_term``.

    Args:
        routine: The run.
        gradient: Gradient of a shard, before the hooks, shape (params,).
        directions: Cotangents of what the hooks make of it, each of the same shape.
        step: t.
        shard: Which of the step's.

    Raises:
        UndifferentiableError: If what they make does not depend on it.
    """
    leaf = gradient.detach().requires_grad_()
    with torch.enable_grad():
        hooked = routine.hooked_term(leaf, step, shard)
    if not hooked.requires_grad:
        raise UndifferentiableError(
            "What the hooks of the parameters return does not depend on the gradient that they are "
            "given, so the adjoint would lose it. Write them without detach(), .data or no_grad()."
        )
    found_of = pulls([hooked], [leaf], [[direction] for direction in directions])
    return [found for (found,) in found_of if found is not None]  # there is one path to the leaf


def pull_own(
    routine: Routine,
    state: State,
    following: State,
    z: Metaparams,
    step: int,
    cotangent: State,
) -> tuple[State, list[Metaparams]]:
    """Pull each cotangent through what moves the problem's own state, the last part of a step.

    Args:
        routine: The run.
        state: s_t.
        following: What the optimizer made of it.
        z: Metaparameters that enter the step.
        step: t.
        cotangent: lambda_{t+1}.

    Returns:
        lambda_{t+1} with the share of the parameters after the update in it, and what each row is
        pulled back to besides, by the names that ``Product.add`` takes.
    """
    if routine.own is None:
        return cotangent, []
    before = {n: state[n].detach().requires_grad_() for n in ("params", OWN, BUFFERS) if n in state}
    after = following["params"].detach().requires_grad_()
    with torch.enable_grad(), routine.binding.keeping():
        moved = routine.moved_own(before, after, z, step)[OWN]
        params, others = before.pop("params"), {of_state(n): row for n, row in before.items()}
        sources = {PARAMS: params, **others, **z}
        rows, pulled = split(cotangent), []
        for row in rows:
            by_after, *found = (
                pull([moved], [after, *sources.values()], [row[OWN]], keep=True)
                if moved.requires_grad
                else [None] * (1 + len(sources))
            )
            pairs = zip(sources, found, strict=True)
            share = {name: tensor for name, tensor in pairs if tensor is not None}
            share.setdefault(of_state(OWN), torch.zeros_like(row[OWN]))
            pulled.append(share)
            if by_after is not None:
                row["params"] = row["params"] + by_after
    return join(rows), pulled


def pull_gradient(  # noqa: PLR0913 (a product, and how it is pulled)
    gradient: Tensor,
    inputs: Metaparams,
    products: Sequence[Product],
    step: int,
    moved: State | None = None,
    *,
    together: bool = False,
    every_node: bool = False,
) -> None:
    """Pull each product's direction through a gradient; inputs that it does not read get none.

    Args:
        gradient: Gradient of one term, shape (params,).
        inputs: What shares are wanted of: metaparameters, ``PARAMS`` and running statistics.
        products: Added to.
        step: t.
        moved: The running statistics after the step, if the term moved them.
        together: As in ``pulls``.
        every_node: Whether nodes are run that lead to no input, too, for a single product; see
            ``pull_through_every_node``.
    """
    if not inputs:
        return
    outputs = [gradient, *(moved or {}).values()]
    rows = [[p.direction, *([p.statistics] * (len(outputs) - 1))] for p in products]
    depend = [i for i, output in enumerate(outputs) if output.requires_grad]
    found_of: list[Sequence[Tensor | None]] = [[None] * len(inputs)] * len(products)
    if depend:
        sources = list(inputs.values())
        asked: list[list[Tensor]] = [[row[i] for i in depend] for row in rows]  # pyright: ignore[reportAssignmentType] (statistics that moved have a cotangent)
        given = [outputs[i] for i in depend]
        if every_node:
            found_of = [pull_through_every_node(given, sources, asked[0])]
        else:
            found_of = pulls(given, sources, asked, together=together)
    for product, pulled in zip(products, found_of, strict=True):
        found = {name: t for name, t in zip(inputs, pulled, strict=True) if t is not None}
        if PARAMS in inputs and PARAMS not in found:
            raise UndifferentiableError(
                f"The gradient of the loss at step {step} does not depend on the parameters. "
                "Either the loss is linear in them, or a custom backward is cut out of the graph. "
                "Write it with differentiable operations."
            )
        product.add(found)


@dataclass(frozen=True)
class LossPart:
    """Part of a step's loss that is reversed by itself.

    Attributes:
        term: Examples and weights of the term.
        step: t.
        wanted: The inputs whose shares are wanted: metaparameters, and ``PARAMS``.
    """

    term: Term
    step: int
    wanted: frozenset[str]


PartPull = Callable[[Routine, Tensor, LossPart, Metaparams, Sequence[Product]], Tensor]
"""Maps (routine, params, part, leaves, products) to the part's gradient, and adds to each product
what its direction is pulled back to."""
