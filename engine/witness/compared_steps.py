"""The numbers of one step, taken by the engine and by the module itself, and their comparison."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import attrgetter

import torch
from torch import Tensor, nn

from engine.errors import WitnessError
from engine.numerics.determinism import seed_generators
from engine.routine.layout import real
from engine.routine.loss_terms import Term
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.module.gradient_hooks import Hook, purpose_of_hook
from engine.routine.module.operations import torchs_own
from engine.routine.routine import Routine
from engine.step.gradient import batch_in_order
from engine.types import Metaparams, State
from engine.witness.agreement import gradient_limit, least_size, relative, value_limit
from engine.witness.in_place import count_batches, given_module, in_place, put_into_training
from engine.witness.kept_attributes import kept_from_call_to_call

FLOOR = 0.1
"""Share of the whole gradient below which a tensor's own gradient counts as that much: those that
cancel to nothing, as of a bias before a normalization, are noise."""


@dataclass
class StepNumbers:
    """The numbers of one step, taken by the engine or by the module itself.

    Attributes:
        losses: Losses of the examples, shape (batch,). Their weights are the engine's and left out,
            so that examples of weight 0 count too.
        gradient: Gradient of the losses' sum over B, by parameter.
        statistics: After the step, by name.
        calls: How often each layer normalized a batch.
        flat: The gradient before the hooks of the parameters, shape (params,); the engine's only.
        moved: The running statistics after the step as a part of the state; the engine's only.
    """

    losses: Tensor
    gradient: dict[str, Tensor]
    statistics: dict[str, Tensor] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    flat: Tensor | None = None
    moved: State = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Sum of the losses."""
        return float(self.losses.sum())


def own_step(
    given: nn.Module, routine: Routine, terms: Sequence[Term], z: Metaparams, step: int
) -> StepNumbers:
    """Let the module take a step by itself, as far as its gradient.

    Args:
        given: The module, with the state in it.
        routine: The run, which says the loss and seeds its draws.
        terms: One, whose examples then count one each; or the shards of a batch, which have
            their weights, and a backward pass each, as in a loop that accumulates gradients.
        z: Metaparameters.
        step: t.
    """
    z, seen = {name: value.detach() for name, value in z.items()}, list[Tensor]()
    put_into_training(given, routine)
    kept = {name: (p.grad, _version(p.grad)) for name, p in given.named_parameters()}
    for term in terms:
        batch, arguments = routine.loss_inputs(term, z, step)
        with torch.enable_grad(), routine.seeded(term, step), torchs_own():
            losses = routine.loss(given, batch, **arguments)  # pyright: ignore[reportCallIssue] (checked when made)
            _refuse_written_gradients(given, kept)
            if not seen:
                _clear_gradients(given)
            _refuse_cleared_gradients(given, kept if seen else {})
            weights = term.weights(z) if len(terms) > 1 else None
            losses = losses if weights is None else weights * losses
            loss = losses.sum() / routine.batch_size
            if loss.requires_grad:
                with _seeding_hooks(given, routine, step, term.shard):
                    loss.backward()
        seen.append(losses.detach())
        kept = {name: (p.grad, _version(p.grad)) for name, p in given.named_parameters()}
    gradient = {
        name: torch.zeros_like(tensor) if tensor.grad is None else tensor.grad.detach().to_dense()
        for name, tensor in given.named_parameters()
        if name in routine.layout.shapes
    }
    found: dict[str, Tensor] = {}
    if routine.statistics is not None:
        found = {n: _held(given, n).detach().clone() for n in routine.statistics.layout.shapes}
    return StepNumbers(torch.cat(seen), gradient, found)


def _held(given: nn.Module, name: str) -> Tensor:
    """Return a tensor of a module, also one that was a buffer and is an attribute by now."""
    return attrgetter(name)(given)  # a scripted module has no get_submodule


def _version(tensor: Tensor | None) -> int:
    return -1 if tensor is None else tensor._version


def _refuse_written_gradients(
    given: nn.Module, before: Mapping[str, tuple[Tensor | None, int]]
) -> None:
    """Refuse a loss that has written into ``.grad``."""
    for name, parameter in given.named_parameters():
        found = parameter.grad
        known, version = before.get(name, (None, -1))
        if found is not None and (found is not known or found._version != version):
            raise WitnessError(
                f"The loss writes into the .grad of the parameter {name!r}, for example by calling "
                "backward(). Whether your own loop adds that to the gradient of the step depends "
                "on where it calls zero_grad(); a step of the engine has no .grad. Take "
                "derivatives inside of a loss by torch.autograd.grad(value, inputs)."
            )


def _refuse_cleared_gradients(
    given: nn.Module, before: Mapping[str, tuple[Tensor | None, int]]
) -> None:
    """Refuse a loss that takes away what the shards before it have left in ``.grad``."""
    for name, parameter in given.named_parameters():
        known, _ = before.get(name, (None, -1))
        if known is not None and parameter.grad is None:
            raise WitnessError(
                f"The loss clears the .grad of the parameter {name!r}, for example by calling "
                "zero_grad(). A loop that accumulates gradients would lose those of the earlier "
                "shards there; a step of the engine adds up all of them. Take derivatives inside "
                "of a loss by torch.autograd.grad(value, inputs), or leave shards out."
            )


@contextmanager
def _seeding_hooks(given: nn.Module, routine: Routine, step: int, shard: int) -> Iterator[None]:
    """Seed what the hooks of parameters draw, each parameter's by itself, inside the block."""

    def seeding(name: str, hook: Hook) -> Hook:
        def seeded_hook(gradient: Tensor) -> Tensor | None:
            # Without the lock of a ``seeded``: a GPU's backward pass calls hooks in its own thread.
            seed_generators(routine.device, routine.seed, *purpose_of_hook(name, step, shard))
            return hook(gradient)

        return seeded_hook

    kept: list[tuple[dict[int, Hook], int, Hook]] = []
    for name, parameter in given.named_parameters():
        hooks = (parameter._backward_hooks or {}) if name in routine.hooks else {}
        for key, hook in list(hooks.items())[:1]:  # the others of a parameter follow it at once
            kept.append((hooks, key, hook))
            hooks[key] = seeding(name, hook)
    try:
        yield
    finally:
        for hooks, key, hook in kept:
            if key in hooks:  # it has not removed itself
                hooks[key] = hook


def _clear_gradients(given: nn.Module) -> None:
    for parameter in given.parameters():
        parameter.grad = None


def compare_shards(
    routine: Routine, state: State, calls: Mapping[str, int], z: Metaparams, step: int
) -> float:
    """Compare the sum of a batch's shards with what a loop that accumulates gradients finds.

    The first shard by itself says nothing of what one shard leaves for the next, or of a hook that
    maps each one's gradient.

    Args:
        routine: The run, whose batches are cut into shards.
        state: Where.
        calls: How often each layer has normalized a batch before.
        z: Metaparameters.
        step: t.

    Returns:
        The largest error of the gradient.

    Raises:
        WitnessError: If loss, gradient or statistics differ by more than roundings do.

    Cost:
        Two plain steps, one of them by the module itself.
    """
    given = given_module(routine)
    with routine.reading(state), in_place(given, routine, state):
        count_batches(given, routine, calls)
        theirs = own_step(given, routine, routine.batch_terms(step), z, step)
    theirs.losses = theirs.losses.sum().reshape(1) / routine.batch_size
    plain = replace(routine, compile=False) if routine.compile else routine

    def engines() -> StepNumbers:
        params = state["params"].detach().requires_grad_()
        flat, loss, rows = batch_in_order(plain, state, params, z, step)
        statistics: dict[str, Tensor] = {}
        if routine.statistics is not None:
            statistics = routine.statistics.layout.views(rows[-1][BUFFERS])
        return StepNumbers(
            loss.reshape(1), routine.layout.views(routine.hooked_sum(flat, step)), statistics
        )

    return compare_steps(routine, engines(), theirs, engines)


def compare_steps(
    routine: Routine, own: StepNumbers, theirs: StepNumbers, again: Callable[[], StepNumbers]
) -> float:
    """Return the largest error of the gradient; refuse what differs, with the likely cause.

    Args:
        routine: The run.
        own: What the engine found.
        theirs: What the handed-in module found by itself.
        again: Takes the engine's step once more; called if something differs.

    Raises:
        WitnessError: If loss, gradient or statistics differ by more than roundings do.
    """
    whole = float(torch.stack([real(g).double().norm() for g in theirs.gradient.values()]).norm())
    errors = {
        name: relative(own.gradient[name], gradient, FLOOR * whole)
        for name, gradient in theirs.gradient.items()
    }
    moved = {
        name: relative(own.statistics[name], value, 1e-3)
        for name, value in theirs.statistics.items()
    }
    limit, worst = gradient_limit(routine), max(errors.values())
    loss_error = relative(own.losses, theirs.losses, least_size(routine))
    differs = loss_error > value_limit(routine)
    if not differs and worst <= limit and max(moved.values(), default=0) <= limit:
        return worst
    _refuse_moving_loss(routine, own, again)
    _refuse_moving_hooks(routine, own)
    if differs:
        raise WitnessError(_other_loss(own, theirs))
    if worst > limit:
        raise WitnessError(_other_gradient(errors, limit))
    name = max(moved, key=lambda n: moved[n])
    raise WitnessError(
        f"After one step that the module takes by itself, its {name!r} differs by "
        f"{moved[name]:.1e} from the engine's. {_cure_of_move(routine, name)}"
    )


def _refuse_moving_loss(
    routine: Routine, own: StepNumbers, again: Callable[[], StepNumbers]
) -> None:
    """Refuse a loss that differs when it is called again; all other differences follow from that.

    Raises:
        WitnessError: With what it may read.
    """
    repeated = again()
    if not torch.equal(repeated.losses, own.losses):
        found = kept_from_call_to_call(routine.model, again)
        if found:
            raise WitnessError(
                "Two calls of the loss with the same parameters, batch and seed gave "
                f"{own.total:.8g} and {repeated.total:.8g}. {found}"
            )
        raise WitnessError(
            f"Two calls of the loss with the same parameters, batch and seed gave {own.total:.8g} "
            f"and {repeated.total:.8g}, so the loss reads something that is neither in the state "
            "nor computed from the step's number: a module outside of the run, a counter, a cache, "
            "or random numbers that torch does not draw. Keep nothing between two calls, and draw "
            "from torch's global generator."
        )


def _refuse_moving_hooks(routine: Routine, own: StepNumbers) -> None:
    """Refuse hooks of parameters that make another gradient of the same one when called again.

    Raises:
        WitnessError: Names a parameter.
    """
    if not routine.hooks or own.flat is None:
        return
    with torch.no_grad():
        one, other = (routine.hooked(own.flat, 0) for _ in range(2))
    if not torch.equal(one, other):
        place = routine.place("params", int((one != other).nonzero()[0]))
        raise WitnessError(
            f"A hook on the parameter of {place} changes the same gradient differently when it is "
            "called again. It draws from a generator of its own, or keeps a counter. Draw from "
            "torch's global generator, e.g. torch.randn_like(gradient), which is seeded for each "
            "step, and keep nothing between two calls."
        )


def _other_loss(own: StepNumbers, theirs: StepNumbers) -> str:
    return (
        "At the same parameters and batch, the module that you handed in has the loss "
        f"{theirs.total:.8g}, and the engine's copy of it {own.total:.8g}. There are three likely "
        "causes. The loss or the forward pass reads something besides the module that it is given: "
        "another module, a list of parameters, a detached copy of weights, a counter or a cache, "
        "the .grad of parameters, or a mode that was changed after the routine was made. It reads "
        "running statistics that its own batch has just moved. Or it asks whether a tensor is an "
        "nn.Parameter or a leaf, which the engine's tensors are not. Read everything from the "
        "module that the loss is given, read statistics before the layer is called, and recognize "
        "parameters by requires_grad."
    )


def _other_gradient(errors: Mapping[str, float], limit: float) -> str:
    names = sorted((n for n in errors if errors[n] > limit), key=lambda n: -errors[n])
    return (
        f"The loss is the same, but its gradient by {', '.join(map(repr, names[:3]))} is off "
        f"by {errors[names[0]]:.1e} from the one that the module finds by itself. Code that runs "
        "in the backward pass (a hook, a custom autograd function, a recomputation) reads or "
        "changes something that the engine does not carry. Write it with differentiable "
        "operations of the module's own parameters, or as a hook on a parameter."
    )


def _cure_of_move(routine: Routine, name: str) -> str:
    if routine.statistics is not None and name in routine.statistics.carried.all:
        return (
            "Either something outside of the forward pass moves it, such as a hook of the backward "
            "pass, or the code reads the module that you handed in. Move it in the forward pass of "
            "the module that the loss is given, by operations of torch."
        )
    return (
        "The layer moves its running statistics by a rule that the engine does not know. Let it "
        "call torch.nn.functional.batch_norm with its statistics, or use group or layer "
        "normalization."
    )
