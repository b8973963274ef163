"""A training routine as a pure function of (state, metaparameters, step).

A routine is data: a model, per-example losses, examples, an optimizer, T. The batch of step t is a
function of t alone, dropout and augmentation draw from generators seeded by (seed, t), and z enters
only through the routine's named metaparameters. Same inputs, same bits.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ConfigurationError, naming_fields
from engine.metaparameters.base import Metaparameter
from engine.numerics.determinism import PROCESS, generator, seeded
from engine.recipes.replay import StepPath
from engine.routine.batch_order import GivenOrder, run_order
from engine.routine.coupled_loss import CoupledLoss, coupled
from engine.routine.examples import rows_of
from engine.routine.heard_updates import hear_update
from engine.routine.idle import SKIPPED, update_used
from engine.routine.in_a_line import as_table, in_a_line
from engine.routine.intake import take_in
from engine.routine.loss_terms import Term, one_each
from engine.routine.module.buffers.batch_norm import BUFFERS, without_buffers
from engine.routine.module.held_module import HeldModule, Params
from engine.routine.module.modules import Called, of_one_process
from engine.routine.optimizer import Optimizer
from engine.routine.own_state import OWN, takes
from engine.routine.validate import (
    refuse_bad_examples,
    refuse_idle_metaparameters,
    refuse_misfits,
    refuse_parted_buffers,
)
from engine.torch_modes import as_listened_to, users_code
from engine.types import Batch, Hyperparameters, Loss, Metaparams, State

INJECTION_CHUNK = 1000
"""Examples whose losses are injected at a time; bounds the memory of step k."""


@naming_fields
@dataclass(frozen=True, eq=False, repr=False)
class Routine(HeldModule):
    """A training run of T steps, differentiable with respect to its metaparameters.

    Attributes:
        model: Any module. It is copied, and its parameters are the initial state; those with
            ``requires_grad=False`` stay constant. Hooks on parameters map their gradients in every
            step; layers in evaluation mode inside of a module that trains stay frozen.
        loss: Maps (model, batch) to per-example losses, shape (batch,). It gets the module itself,
            in training mode, with the parameters of the step in it; and keyword arguments from
            metaparameters that enter there, such as ``label_smoothing``. A loss that compares the
            examples of a batch with each other is an ``engine.routine.coupled_loss.CoupledLoss``.
        examples: A tuple of tensors with one row for each example, or any object with ``len`` that
            returns a batch for a tensor of indices.
        optimizer: One of ``engine.routine.optimizers``, or your own ``Optimizer``.
        learning_rate: One number, or one for each step.
        num_steps: T.
        batch_size: B, examples a step.
        seed: Seeds order, dropout and augmentation.
        metaparameters: z by name.
        augment: Optional; maps (batch, generator) to a batch, drawing from the generator only.
        compile: Compile the gradient of a batch, in both sweeps; its last digits differ from the
            eager one's.
        path: Which kernels define the run's states, see ``engine.recipes.replay.StepPath``.
        piece: Examples of a coupled loss that are embedded at a time, in both sweeps; all by
            default. It bounds the memory. Sums run in another order, so the last digits change.
        shards: Pieces of a batch whose gradients are made one after the other, and summed in one
            binary tree that depends on their number alone, in both sweeps. It bounds the memory,
            and the last digits differ from the whole batch's. As in torch's own loop the model
            draws for each shard and normalizes each by itself, hooks of the parameters map the
            gradient of each, and buffers that the forward pass moves go from one to the next.
        order: Which examples each step draws, as ``engine.routine.batch_order.given_order`` takes
            it; epochs in an order drawn from the seed by default.
        skip_idle: Whether a step leaves parameters that its loss leaves out as they are, as torch's
            optimizers do with those whose gradient is None: experts that a router gives nothing,
            layers that are dropped. The state then counts the steps that each tensor skipped, for
            Adam's bias. False: their gradient is zero, so decay and moments go on. By default
            ``engine.train``, ``metagradient`` and ``check`` do as with True where it matters, and a
            flow refuses.
        state: Where a state of the problem's own starts: tensors (or dicts of them) by name, or
            functions that make one of the parameters by name. The loss, and an output, that has an
            argument ``state`` is given it.
        advance: Maps (state, params, batch, step) to that state after the step: the one that the
            step read, the parameters after the update by name, the step's batch, t. If it has an
            argument ``model``, it is given the module as the loss saw it, with the parameters
            before the update and the same random draws. Must be pure and differentiable.
        programs: What was compiled and measured for the step, shared by all values of z.

    Raises:
        ConfigurationError: If the parts do not fit together.
    """

    model: nn.Module
    loss: Loss
    examples: Any
    optimizer: Optimizer
    learning_rate: float | Sequence[float]
    num_steps: int
    batch_size: int
    seed: int = 0
    metaparameters: dict[str, Metaparameter] = field(default_factory=dict)
    augment: Callable[[Batch, torch.Generator], Batch] | None = None
    compile: bool = False
    path: StepPath = StepPath.PLAIN
    piece: int | None = None
    shards: int = 1
    skip_idle: bool | None = None
    order: Any = None
    state: Any = None
    advance: Callable[..., Any] | None = None
    programs: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    _bound: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _own: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _given: "weakref.ref[nn.Module] | None" = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        with PROCESS:  # in another thread's step the module holds the numbers of that step
            given = of_one_process(self.model)
            object.__setattr__(self, "model", given)
            take_in(self)
            object.__setattr__(self, "_given", weakref.ref(given))
            refuse_misfits(self)
            object.__setattr__(self, "order", run_order(self))
            _ = self.hooks, self.modes, self.binding, self.trainable  # as it was handed in
            refuse_bad_examples(self.examples)
            refuse_parted_buffers(self)
            refuse_idle_metaparameters(self)

    def __repr__(self) -> str:
        return in_a_line(self)

    _repr_html_ = as_table

    def with_metaparameters(self, values: Metaparams) -> "Routine":
        """Return the same routine with other values for its metaparameters.

        Raises:
            ConfigurationError: If a name is not one of the routine's.
        """
        unknown = sorted(values.keys() - self.metaparameters.keys())
        if unknown:
            known = ", ".join(map(repr, self.metaparameters))
            raise ConfigurationError(
                f"There is no metaparameter {unknown[0]!r} to set. The routine has {known}."
            )
        kinds = {
            name: kind.with_value(values[name]) if name in values else kind
            for name, kind in self.metaparameters.items()
        }
        moved = replace(self, metaparameters=kinds)
        object.__setattr__(moved, "programs", self.programs)
        object.__setattr__(moved, "_given", self._given)
        return moved

    @property
    def metaparameter(self) -> Metaparameter:
        """The metaparameter of a run that has one only, as one that a descent moves."""
        (kind,) = self.metaparameters.values()
        return kind

    def at(self, value: Tensor) -> "Routine":
        """Return the run at another value of its one metaparameter, which may be flat."""
        ((name, kind),) = self.metaparameters.items()
        return self.with_metaparameters({name: value.reshape(kind.value.shape)})

    def order_of(self, steps: Sequence[int], batch_size: int) -> Any:  # noqa: ANN401 (as ``order``)
        """Return the order of a run of some of the steps, if one was given; else None."""
        return self.order.of_steps(steps, batch_size) if type(self.order) is GivenOrder else None

    def __len__(self) -> int:
        """Return n, the number of training candidates."""
        return len(self.examples[0] if isinstance(self.examples, tuple) else self.examples)

    def initial_state(self, z: Metaparams | None = None) -> State:
        """Return s_0: parameters, moments, running statistics if any; what it draws is seeded.

        Args:
            z: Metaparameters, of which s_0 may depend on some; the routine's own by default.
        """
        with PROCESS:  # a witness in another thread may hold other numbers in the module
            params, point = self.layout.flatten(self.trainable), self.point() if z is None else z
            for name, kind in self.metaparameters.items():
                params = kind.initial(point[name], params)
            with seeded(self.seed, "start", device=self.device):
                state = {"params": params, **self.optimizer.init(params)}
                if self.own is not None:
                    state[OWN] = self.own.initial(self.layout.views(params))
            if self.skip_idle:
                state[SKIPPED] = params.new_zeros(len(self.layout.shapes))
            return state | ({} if self.statistics is None else {BUFFERS: self.statistics.initial()})

    def point(self) -> Metaparams:
        """Return z where the metagradient is taken, on the routine's device."""
        return {name: kind.point().to(self.device) for name, kind in self.metaparameters.items()}

    @cached_property
    def first_step(self) -> int:
        """Return the first step that reads z; no earlier step has a share in the metagradient."""
        kinds, steps = self.metaparameters.values(), range(self.num_steps)
        return 0 if self.shapes_start else min(t for t in steps if any(k.enters(t) for k in kinds))

    @property
    def shapes_start(self) -> bool:
        """Say whether s_0 depends on z, so that the adjoint is wanted there."""
        return any(kind.shapes_start for kind in self.metaparameters.values())

    def hyperparameters(self, z: Metaparams, step: int) -> Hyperparameters:
        """Return the optimizer's hyperparameters at ``step``, with z's share in them."""
        rate = self.learning_rate
        hyper: dict[str, float | Tensor] = {
            **self.optimizer.at(step),
            "learning_rate": rate if isinstance(rate, int | float) else rate[step],
        }
        for name, kind in self.metaparameters.items():
            if kind.enters(step):
                hyper.update(kind.hyperparameters(z[name], step))
        return hyper

    def update(
        self,
        state: Mapping[str, Tensor],
        gradient: Tensor,
        z: Metaparams,
        step: int,
        used: Tensor | None = None,
    ) -> State:
        """Return the state after an update of the ``used`` tensors, or all, without statistics.

        ``gradient`` is that of the loss, before any hook of a parameter has mapped it.
        """
        hyper, gradient = self.hyperparameters(z, step), self.hooked_sum(gradient, step)
        own = without_buffers(state)
        with users_code(is_update=True):
            made = (
                update_used(self.optimizer, self.layout, own, gradient, hyper, step, used)
                if self.skip_idle
                else self.optimizer.update(own, gradient, hyper, step)
            )
        return hear_update(step, own, gradient, made)

    def terms(self, step: int) -> Iterator[Term]:
        """Yield the terms of a step's loss: its batch or its shards, then what is injected."""
        yield from self.batch_terms(step)
        yield from self.injected_terms(step)

    def moved_own(self, state: State, params: Tensor, z: Metaparams, step: int) -> State:
        """Return the problem's own state after ``step`` as a part of the state; empty if none.

        Args:
            state: s_t.
            params: Parameters of s_{t+1}, shape (params,).
            z: Metaparameters.
            step: t.
        """
        own = self.own
        if own is None:
            return {}
        (term,) = self.batch_terms(step)
        before, after = own.views(state[OWN]), dict(self.layout.views(params))
        batch = self._batch(term, z, step)
        with self.reading(state), self.seeded(term, step), users_code(is_update=True):
            if not own.wants_model:
                return {OWN: own.flatten(own.advance(before, after, batch, step))}
            found = self.call(
                lambda model: own.advance(before, after, batch, step, model=model),
                state["params"],
                training=True,
            )
        return {OWN: own.flatten(found)}

    def batch_terms(self, step: int) -> list[Term]:
        """Return the batch of ``step``, or its shards, each with random draws of its own."""
        indices = self.order.batch(step)
        if self.shards == 1:
            return [Term(indices, partial(self._weights, step), ("batch",))]
        return [
            Term(part, partial(self._weights, step), ("batch", "shard", number), shard=number)
            for number, part in enumerate(indices.tensor_split(self.shards))
        ]

    def _weights(self, step: int, z: Metaparams, indices: Tensor) -> Tensor | None:
        product = None
        for name, kind in self.metaparameters.items():
            factor = kind.weights(z[name], indices) if kind.enters(step) else None
            if factor is not None:
                product = factor if product is None else product * factor
        return product

    def injected_terms(self, step: int) -> Iterator[Term]:
        """Yield what is injected in ``step``, a chunk of the examples at a time."""
        context = None if self.coupled_loss is None else self.batch_terms(step)[0]
        for name, kind in self.metaparameters.items():
            if kind.injected(kind.point(), step) is None:
                continue
            # Every chunk embeds the batch that it joins; in pieces that costs time, not memory.
            size = (
                INJECTION_CHUNK if self.piece is None else max(INJECTION_CHUNK, 2 * self.batch_size)
            )
            for start, chunk in enumerate(kind.candidates(len(self)).split(size)):

                def weights(
                    z: Metaparams, i: Tensor, name: str = name, kind: Metaparameter = kind
                ) -> Tensor | None:
                    injected = kind.injected(z[name], step)
                    return None if injected is None else injected[i.to(injected.device)]

                yield Term(chunk, weights, ("injected", name, start * size), context=context)

    def in_one_piece(self) -> "Routine":
        """Return a run whose batch is as large as what goes through a step of this one at once."""
        size = -(-self.batch_size // self.shards) if self.piece is None else self.piece
        order = self.order_of(range(self.num_steps), size)
        return replace(self, batch_size=size, order=order, piece=None, shards=1)

    def first_piece(self, term: Term) -> Term:
        """Return a term, or as much of it as fits into memory with its graph."""
        return term if self.piece is None else term.cut(self.piece)[0]

    def term_losses(self, params: Params, term: Term, z: Metaparams, step: int) -> Tensor:
        """Return the per-example losses of a term at ``params``, shape (batch,)."""
        batch, arguments = self.loss_inputs(term, z, step)
        joined = self.coupled_loss

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            if joined is None or term.context is None:
                return self.loss(model, batch, **arguments)  # pyright: ignore[reportCallIssue] (checked when made)
            around = joined.embed(model, self._batch(term.context, z, step))
            return joined.join(model, around, joined.embed(model, batch), term.context.weights(z))

        def call() -> Tensor:
            with self.seeded(term, step):
                return one_each(self.call(loss, params, batch, training=True), len(term.indices))

        return as_listened_to(call)

    @cached_property
    def coupled_loss(self) -> CoupledLoss | None:
        """The loss as a coupled one, or None; asked once, since a protocol is slow to ask."""
        return coupled(self.loss)

    def term_loss(self, params: Params, term: Term, z: Metaparams, step: int) -> Tensor:
        """Return the scalar sum_i w_i l_i / B of a term."""
        losses = self.term_losses(params, term, z, step)
        weights = term.weights(z)
        return (losses if weights is None else weights * losses).sum() / self.batch_size

    @cached_property
    def loss_module(self) -> nn.Module:
        """Model and loss as one module: maps a batch to per-example losses.

        Its parameters' names begin with ``model.``. It is made once: compilers go by identity.
        """
        return Called(self.model, self.loss)

    def loss_inputs(self, term: Term, z: Metaparams, step: int) -> tuple[Batch, dict[str, Any]]:
        """Return the batch of a term and the keyword arguments of the loss, with z in them."""
        batch = self._batch(term, z, step)
        arguments: dict[str, Any] = {}
        for name, kind in self.metaparameters.items():
            if kind.enters(step):
                arguments.update(kind.loss_arguments(z[name], term.indices))
        if self.own is not None and takes(self.loss, "state"):
            arguments["state"] = self.own_now
        weights = None if self.coupled_loss is None else term.weights(z)
        return batch, arguments if weights is None else {**arguments, "multiplicity": weights}

    def batch_of(self, indices: Tensor) -> Batch:
        """Return examples as they are stored, on the routine's device."""
        if not isinstance(self.examples, tuple):
            return self.examples[indices]
        batch = (column[indices.to(column.device)] for column in self.examples)
        return tuple(column.detach().to(self.device) for column in batch)

    def _batch(self, term: Term, z: Metaparams, step: int) -> Batch:
        indices = term.indices if term.whole is None else term.whole
        with self._drawing(term, step):
            batch = self.batch_of(indices)
            for name, kind in self.metaparameters.items():
                if kind.enters(step):
                    batch = kind.batch(z[name], batch, indices)
            if self.augment is not None:
                batch = self.augment(batch, generator(self.seed, "augment", step, *term.purpose))
        if term.whole is None:
            return batch
        return rows_of(batch, slice(term.start, term.start + len(term.indices)), len(indices))

    def _drawing(self, term: Term, step: int) -> AbstractContextManager[None]:
        """Seed torch's generators where somebody's code makes the batch, and may draw."""
        if self.augment is None and isinstance(self.examples, tuple):
            return nullcontext()
        return seeded(self.seed, "examples", step, *term.purpose, device=self.device)
