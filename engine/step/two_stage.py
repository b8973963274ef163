"""The product of a step in two stages, a few examples at a time, which bounds the memory.

First the adjoint is pulled through the update, which gives the cotangent v of the gradient g; then
v is pulled through the gradient of each micro-batch: a few examples, or a few injected ones. The
product is a sum over them, so that any split gives the same to rounding.

The first stage needs g, which the second computes anyway. So the first stage starts from a guess of
g: none is needed where the update is linear in g (SGD); two neighbouring states give it for Adam,
by the first moments; else g itself is computed, for one plain step more. Every guess is checked.
The second stage computes the true g, from which v is made again, and if the two differ by more than
a few roundings the second stage is repeated with the true v.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jvp

from engine.errors import ConfigurationError, UndifferentiableError
from engine.numerics.summation import tree_sum
from engine.routine.loss_terms import Term
from engine.routine.routine import Routine
from engine.step.gradient import is_active, term_gradient
from engine.step.in_order import check_separable, pull_in_order
from engine.step.micro_batches import refuse_coupled
from engine.step.missing_derivatives import named_refusals
from engine.step.products import (
    PARAMS,
    LossPart,
    PartPull,
    Product,
    before_hooks,
    entering,
    joined,
    pull_gradient,
    pull_update,
)
from engine.step.step import open_step
from engine.types import Metaparams, State

ROUNDINGS = 100
"""Units of rounding by which a direction made from a guess may be off, relative to its norm."""

_SAMPLE = 8  # examples on which a way to pull is compared with the reference
_logger = logging.getLogger(__name__)


class TwoStageVjp:
    """A ``StepVjp`` that goes through a step in micro-batches.

    Args:
        pull: How a micro-batch is pulled back: ``pull_reverse`` or ``pull_forward``.
        micro_batch: Examples in a micro-batch; all at once by default.

    Cost:
        Three plain steps where a guess of the gradient holds, else four; one more where hooks map
        the gradient of each shard. Memory: for ``pull_reverse`` the graph of a micro-batch and of
        its gradient, for ``pull_forward`` the graph and its derivative
        along v, which eager torch keeps as long: measured no smaller. The size of a micro-batch is
        what bounds the memory.
        Measured in ``tests/bench/bench_step.py``.
    """

    def __init__(self, pull: PartPull, micro_batch: int | None = None) -> None:
        self._pull = pull
        self._micro_batch = micro_batch
        self._read: dict[tuple[object, ...], frozenset[str]] = {}
        self._separable: set[object] = set()
        self._is_linear: bool | None = None
        self._warned = False
        self._following: tuple[int, State] | None = None

    def __call__(
        self,
        routine: Routine,
        state: State,
        z: Metaparams,
        step: int,
        cotangent: State,
        *,
        to_state: bool = True,
    ) -> tuple[State, Metaparams]:
        """Pull a cotangent back through one training step; see ``engine.step.reference.step_vjp``.

        Raises:
            ConfigurationError: If the examples of a step cannot be reversed by themselves.
            UndifferentiableError: If an operation lacks the derivative that the mode needs.
        """
        if routine.statistics is not None or routine.own is not None or routine.skip_idle:
            return self._with_statistics(routine, state, z, step, cotangent, to_state)
        leaves, params = entering(routine, z, step), state["params"]
        with named_refusals(step):
            gradient = self._guess(routine, state, leaves, step, cotangent)
            if gradient is None:
                gradient = self._gradient(routine, params, z, step)
            guessed = pull_update(routine, state, gradient, leaves, step, cotangent)
            gradient, parts = self._pull_micro_batches(routine, params, leaves, step, guessed)
            after = self._following
            if self._micro_batch is not None and after is not None and after[0] == step + 1:
                refuse_coupled(routine, (state, after[1]), gradient, z, step, self._micro_batch)
            products = pull_update(routine, state, gradient, leaves, step, cotangent)
            if not all(map(_agree, guessed, products)):
                _logger.debug("Step %d is reversed again with its own gradient.", step)
                _, parts = self._pull_micro_batches(routine, params, leaves, step, products)
        for product, part in zip(products, parts, strict=True):
            product.add({**part.shares, PARAMS: part.adjoint["params"]})
        self._following = (step, state)
        return joined(products, leaves, step, to_state=to_state)

    def _with_statistics(
        self,
        routine: Routine,
        state: State,
        z: Metaparams,
        step: int,
        cotangent: State,
        to_state: bool,
    ) -> tuple[State, Metaparams]:
        """Reverse a step whose running statistics, or own state, the reference alone carries."""
        if self._micro_batch is not None and (routine.own is not None or routine.skip_idle):
            has = "skips what a step leaves out" if routine.skip_idle else "has a state of its own"
            raise ConfigurationError(
                f"micro_batch is {self._micro_batch}, but the run {has}, which a part of a batch "
                "does not tell. Leave micro_batch out."
            )
        if routine.statistics is not None and (self._micro_batch or routine.shards > 1):
            with named_refusals(step):
                return pull_in_order(
                    routine, state, z, step, cotangent, self._cut, to_state=to_state
                )
        if not self._warned:
            self._warned = True
            _logger.warning(
                "Steps are reversed by reverse-over-reverse, because the run keeps %s.",
                "count of what its steps leave out"
                if routine.skip_idle
                else "a state of its own"
                if routine.own is not None
                else "running statistics, or buffers that the forward pass moves",
            )
        return open_step(routine, state, z, step).pull(cotangent, to_state=to_state)

    def _pull_micro_batches(
        self,
        routine: Routine,
        params: Tensor,
        z: Metaparams,
        step: int,
        products: Sequence[Product],
    ) -> tuple[Tensor, list[Product]]:
        """Pull the products' directions through every micro-batch; also return the gradient."""

        def pulled(term: Term) -> tuple[Tensor, list[Product]]:
            active, gradient = is_active(term, z), torch.zeros_like(params)
            directions = [product.direction for product in products]
            if routine.hooks_each_shard:
                before = self._term_gradient(routine, params, term, z, step)
                directions = before_hooks(routine, before, directions, step, term.shard)
            parts = [Product({"params": torch.zeros_like(params)}, each, {}) for each in directions]
            for micro_batch in self._cut(routine, params, term, z, step):
                # At z = 0 an injected term has no second derivative in the parameters.
                read = self._reads(routine, params, micro_batch, z, step)
                wanted = read | ({PARAMS} if active else set())
                found = self._pull(routine, params, LossPart(micro_batch, step, wanted), z, parts)
                gradient = gradient + found if active else gradient
            return routine.hooked_term(gradient, step, term.shard), parts

        total = tree_sum(map(pulled, routine.batch_terms(step)), _added)
        for term in routine.injected_terms(step):
            total = _added(total, pulled(term))
        return total

    def _gradient(self, routine: Routine, params: Tensor, z: Metaparams, step: int) -> Tensor:
        def gradient(term: Term) -> Tensor:
            found = self._term_gradient(routine, params, term, z, step)
            return routine.hooked_term(found, step, term.shard)

        total = tree_sum(map(gradient, routine.batch_terms(step)), torch.add)
        for term in routine.injected_terms(step):
            if is_active(term, z):
                total = total + gradient(term)
        return total

    def _term_gradient(
        self, routine: Routine, params: Tensor, term: Term, z: Metaparams, step: int
    ) -> Tensor:
        """Return the gradient of a term before the parameters' hooks, summed over micro-batches."""
        leaf = params.detach().requires_grad_()
        micro_batches = self._cut(routine, params, term, z, step)
        found = [
            term_gradient(routine, leaf, micro_batch, z, step)[0] for micro_batch in micro_batches
        ]
        return sum(found[1:], start=found[0])

    def _cut(
        self, routine: Routine, params: Tensor, term: Term, z: Metaparams, step: int
    ) -> list[Term]:
        """Return the micro-batches of a term that are reversed by themselves."""
        if self._micro_batch is None or len(term.indices) <= self._micro_batch:
            return [term]
        micro_batches = term.cut(self._micro_batch)
        if term.purpose[0] not in self._separable:
            check_separable(routine, params, term, micro_batches, z, step)
            self._separable.add(term.purpose[0])
        return micro_batches

    def _guess(
        self, routine: Routine, state: State, leaves: Metaparams, step: int, cotangent: State
    ) -> Tensor | None:
        zero = torch.zeros_like(state["params"])
        if self._is_linear is None:
            probes = [
                pull_update(routine, state, gradient, leaves, step, cotangent)
                for gradient in (zero, torch.ones_like(zero))
            ]
            self._is_linear = all(
                torch.equal(a.direction, b.direction) for a, b in zip(*probes, strict=True)
            )
        if self._is_linear:
            return zero
        recover = routine.optimizer.recover
        if recover is None or self._following is None or self._following[0] != step + 1:
            return None
        hyper = routine.hyperparameters(leaves, step)
        return recover(state, self._following[1], hyper).detach()

    def _reads(
        self, routine: Routine, params: Tensor, term: Term, leaves: Metaparams, step: int
    ) -> frozenset[str]:
        """Return the metaparameters that a term reads, found by the reference on a few examples."""
        key = (*leaves, *term.purpose[:2])
        if key not in self._read:
            few = _few(term)
            part = LossPart(few, step, frozenset({*leaves, PARAMS}))
            try:
                self._read[key] = _agreed_shares(routine, params, part, leaves, self._pull)
            except NotImplementedError as error:
                if self._pull is not pull_forward or "forward AD" not in str(error):
                    raise
                _logger.warning(
                    "Forward-over-reverse uses composite formulas, which keep a second graph: %s",
                    str(error).splitlines()[0],
                )
                self._pull = pull_forward_composite
                self._read[key] = _agreed_shares(routine, params, part, leaves, self._pull)
        return self._read[key]


def pull_reverse(
    routine: Routine,
    params: Tensor,
    part: LossPart,
    leaves: Metaparams,
    products: Sequence[Product],
) -> Tensor:
    """Pull directions through the gradient of a part by differentiating its graph."""
    leaf, step = params.detach().requires_grad_(), part.step
    with routine.binding.keeping():
        gradient, _ = term_gradient(routine, leaf, part.term, leaves, step, create_graph=True)
        wanted = {n: tensor for n, tensor in {**leaves, PARAMS: leaf}.items() if n in part.wanted}
        pull_gradient(gradient, wanted, products, step)
    return gradient.detach()


def pull_forward(
    routine: Routine,
    params: Tensor,
    part: LossPart,
    leaves: Metaparams,
    products: Sequence[Product],
) -> Tensor:
    """Pull directions through the gradient of a part by moving the parameters along them.

    With H the Hessian of the part's loss L, H v is d (dL/dparams) along v, since H is symmetric;
    z's share v d2L/dparams dz is d (dL/dz) along v. For weights that is the derivative of each
    example's loss along v.

    References:
        Kemaev et al. 2025, arXiv:2505.00793 (MixFlow-MG).
    """
    leaf, gradient = params.detach().requires_grad_(), torch.zeros_like(params)
    for product in products:
        with torch.enable_grad(), forward_ad.dual_level(), routine.binding.keeping():
            moving = forward_ad.make_dual(leaf, product.direction)
            loss = routine.term_loss(moving, part.term, leaves, part.step)
            sources = {PARAMS: moving, **{n: z for n, z in leaves.items() if n in part.wanted}}
            pulled = torch.autograd.grad(loss, list(sources.values()), allow_unused=True)
            duals = {
                name: forward_ad.unpack_dual(row)
                for name, row in zip(sources, pulled, strict=True)
                if row is not None
            }
        gradient = duals[PARAMS].primal.detach()
        for name in duals.keys() & part.wanted:
            primal, tangent = duals[name]
            moved = torch.zeros_like(primal) if tangent is None else tangent
            product.add({name: moved.detach()})
    return gradient


def pull_forward_composite(
    routine: Routine,
    params: Tensor,
    part: LossPart,
    leaves: Metaparams,
    products: Sequence[Product],
) -> Tensor:
    """Do what ``pull_forward`` does, by the backward formulas that torch can differentiate.

    Some backward kernels, such as that of group normalization, have no forward derivative.
    ``torch.func.grad`` uses composite formulas in their place, and keeps the graph of them.
    """
    constant = {name: leaf.detach() for name, leaf in leaves.items()}
    read = {name: z for name, z in constant.items() if name in part.wanted}

    def loss(params: Tensor, read: Metaparams) -> Tensor:
        return routine.term_loss(params, part.term, {**constant, **read}, part.step)

    def gradients(params: Tensor) -> tuple[Tensor, Metaparams]:
        return grad(loss, argnums=(0, 1))(params, read)

    params = params.detach()
    gradient = torch.zeros_like(params)
    for product in products:
        with routine.binding.keeping():
            (gradient, _), (curved, shares), *_ = jvp(gradients, (params,), (product.direction,))
        product.add({**shares, **({PARAMS: curved} if PARAMS in part.wanted else {})})
    return gradient.detach()


def _added(
    one: tuple[Tensor, list[Product]], other: tuple[Tensor, list[Product]]
) -> tuple[Tensor, list[Product]]:
    """Add what two terms were pulled back to; uses up both."""
    for product, part in zip(one[1], other[1], strict=True):
        product.add({**part.shares, PARAMS: part.adjoint["params"]})
    return one[0] + other[0], one[1]


def _agree(guessed: Product, found: Product) -> bool:
    difference = (guessed.direction - found.direction).norm()
    limit = ROUNDINGS * torch.finfo(difference.dtype).eps * found.direction.norm()
    return bool(difference <= limit)


def _few(term: Term) -> Term:
    """Return a term over few of its examples, which join few others."""
    few = term if len(term.indices) <= _SAMPLE else term.cut(_SAMPLE)[0]
    return few if few.context is None else replace(few, context=_few(few.context))


def _agreed_shares(
    routine: Routine, params: Tensor, part: LossPart, leaves: Metaparams, pull: PartPull
) -> frozenset[str]:
    """Return the metaparameters that a part reads; refuse a pull that is not the reference's."""
    drawn = torch.randn(params.shape, generator=torch.Generator().manual_seed(0))
    direction = drawn.to(params)
    products = []
    for way in (pull_reverse, pull):
        product = Product({"params": torch.zeros_like(params)}, direction, {})
        way(routine, params, part, leaves, [product])
        products.append({**product.shares, **product.adjoint})
    expected, found = products
    for name, tensor in expected.items():
        error = float((found[name] - tensor).norm())
        if error > torch.finfo(tensor.dtype).eps ** 0.5 * float(tensor.norm()):
            raise UndifferentiableError(
                f"Forward-over-reverse of step {part.step} differs from reverse-over-reverse by "
                f"{error:.1e} in {name!r}, of norm {float(tensor.norm()):.1e}. An operation of "
                "the model or the loss has a wrong forward derivative, or noise that is not drawn "
                "from torch's generators. Use vjp=reverse-over-reverse."
            )
    return frozenset(expected.keys() & leaves.keys())
