"""Embed a coupled batch piece by piece: memory grows with the piece and the embeddings.

The examples of a coupled loss meet in their embeddings E only: L(theta, z) = f(E(theta), theta, z).
So the gradient is f_theta + sum over pieces of J_p^T f_E, where each piece is embedded twice, once
to know E and once with its graph.

Its product with a direction v is the derivative of D = <f_E, J v> + <f_theta, v>. With E, E' = J v
and theta as independent variables, D is small and gives u' = dD/dE, u = dD/dE' and the shares of z;
what is left is the sum over pieces of the derivative of <u', E_p> + <J_p^T u, v>: reverse over
reverse of a piece. An injected term at z = 0 needs u' only, that is, forward mode.

References:
    Gao et al. 2021, arXiv:2101.06983 (gradient caching); the product is the same idea once more.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map

from engine.errors import UndifferentiableError
from engine.numerics.determinism import seeded
from engine.routine.coupled_loss import CoupledLoss, coupled
from engine.routine.loss_terms import Term
from engine.routine.routine import Routine
from engine.step.products import PARAMS, LossPart, Product
from engine.types import Batch, Metaparams


@dataclass(frozen=True)
class _Cut:
    """A term whose examples, and those that they join, are embedded a few at a time."""

    routine: Routine
    loss: CoupledLoss
    term: Term
    step: int
    batches: list[Batch]
    sizes: list[int]

    @classmethod
    def of(cls, routine: Routine, term: Term, z: Metaparams, step: int) -> "_Cut":
        loss = coupled(routine.loss)
        assert loss is not None  # a routine with pieces has one
        terms = [term] if term.context is None else [term.context, term]
        constant = {name: value.detach() for name, value in z.items()}
        batches = [routine.loss_inputs(each, constant, step)[0] for each in terms]
        return cls(routine, loss, term, step, batches, [len(each.indices) for each in terms])

    def pieces(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield functions of the parameters that embed one piece, in order."""
        assert self.routine.piece is not None
        for number, (batch, size) in enumerate(zip(self.batches, self.sizes, strict=True)):
            for start in range(0, size, self.routine.piece):
                rows = slice(start, min(start + self.routine.piece, size))
                few = tree_map(lambda leaf, rows=rows: leaf[rows], batch)
                yield partial(self._embed, few, (*self.term.purpose, "piece", number, start))

    def _embed(self, few: Batch, purpose: tuple[str | int, ...], params: Tensor) -> Tensor:
        device = self.routine.device
        with seeded(self.routine.seed, "step", self.step, *purpose, device=device):
            return self.routine.call(
                lambda model: self.loss.embed(model, few), params, training=True
            )

    def coupled(self, embeddings: Tensor, params: Tensor, z: Metaparams) -> Tensor:
        """Return f: the scalar of the term, given all embeddings."""
        weights, loss, term = self.term.weights(z), self.loss, self.term

        def losses(model: nn.Module) -> Tensor:
            if term.context is None:
                return loss.couple(model, embeddings, weights)
            around, joining = embeddings.split(self.sizes)
            return loss.join(model, around, joining, term.context.weights(z))

        found = self.routine.call(losses, params, training=True)
        return (found if weights is None else weights * found).sum() / self.routine.batch_size


def gradient_in_pieces(
    routine: Routine, params: Tensor, term: Term, z: Metaparams, step: int
) -> tuple[Tensor, Tensor]:
    """Return the gradient of a term at ``params``, shape (params,), and its loss, without a graph.

    Cost:
        As at once, and one forward pass more.
    """
    cut = _Cut.of(routine, term, z, step)
    leaf = params.detach().requires_grad_()
    with torch.no_grad():
        known = torch.cat([embed(leaf) for embed in cut.pieces()])
    constant = {name: value.detach() for name, value in z.items()}
    with torch.enable_grad(), routine.binding.keeping():
        inputs = known.requires_grad_()
        loss = cut.coupled(inputs, leaf, constant)
        by_embedding, gradient = _by_embeddings(loss, inputs, leaf)
        start = 0
        for embed in cut.pieces():
            found = embed(leaf)
            cotangent = by_embedding[start : start + len(found)]
            start += len(found)
            gradient = gradient + torch.autograd.grad(found, leaf, cotangent)[0]
    return gradient, loss.detach()


def pull_in_pieces(
    routine: Routine,
    params: Tensor,
    part: LossPart,
    leaves: Metaparams,
    products: Sequence[Product],
) -> Tensor:
    """Pull directions through the gradient of a term, piece by piece; see ``PartPull``."""
    term, step, wanted = part.term, part.step, part.wanted
    cut, gradient = _Cut.of(routine, term, leaves, step), torch.zeros_like(params)
    if PARAMS in wanted:  # else the term has no weight, and nobody asks for its gradient
        gradient, _ = gradient_in_pieces(routine, params, term, leaves, step)
    leaf = params.detach().requires_grad_()
    for product in products:
        known, moving = _embeddings(cut, params, product.direction)
        z = {name: value.detach().requires_grad_() for name, value in leaves.items()}
        with torch.enable_grad(), routine.binding.keeping():
            inputs = known.requires_grad_()
            loss = cut.coupled(inputs, leaf, z)
            by_embedding, by_params = _by_embeddings(loss, inputs, leaf, create_graph=True)
            derivative = (by_embedding * moving).sum() + (by_params * product.direction).sum()
            names = [name for name in z if name in wanted]
            second, curved, *shares = _grad(derivative, [inputs, leaf, *(z[n] for n in names)])
        if PARAMS in wanted:
            curved = curved + _pull_embeddings(
                cut, params, product.direction, second, by_embedding.detach()
            )
            product.add({PARAMS: curved})
        product.add(dict(zip(names, shares, strict=True)))
    return gradient


def _embeddings(cut: _Cut, params: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Return E and its derivative along a direction of the parameters."""
    found = []
    with torch.no_grad(), forward_ad.dual_level():
        moving = forward_ad.make_dual(params.detach(), direction)
        for embed in cut.pieces():
            primal, tangent = forward_ad.unpack_dual(embed(moving))
            if tangent is None:
                raise UndifferentiableError(
                    "The embeddings of a coupled loss do not depend on the model's parameters. "
                    "Look for a detach() or a no_grad() in embed()."
                )
            found.append((primal, tangent))
        return torch.cat([e for e, _ in found]).clone(), torch.cat([t for _, t in found]).clone()


def _pull_embeddings(
    cut: _Cut, params: Tensor, direction: Tensor, by_primal: Tensor, by_tangent: Tensor
) -> Tensor:
    """Return the derivative of <by_primal, E> + <by_tangent, E'> by the parameters."""
    total, start = torch.zeros_like(params), 0
    for embed in cut.pieces():
        leaf = params.detach().requires_grad_()
        with torch.enable_grad(), cut.routine.binding.keeping():
            found = embed(leaf)
            rows = slice(start, start + len(found))
            start += len(found)
            # <by_tangent, J v> is <J^T by_tangent, v>, which takes no forward mode.
            (pulled,) = torch.autograd.grad(found, leaf, by_tangent[rows], create_graph=True)
            both = (pulled * direction).sum() + (by_primal[rows] * found).sum()
            total = total + torch.autograd.grad(both, leaf)[0]
    return total


def _grad(
    output: Tensor, inputs: Sequence[Tensor], *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Return gradients; zeros for what f does not read by itself, as most parameters."""
    return torch.autograd.grad(
        output, list(inputs), create_graph=create_graph, materialize_grads=True, allow_unused=True
    )


def _by_embeddings(
    loss: Tensor, embeddings: Tensor, params: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the gradients of f by the embeddings, which it has to read, and by the parameters."""
    (by_embedding,) = torch.autograd.grad(
        loss, embeddings, create_graph=create_graph, retain_graph=True, allow_unused=True
    )
    if by_embedding is None:
        raise UndifferentiableError(
            "A coupled loss does not depend on its embeddings. Look for a detach() or a no_grad() "
            "in couple() or join()."
        )
    (by_params,) = _grad(loss, [params], create_graph=create_graph)
    return by_embedding, by_params
