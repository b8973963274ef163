"""The module that a user handed in, trained in place by torch itself.

It uses none of the engine's ways to call a module: no bound tensors, no flat vector, no ``grad``.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import WitnessError
from engine.numerics.fingerprint import fingerprint
from engine.routine.loss_terms import Term
from engine.routine.module.binding import own_modes
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.module.buffers.counters import COUNTERS, is_read, small_buffers
from engine.routine.routine import Routine
from engine.types import State
from engine.witness.derivatives.updates import is_shipped


def given_module(routine: Routine) -> nn.Module:
    """Return the module that was handed in, if it still has the run's parameters."""
    given = routine.given
    if any(tensor.is_inference() for tensor in (*given.parameters(), *given.buffers())):
        given = routine.model  # torch itself does not train what inference mode made
    shapes = {name: tuple(tensor.shape) for name, tensor in given.named_parameters()}
    if all(shapes.get(name) == shape for name, shape in routine.layout.shapes.items()):
        return given
    raise WitnessError(
        "The module that was handed in no longer has the parameters that it had when the routine "
        "was made. Make a new routine from the module as it is now."
    )


class Frozen:
    """What a call of the loss must not change: the parameters, and what no state holds.

    Args:
        module: Module whose tensors are watched.
        routine: The run, which says what is in the state.
        params: The flat parameters that the call is given; none, where the module has its own.
    """

    def __init__(self, module: nn.Module, routine: Routine, params: Tensor | None = None) -> None:
        self._module, self._layout, self._params = module, routine.layout, params
        self._routine = routine
        self._version = 0 if params is None else params._version
        self._values = None if params is None else params.detach().clone()
        held = set(routine.layout.shapes)
        if routine.statistics is not None:
            held |= set(routine.statistics.layout.shapes)
        counted = {
            f"{name}.num_batches_tracked" if name else "num_batches_tracked"
            for name in (routine.statistics.layers if routine.statistics else {})
        }
        self._held = held | counted
        self._before = self._look()
        outside = ((n, b) for n, b in module.named_buffers() if n not in self._held)
        self._small = small_buffers(outside) if module is routine.model else {}

    def _look(self) -> dict[str, object]:
        named = [*self._module.named_parameters(), *self._module.named_buffers()]
        return {
            name: (tuple(tensor.shape), fingerprint(tensor.detach()))
            for name, tensor in named
            if name not in self._held and tensor.numel()
        }

    def moved(self) -> list[str]:
        """Return the names of what is not as it was."""
        now, known = self._look(), self._routine.counters
        return [n for n, seen in self._before.items() if now.get(n) != seen and n not in known]

    def refuse_moved(self) -> None:
        """Refuse what is not as it was.

        Raises:
            WitnessError: Names it.
        """
        if self._params is not None and self._values is not None:
            before = self._layout.views(self._values)
            parts = self._layout.views(self._params.detach()).items()
            changed = [name for name, part in parts if not _same(part, before[name])]
            if changed or self._params._version != self._version:
                optimizer = self._routine.optimizer
                update = f", or the update of optimizer {optimizer.name!r},"
                who = "" if is_shipped(optimizer) else update
                what = ", ".join(map(repr, changed)) or "a parameter"
                raise WitnessError(
                    f"The forward pass{who} changes {what} in place (an embedding with max_norm "
                    "does, and a layer that finds its first values from the first batch), which no "
                    "step of the optimizer knows. Leave that out, do it before the run begins "
                    "(call the model once on a batch, before it is handed in), or write it into "
                    "the optimizer's update, which returns new tensors."
                )
        moved = self.moved()
        buffers = [name for name in moved if name in dict(self._module.named_buffers())]
        if buffers and not self._only_count(buffers):
            raise WitnessError(
                f"Buffer {buffers[0]!r} changes during training, outside the state, so a replayed "
                "step would not read what the step read. "
                f"{_cure_of_buffer(self._module is self._routine.model)}"
            )
        moved = [name for name in moved if name not in buffers]
        if moved:
            raise WitnessError(
                f"A step of training changes {', '.join(map(repr, moved[:3]))}, which the "
                "optimizer does not train and the state does not hold, so a replayed step would "
                f"not read what the step read. Keep it constant while the run trains. {_DECLARED}"
            )

    def _only_count(self, names: list[str]) -> bool:
        """Say whether nobody reads these buffers; put them back, and let them move, if so."""
        before = {name: self._small[name] for name in names if name in self._small}
        if len(before) < len(names) or not are_counters(self._routine, before):
            return False
        self._routine.programs.setdefault(COUNTERS, {}).update(before)
        self._routine.binding.replace(before)
        return True


def are_counters(routine: Routine, before: Mapping[str, Tensor]) -> bool:
    """Say whether buffers move by themselves alone, and no step reads them.

    Args:
        routine: The run.
        before: What the buffers held when the run began, by name.

    Cost:
        Two second derivatives of a step's loss, followed operation by operation.
    """
    if routine.own is not None or routine.compile:  # which call the module in ways of their own
        return False
    state, z, ends = routine.initial_state(), routine.point(), list[dict[str, Tensor]]()
    # They count, if parameters and examples make no difference to where they are led.
    for step, scale in ((0, 1.0), (min(1, routine.num_steps - 1), 1.05)):
        term = routine.first_piece(next(routine.terms(step)))
        params = (scale * state["params"].detach()).requires_grad_()
        held = {name: value.clone() for name, value in before.items()}

        def step_gradients(
            params: Tensor = params, term: Term = term, step: int = step
        ) -> list[Tensor]:
            loss = routine.term_losses(params, term, z, step).sum()
            (first,) = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
            total = routine.hooked(first, step).square().sum()
            return [loss, first, *torch.autograd.grad(total, params, materialize_grads=True)]

        with routine.reading(state), torch.enable_grad(), routine.binding.keeping():
            routine.binding.put(held)
            try:
                if is_read(held, step_gradients):
                    return False
            except (RuntimeError, NotImplementedError):  # told elsewhere, if it is not this
                return False
            bound = routine.binding.bound()
            ends.append(
                {n: b.detach().clone() for n, b in bound.items() if b is not None and n in before}
            )
    return all(n in ends[1] and _same_bits(end, ends[1][n]) for n, end in ends[0].items())


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


_DECLARED = (
    "What the training needs of it can be made from parameters and batch at every call, or be "
    "declared as a state of the run, state= with advance=, which is saved, replayed and "
    "differentiated."
)


def _cure_of_buffer(is_own: bool) -> str:
    """Return the remedy for a buffer that moves, and which no state holds."""
    if not is_own:
        return (
            "It moves in the module that you handed in, and not in the run's copy of it: by a "
            "hook or a function that holds that module itself, or by a counter outside of it. Let "
            "the forward pass write into the module that it is called on (self, or what a hook is "
            "given): such a buffer is a part of the state."
        )
    return (
        "What the forward pass moves at every step of training, in one shape, is a part of the "
        "state; this moves later, in the backward pass, in evaluation, or grows. Let the forward "
        f"pass write it at every step. {_DECLARED}"
    )


@contextmanager
def nothing_moves(module: nn.Module, routine: Routine, params: Tensor) -> Iterator[None]:
    """Refuse, at the end of the block, a call that changed the parameters or what no state holds.

    An error inside of the block may be the consequence, and comes second.

    Raises:
        WitnessError: Names what was changed.
    """
    frozen = Frozen(module, routine, params)
    try:
        yield
    finally:
        frozen.refuse_moved()


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def count_batches(given: nn.Module, routine: Routine, calls: Mapping[str, int]) -> None:
    """Let the layers that average all batches know how many there were."""
    buffers, counted = dict(given.named_buffers()), dict(routine.model.named_buffers())
    for name, number in calls.items():
        key = f"{name}.num_batches_tracked" if name else "num_batches_tracked"
        if key in buffers and key in counted:
            buffers[key].copy_(counted[key] + number)


class InPlace:
    """A state in the handed-in module itself; see ``in_place``.

    Attributes:
        given: The module.
        routine: The run.
    """

    def __init__(self, given: nn.Module, routine: Routine, state: State) -> None:
        parameters, buffers = dict(given.named_parameters()), dict(given.named_buffers())
        self._tensors = {**parameters, **buffers}
        values = {n: t for n, t in routine.model.named_buffers() if n in buffers}
        if routine.statistics is not None:
            held = routine.statistics.layout.views(state[BUFFERS].detach())
            values |= {n: t for n, t in held.items() if n in self._tensors}
        # Copies, because the module may be the run's own, where nobody holds another.
        self._values = {name: tensor.detach().clone() for name, tensor in values.items()}
        self._values |= routine.layout.views(state["params"].detach())
        self._evaluated = routine.layout.views(state[routine.optimizer.evaluated].detach())
        self._attributes = [
            _attributes(module)
            for module in given.modules()
            if not isinstance(module, torch.jit.ScriptModule)  # holds nothing that a step could add
        ]
        self._flags = [(module, module.training) for module in given.modules()]
        self._saved = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        self._gradients = {name: tensor.grad for name, tensor in parameters.items()}
        self.routine, self.given = routine, given

    def put(self, *, evaluated: bool = False) -> None:
        """Put the state there, and nothing else that a call has left.

        Args:
            evaluated: Whether the parameters are those at which the model is evaluated, such as an
                average, in place of those that are trained.
        """
        self._reset()
        _write(self._tensors, self._values | (self._evaluated if evaluated else {}))
        for name in self._gradients:
            # Ones, as a step before would have left something there: anyone who reads it is seen.
            tensor = self._tensors[name]
            tensor.grad = torch.ones_like(tensor) if tensor.requires_grad else None

    def watch(self) -> "Frozen":
        """Begin to watch what the module must not change."""
        return Frozen(self.given, self.routine)

    def give_back(self) -> None:
        """Leave the module as it was."""
        self._reset()
        _write(self._tensors, self._saved)
        for name, gradient in self._gradients.items():
            self._tensors[name].grad = gradient

    def _reset(self) -> None:
        for held in self._attributes:
            for where, content in held:
                where.clear()
                where.update(content)
        for module, flag in self._flags:
            module.training = flag


@contextmanager
def in_place(given: nn.Module, routine: Routine, state: State) -> Iterator[InPlace]:
    """Put a state into the handed-in module itself, and leave the module as it was afterwards."""
    place = InPlace(given, routine, state)
    try:
        place.put()
        yield place
    finally:
        place.give_back()


def _attributes(module: nn.Module) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return a module's attributes, so that they can be put back: a step may leave caches in it."""
    inner: list[dict[str, Any]] = [module._parameters, module._buffers, module._modules]  # pyright: ignore[reportAssignmentType] (of any value)
    return [(held, dict(held)) for held in (vars(module), *inner)]


def _write(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            if name in tensors and tensors[name].shape == value.shape:
                tensors[name].data.copy_(value)


def put_into_training(given: nn.Module, routine: Routine) -> None:
    """Put the handed-in module into the modes in which the run trains."""
    if own_modes(given):
        given.train()
    flags = routine.modes.flags
    for name, module in given.named_modules():
        if name in flags:
            module.training = flags[name]
