"""A user's module as a run uses it: with the tensors of a state, in the modes of the run."""

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from engine.numerics.determinism import PROCESS, seeded
from engine.routine.idle import watch
from engine.routine.layout import Layout
from engine.routine.loss_terms import Term
from engine.routine.module.binding import Binding, Modes, copied
from engine.routine.module.buffers.batch_norm import BUFFERS, RunningStatistics, refuse_replaced
from engine.routine.module.buffers.calls import Calls
from engine.routine.module.buffers.carried import Carrying
from engine.routine.module.buffers.counters import COUNTERS
from engine.routine.module.buffers.holding import Holding
from engine.routine.module.buffers.unheld import (
    Unheld,
    addresses,
    refuse_exchanged,
    refuse_written,
)
from engine.routine.module.calls_again import HoldingUnneeded, Way, call_as_wanted
from engine.routine.module.gradient_hooks import Hook, gradient_hooks, hooked
from engine.routine.module.kept_tensors import refuse_stand_in
from engine.routine.module.seen_graph import wants_a_graph, without_graph
from engine.routine.optimizer import Optimizer
from engine.routine.own_state import OWN, Own, OwnState, takes
from engine.torch_modes import users_code
from engine.types import State

_STATISTICS = "running statistics"
"""Where a routine keeps them, once they were looked for."""

Params = Tensor | dict[str, Tensor]
"""Parameters as one flat vector, shape (params,), or by name."""


class HeldModule:
    """The part of a routine that knows its module.

    Attributes:
        model: The run's own copy.
        optimizer: Says which vector of the state is evaluated.
        num_steps: T.
        shards: Pieces of a batch, each with a backward pass.
        seed: Seeds the random draws of an evaluation.
        state: Where the problem's own state starts, if it has one.
        advance: Moves that state.
        programs: What was measured of the step; ``counters`` among it.
    """

    model: nn.Module
    optimizer: Optimizer
    num_steps: int
    shards: int
    seed: int
    compile: bool
    state: Any
    advance: Callable[..., Own] | None
    programs: dict[str, Any]
    _bound: dict[str, Tensor]
    _own: dict[str, Own]
    _given: "weakref.ref[nn.Module] | None"

    @property
    def given(self) -> nn.Module:
        """The module that the user handed in, or the run's copy if nobody else holds it."""
        own = None if self._given is None else self._given()
        return self.model if own is None else own

    @cached_property
    def binding(self) -> Binding:
        """Holds the tensors of a state in the module; see ``engine.routine.module.binding``."""
        return Binding(self.model, self.modes)

    @cached_property
    def modes(self) -> Modes:
        """Which of the modules train."""
        return Modes(self.model)

    @cached_property
    def hooks(self) -> dict[str, tuple[Hook, ...]]:
        """Hooks of the parameters that have any, by name."""
        found = {
            name: gradient_hooks(name, parameter)
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        return {name: hooks for name, hooks in found.items() if hooks}

    @cached_property
    def trainable(self) -> dict[str, Tensor]:
        """Parameters that the optimizer moves, by name."""
        return {
            name: tensor.detach()
            for name, tensor in self.model.named_parameters()
            if tensor.requires_grad
        }

    @cached_property
    def layout(self) -> Layout:
        """Where each parameter lies in the flat vector."""
        return Layout.of(self.trainable, with_complex=True)

    @property
    def statistics(self) -> RunningStatistics | None:
        """What the model's batch normalizations keep, and what else it moves, if anything."""
        known = self.__dict__  # no cached_property, whose lock all routines share
        if _STATISTICS not in known:
            with PROCESS:
                known[_STATISTICS] = RunningStatistics.of(self)
        return known[_STATISTICS]

    @property
    def counters(self) -> dict[str, Tensor]:
        """First values of the buffers that count calls and that no step reads, by name."""
        return self.programs.get(COUNTERS, {})

    @cached_property
    def own(self) -> OwnState | None:
        """What the problem keeps in the state for itself, if anything."""
        return OwnState.of(self.state, self.advance, self.trainable)

    @property
    def own_now(self) -> Own:
        """The problem's own state that calls read: that of ``reading``, or the first one."""
        assert self.own is not None
        if not self._own:
            return self.own.views(self.own.initial(self.trainable))
        return self._own["state"]

    def place(self, name: str, index: int) -> str:
        """Say which number of a state's vector ``name`` stands at ``index``, as people call it."""
        layouts = {"params": self.layout}
        if self.statistics is not None:
            layouts[BUFFERS] = self.statistics.layout
        if self.own is not None:
            layouts[OWN] = self.own.layout
        layout = layouts.get(name, self.layout)
        size = len(self.initial_state()[name]) if name not in layouts else layout.size
        return layout.locate(index) if size == layout.size else f"number {index}"

    def initial_state(self) -> State:
        """Return s_0."""
        raise NotImplementedError

    @cached_property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(iter(self.trainable.values())).device

    def seeded(self, term: Term, step: int) -> AbstractContextManager[None]:
        """Seed torch's generators for the random draws of a term inside the block."""
        return seeded(self.seed, "step", step, *term.purpose, device=self.device)

    def hooked(self, gradient: Tensor, step: int, shard: int = 0) -> Tensor:
        """Return a gradient as the hooks of the parameters leave it, shape (params,).

        What they draw is seeded by the run's seed, the step, the shard and the parameter's name.
        """
        if not self.hooks:
            return gradient
        return hooked(self.hooks, self.layout, gradient, self.seed, step, shard)

    @property
    def hooks_each_shard(self) -> bool:
        """Whether hooks map the gradient of each shard, as in a loop that accumulates."""
        return self.shards > 1 and bool(self.hooks)

    def hooked_term(self, gradient: Tensor, step: int, shard: int = 0) -> Tensor:
        """Return the gradient of a term of the batch as its own backward pass leaves it.

        A hook that clips, or that asks for a norm, makes another sum of shards than of their sum.
        """
        return self.hooked(gradient, step, shard) if self.hooks_each_shard else gradient

    def hooked_sum(self, gradient: Tensor, step: int) -> Tensor:
        """Return the gradient of a step as hooks leave it; that of shards went through them."""
        return gradient if self.hooks_each_shard else self.hooked(gradient, step)

    def reading(self, state: Mapping[str, Tensor]) -> AbstractContextManager[Calls]:
        """Let calls inside the block read the running statistics of ``state``, and its own state.

        Yields:
            What the batch normalizations are given inside the block, for ``moved_buffers``.
        """
        if self.statistics is None and self.own is None:
            return nullcontext(Calls())
        return self._reading(state)

    @contextmanager
    def _reading(self, state: Mapping[str, Tensor]) -> Iterator[Calls]:
        with PROCESS:
            before, own = self._bound.copy(), self._own.copy()
            if self.own is not None and OWN in state:
                self._own["state"] = self.own.views(state[OWN])
            if self.statistics is not None:
                self._bound.update(self.statistics.layout.views(state[BUFFERS]))
            observed = (
                nullcontext(Calls()) if self.statistics is None else self.statistics.observed()
            )
            try:
                with observed as calls:
                    yield calls
            finally:
                self._bound.clear()
                self._bound.update(before)
                self._own.clear()
                self._own.update(own)

    def moved_buffers(
        self, state: Mapping[str, Tensor], calls: Calls, step: int, shard: int = 0
    ) -> State:
        """Return the running statistics after a step, or a shard, as a part of the state."""
        if self.statistics is None:
            return {}
        return {BUFFERS: self.statistics.moved(state[BUFFERS], calls, step * self.shards + shard)}

    def evaluate(self, function: Callable[[nn.Module], Any], state: Mapping[str, Tensor]) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function(model)`` in evaluation mode, at a state of the run.

        Random draws of the function are seeded, so that it returns the same at every call. A
        function that takes derivatives of its own gets a graph even where the caller wants none.
        """
        if torch.is_grad_enabled():
            try:
                return self._evaluate(function, state)
            except Exception as error:
                if not wants_a_graph(error) or any(row.requires_grad for row in state.values()):
                    raise
            return self._evaluate(function, self._with_leaf(state))
        # By inputs alone first: what needs no graph of the parameters may call numpy.
        for graph in (False, True):
            try:
                with torch.set_grad_enabled(graph):
                    return without_graph(self._evaluate(function, state))
            except Exception as error:
                if not wants_a_graph(error):
                    raise
        with torch.enable_grad():
            return without_graph(self._evaluate(function, self._with_leaf(state)))

    def _with_leaf(self, state: Mapping[str, Tensor]) -> State:
        evaluated = self.optimizer.evaluated
        return {**state, evaluated: state[evaluated].detach().requires_grad_()}

    def _evaluate(self, function: Callable[[nn.Module], Any], state: Mapping[str, Tensor]) -> Any:  # noqa: ANN401 (as evaluate)
        with self.reading(state), seeded(self.seed, "evaluation", device=self.device):
            asked = self.with_own_state(function)
            return self.call(asked, state[self.optimizer.evaluated], training=False)

    def with_own_state(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return an output that is told the problem's own state, if it has an argument for it."""
        if self.own is None or not takes(function, "state"):
            return function
        return partial(function, state=self.own_now)

    def model_at(self, state: Mapping[str, Tensor]) -> nn.Module:
        """Return the module that was handed in, as training left it at the end of the run.

        Args:
            state: s_T, as ``engine.train`` returns it.

        Returns:
            A copy, in evaluation mode: parameters (their average, where one is evaluated), running
            statistics and the number of batches behind them, and all other buffers as they were.
        """
        model = copied(self.model)
        values = dict(self.layout.views(state[self.optimizer.evaluated].detach()))
        if self.statistics is not None:
            values |= self.statistics.layout.views(state[BUFFERS].detach())
        held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        with torch.no_grad():
            for name, value in values.items():
                held[name].copy_(value)
            for name in self.statistics.layers if self.statistics is not None else ():
                counted = held.get(f"{name}.num_batches_tracked" if name else "num_batches_tracked")
                if counted is not None and self.modes.flags[name]:
                    counted += self.num_steps * self.shards
        return model.eval()

    def call(self, function: Callable[..., Any], params: Params, *args: Any, training: bool) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function(model, *args)`` with ``params``, flat or by name, in the model.

        Whoever differentiates what it returns does so inside of ``self.binding.keeping()``, around
        both: code of the model that runs in the backward pass reads the parameters then.

        Raises:
            ValueError: If running statistics are to be evaluated, and nobody said of which state.
            UndifferentiableError: If a layer replaces its running statistics in training.
        """
        if self.statistics is not None and not training and not self._bound:
            raise ValueError("Evaluate a model with running statistics by Routine.evaluate.")
        views = self.layout.views(params) if isinstance(params, Tensor) else params
        if training and isinstance(params, Tensor):
            watch(views)

        def call(way: Way) -> tuple[Any, bool]:
            return self._call_once(function, params, views, args, training=training, way=way)

        if self.compile:
            return call(Way.PLAIN)[0]
        noted = self.programs if training else None
        return call_as_wanted([*views.values()], self.device, call, noted)

    def _call_once(
        self,
        function: Callable[..., Any],
        params: Params,
        views: dict[str, Tensor],
        args: tuple[Any, ...],
        *,
        training: bool,
        way: Way,
    ) -> tuple[Any, bool]:
        with self.binding.keeping():
            held = {} if self.statistics is None else self.statistics.bound(self._bound)
            noted = [] if self.statistics is None else self.statistics.calls_now
            before = len(noted)
            counters = {name: value.clone() for name, value in self.counters.items()}
            self.binding.put({**views, **held, **counters} if held or counters else views)
            if training:
                self.modes.train()
            else:
                self.modes.evaluate()  # the module's own code, with the state's tensors in place
            places = addresses(views) if training else None
            carried = {n: held[n] for n in self._carried} if held else {}
            holds = way is not Way.PLAIN
            with (
                self._carrying(carried, views, training=training, holds=holds) as mode,
                users_code(),
            ):
                try:
                    result = function(self.model, *args)
                except Exception as error:
                    del noted[before:]  # the call may be made again
                    refuse_stand_in(error)
                    raise
            is_needed = isinstance(mode, Holding) and mode.is_needed
            if way is Way.EXPECTED and isinstance(mode, Holding) and not is_needed:
                del noted[before:]
                raise HoldingUnneeded
            if training:
                if carried and self.statistics is not None:
                    self.statistics.note_ends(self.binding, carried)
                self._unheld.refuse_moved(self.counters)
                refuse_replaced(self.binding, held)
                refuse_exchanged(self.binding, views, places)
                if places is not None and isinstance(params, Tensor):
                    refuse_written(self.layout, params, views)
            return result, is_needed

    @property
    def _carried(self) -> Collection[str]:
        """Names of the buffers that the module moves by rules of its own."""
        return () if self.statistics is None else self.statistics.carried.all

    def carried_now(self) -> dict[str, Tensor]:
        """Return copies of those buffers as a call would find them, by name."""
        return {} if self.statistics is None else self.statistics.carried_in(self._bound)

    def _carrying(
        self,
        carried: Mapping[str, Tensor | None],
        views: Mapping[str, Tensor],
        *,
        training: bool,
        holds: bool,
    ) -> AbstractContextManager[Any]:
        holds = holds and any(each.requires_grad for each in views.values())
        if not holds and not carried and (training or self.statistics is None):
            return nullcontext()
        held = {name: tensor for name, tensor in carried.items() if tensor is not None}
        if holds:
            return Holding(held, views)
        # Those that count as well: it is seen then where one of them begins to follow. Running
        # statistics are read by what the module computes without a graph where it is evaluated.
        read = (
            tensor
            for name, tensor in self._bound.items()
            if (held[name].is_floating_point() if name in held else not training)
        )
        return Carrying(held, is_traced=any(tensor.requires_grad for tensor in read))

    @cached_property
    def _unheld(self) -> Unheld:
        """Buffers and frozen parameters that no state holds."""
        held = () if self.statistics is None else self.statistics.bound({})
        return Unheld(self.model, self.binding, held)
