"""A step of the user's own module beside a step of the engine.

Every reference inside the engine calls the module as the engine does, so all of them agree on a
run that is not the user's. The witness is outside of it: the module that was handed in takes a step
in place, by torch's own ``backward``, at a state that is not the first. Gradient, loss, running
statistics and output have to be the engine's, what is frozen must not move, and every tensor with a
gradient must be one that the engine knows. A finite difference stands against second derivatives
that torch itself has wrong.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.errors import EngineError, UndifferentiableError, WitnessError
from engine.numerics.determinism import deterministic, generator, seeded
from engine.routine.batch_norm import BUFFERS
from engine.routine.loss_terms import Term
from engine.routine.operations import grouped_products
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.step.products import entering
from engine.step.step import plain_step
from engine.types import Metaparams, Output, State
from engine.witness.curvature import (
    LIMIT,
    Curvature,
    culprit,
    small_step,
    step_curvature,
    update_error,
)
from engine.witness.in_place import Frozen, Seen, count_batches, given_module, in_place, own_step
from engine.witness.leaves import foreign_leaves, lasting_leaves, words_for
from engine.witness.precision import full_precision
from engine.witness.twins import exact_twin

FLOOR = 0.1
"""Share of the whole gradient below which a tensor's own gradient counts as that much: those that
cancel to nothing, as of a bias before a normalization, are noise."""


@dataclass(frozen=True)
class Witness:
    """What a plain step of the handed-in module said of the engine's.

    Attributes:
        gradient: Largest relative difference of the gradient, over the parameter tensors.
        loss: Relative difference of the batch's loss.
        output: Relative difference of the output; NaN if there was none to compare.
        curvature: Relative error of the second derivative against a finite difference; None if it
            could not be taken.
        note: What was not compared, and why; empty if all was.
    """

    gradient: float = math.nan
    loss: float = math.nan
    output: float = math.nan
    curvature: float | None = None
    note: str = ""

    @property
    def was_asked(self) -> bool:
        """Say whether there was a witness."""
        return not math.isnan(self.gradient)

    @property
    def sentence(self) -> str:
        """What was seen, for people."""
        if not self.was_asked:
            return (
                "There was no witness (witness=False): nobody compared this run's step with one "
                "that the module takes by itself."
            )
        curvature = (
            f"second derivative {self.curvature:.0e} off a finite difference"
            if self.curvature is not None
            else "second derivative not compared"
        )
        output = "" if math.isnan(self.output) else f", output {self.output:.0e}"
        note = f" {self.note}" if self.note else ""
        return (
            "A step that the module took by itself agrees with the engine's: gradient "
            f"{self.gradient:.0e}, loss {self.loss:.0e}{output}; {curvature}."
            f"{note}"
        )


def testify(routine: Routine, outputs: Sequence[Output], z: Metaparams) -> Witness:
    """Compare the engine's step with one that the handed-in module takes by itself.

    Args:
        routine: The run.
        outputs: phi, one or several; none, where a run is only trained.
        z: Metaparameters.

    Raises:
        WitnessError: If they differ; says what differs, where that is known, and a remedy.

    Cost:
        Three plain steps (one of them by the module itself) and two evaluations of each output;
        the finite difference takes about six gradients of at most eight examples, an eighth of the
        batch, in float64. Measured in ``tests/bench/bench_witness.py``.
    """
    with deterministic():
        step = min(1, routine.num_steps - 1)
        after, _ = plain_step(routine, routine.initial_state(z), z, 0)
        _look_at_update(routine, after, z, step)
        state = _moved(routine, z, after)
        term = routine.first_piece(next(routine.terms(step)))
        own = _engine_step(routine, term, z, step, state)
        if not torch.isfinite(own.losses).all():  # 5 % may be too much where a logarithm is near
            state = after
            own = _engine_step(routine, term, z, step, state)
        given = given_module(routine)
        with routine.reading(state), in_place(given, routine, state) as frozen:
            count_batches(given, routine, {n: step * own.calls[n] for n in own.calls})
            theirs = own_step(given, routine, term, z, step)
            moved = frozen.moved()
        if moved:
            raise WitnessError(_moves(moved))
        error = _compare(routine, own, theirs, lambda: _engine_step(routine, term, z, step, state))
        loss_error = _relative(own.losses, theirs.losses)
        errors = [_compare_output(routine, given, output, state) for output in outputs]
        output_error = max(errors, default=math.nan)
        curvature, note = _curvature(routine, outputs)
    return Witness(error, loss_error, output_error, curvature, note)


def _moved(routine: Routine, z: Metaparams, after: State) -> State:
    """Return a state at which every tensor differs from the first one.

    A rate of a warm-up may be zero at first, so what did not move by itself is moved by 5 %.
    """
    first = routine.initial_state(z)
    drawn = generator(routine.seed, "witness")
    parts = {}
    before = routine.layout.views(first["params"].detach())
    for name, value in routine.layout.views(after["params"].detach()).items():
        noise = torch.rand(value.shape, generator=drawn, dtype=torch.float64).to(value) - 0.5
        near = (value - before[name]).norm() < 0.01 * before[name].norm()
        if not value.any():
            value = 1e-2 * noise  # noqa: PLW2901 (the value to bind)
        elif near:
            value = value * (1 + 0.1 * noise)  # noqa: PLW2901 (as above)
        parts[name] = value
    return {**after, "params": routine.layout.flatten(parts).detach()}


def _engine_step(routine: Routine, term: Term, z: Metaparams, step: int, state: State) -> Seen:
    """Return what the engine finds, and refuse graphs that begin elsewhere."""
    params = state["params"].detach().clone().requires_grad_()
    version, before = params._version, params.detach().clone()
    frozen = Frozen(routine.model, routine)
    with routine.reading(state) as calls, torch.enable_grad(), routine.binding.kept():
        losses = routine.term_losses(params, term, z, step)
        loss = losses.sum() / routine.batch_size
        known = [params, *z.values()]
        foreign = loss.requires_grad and foreign_leaves(loss, known)
        (flat,) = torch.autograd.grad(loss, params, materialize_grads=True, allow_unused=True)
    if foreign:
        with routine.reading(state), torch.enable_grad(), routine.binding.kept():
            _refuse_leaves(
                routine, "loss", lambda: routine.term_losses(params, term, z, step).sum(), known
            )
    if params._version != version:
        changed = [
            name
            for name, part in routine.layout.views(params.detach()).items()
            if not torch.equal(part, routine.layout.views(before)[name])
        ]
        raise WitnessError(
            f"The forward pass changes {', '.join(map(repr, changed)) or 'a parameter'} in place "
            "(an embedding with max_norm does), which no step of the optimizer knows. Leave that "
            "out, or write it into the optimizer's update."
        )
    moved = frozen.moved()
    if moved:
        raise WitnessError(_moves(moved))
    statistics: dict[str, Tensor] = {}
    if routine.statistics is not None:
        row = routine.moved_buffers(state, calls, step)[BUFFERS]
        statistics = routine.statistics.layout.views(row.detach())
    gradient = routine.layout.views(routine.hooked(flat))
    return Seen(losses.detach(), gradient, statistics, Counter(call.name for call in calls))


def _look_at_update(routine: Routine, state: State, z: Metaparams, step: int) -> None:
    """Refuse an optimizer that reads a tensor with a gradient from elsewhere."""
    leaves = {n: row.detach().requires_grad_() for n, row in state.items() if n != BUFFERS}
    gradient = torch.zeros_like(leaves["params"]).requires_grad_()
    point = entering(routine, z, step)
    known = [*leaves.values(), gradient, *point.values(), *z.values()]

    def following() -> Tensor:
        with torch.enable_grad():
            rows = routine.update(leaves, gradient, {**z, **point}, step)
            before = {**state, **leaves}
            with routine.binding.kept():
                rows |= routine.moved_own(before, rows["params"], {**z, **point}, step)
            return torch.stack([row.sum() for row in rows.values()]).sum()

    value = following()
    if value.requires_grad and foreign_leaves(value, known):
        _refuse_leaves(routine, "optimizer", following, known)


def _refuse_leaves(
    routine: Routine, where: str, function: Callable[[], Tensor], known: Sequence[Tensor]
) -> None:
    leaves = lasting_leaves(function, known)
    if not leaves:
        return
    words = "; ".join(words_for(leaf, routine.given) for leaf in leaves[:3])
    raise WitnessError(
        f"The {where} reads {words}. It would stay as it is during the whole run, so the "
        "metagradient would be that of another run. Read parameters from the module that the "
        f"{where} is given, make what should be trained a submodule or parameter of it, and "
        "detach what should stay constant."
    )


def _moves(names: Sequence[str]) -> str:
    return (
        f"A step of training changes {', '.join(map(repr, names[:3]))}, which the optimizer does "
        "not train and the state does not hold, so a replayed step would not read what the step "
        "read. Keep it constant while the run trains, or compute it from the parameters in every "
        "step."
    )


def _relative(own: Tensor, theirs: Tensor, scale: float = 0.0) -> float:
    difference = float((own.double() - theirs.double()).norm())
    size = max(float(theirs.double().norm()), scale)
    if math.isnan(difference):
        return math.inf
    return difference / size if size else (0.0 if difference == 0 else math.inf)


def gradient_limit(routine: Routine) -> float:
    """Return the relative difference that roundings of the run's number format may make."""
    return 10 * torch.finfo(routine.layout.dtype).eps ** 0.5


def _scale(routine: Routine) -> float:
    """Return the size below which a number counts as that much: a hundred roundings of 1 pass."""
    return 100 * torch.finfo(routine.layout.dtype).eps / gradient_limit(routine)


def _compare(routine: Routine, own: Seen, theirs: Seen, again: Callable[[], Seen]) -> float:
    """Return the largest error of the gradient; refuse what differs, with the likely cause."""
    limit = gradient_limit(routine)
    whole = float(torch.stack([g.double().norm() for g in theirs.gradient.values()]).norm())
    errors = {
        name: _relative(own.gradient[name], gradient, FLOOR * whole)
        for name, gradient in theirs.gradient.items()
    }
    moved = {
        name: _relative(own.statistics[name], value, 1e-3)
        for name, value in theirs.statistics.items()
    }
    worst = max(errors, key=lambda name: errors[name])
    loss_error = _relative(own.losses, theirs.losses, _scale(routine))
    if loss_error <= limit and errors[worst] <= limit and max(moved.values(), default=0) <= limit:
        return errors[worst]
    repeated = again()
    if not torch.equal(repeated.losses, own.losses):
        raise WitnessError(
            "Two calls of the loss with the same parameters, batch and seed gave "
            f"{own.total:.8g} and {repeated.total:.8g}, so something that it reads is "
            "neither in the state nor made from the step's number: a module outside of the run "
            "that moves with it, a counter, a cache, or random numbers that torch does not draw. "
            "Keep nothing between two calls, and draw from torch's global generator."
        )
    if loss_error > limit:
        raise WitnessError(
            f"At the same parameters and batch the module that you handed in has the loss "
            f"{theirs.total:.8g}, and the engine's copy of it {own.total:.8g}. The "
            "loss or the forward pass reads something besides the module that it is given: another "
            "module or a list of parameters that it holds, a detached copy of weights, or a mode "
            "or attribute that was changed after the routine was made. Read all of it from the "
            "module that the loss is given."
        )
    if errors[worst] > limit:
        names = sorted((n for n in errors if errors[n] > limit), key=lambda n: -errors[n])
        raise WitnessError(
            f"The loss is the same, but its gradient by {', '.join(map(repr, names[:3]))} is off "
            f"by {errors[worst]:.1e} from the one that the module finds by itself. Code that runs "
            "in the backward pass (a hook, a custom autograd function, a recomputation) reads or "
            "changes something that the engine does not carry. Write it with differentiable "
            "operations of the module's own parameters, or as a hook on a parameter."
        )
    name = max(moved, key=lambda n: moved[n])
    raise WitnessError(
        f"After one step of its own the module's {name!r} differs by {moved[name]:.1e} from the "
        "engine's, so the layer moves its running statistics by rules of its own. Let it call "
        "torch.nn.functional.batch_norm with its statistics, or use group or layer normalization."
    )


def _compare_output(routine: Routine, given: nn.Module, output: Output, state: State) -> float:
    """Compare the output with a graph, of the engine, with that of the module, without one."""
    parts = output.parts() if hasattr(output, "parts") else [output]  # pyright: ignore[reportFunctionMemberAccess]
    part = next(iter(parts))
    leaves = {name: row.detach().clone().requires_grad_() for name, row in state.items()}

    def evaluated() -> Tensor:
        with torch.enable_grad(), routine.binding.kept():
            return routine.evaluate(part, leaves)

    with full_precision("output"):
        value = evaluated()
    known = [leaves[name] for name in (routine.optimizer.evaluated, BUFFERS, OWN) if name in leaves]
    if value.requires_grad and foreign_leaves(value, known):
        _refuse_leaves(routine, "output", evaluated, known)
    trained = {**state, "params": state[routine.optimizer.evaluated]}
    with routine.reading(state), in_place(given, routine, trained):
        given.train(False)
        with seeded(routine.seed, "evaluation", device=routine.device), grouped_products():
            theirs = _without_graph(routine.told(part), given)
    own, limit = value.detach(), gradient_limit(routine)
    error = _relative(own, theirs.to(own.device), _scale(routine))
    if error <= limit:
        return error
    again = routine.evaluate(part, leaves).detach()
    if not torch.equal(again, own):
        raise WitnessError(
            f"The output, called twice at the same parameters, is {float(own):.8g} and "
            f"{float(again):.8g}. Draw random numbers from torch's global generator, which is "
            "seeded for it, and keep nothing between two calls."
        )
    with torch.no_grad():
        bare = routine.evaluate(part, state)
    if _relative(bare, own, _scale(routine)) > limit:
        raise WitnessError(
            f"The output is {float(own):.8g} where a graph is wanted and {float(bare):.8g} where "
            "none is, so its value and its derivative are of two functions. Look for "
            "is_grad_enabled() or requires_grad in the model or the output, and compute the same "
            "in both."
        )
    raise WitnessError(
        f"At the same parameters the output of the module that you handed in is "
        f"{float(theirs):.8g}, and that of the engine's copy {float(own):.8g}. The output reads "
        "something besides the module that it is given, or the module computes from what was "
        "there before evaluation began. Read all of it from the module that the output is given."
    )


def _without_graph(output: Output, module: nn.Module) -> Tensor:
    try:
        with torch.no_grad():
            return output(module).detach()
    except RuntimeError:  # an output that takes derivatives of its own
        with torch.enable_grad():
            return output(module).detach()


def _curvature(routine: Routine, outputs: Sequence[Output]) -> tuple[float | None, str]:
    """Compare second derivatives in float64; say why not, where that cannot be."""
    output = outputs[0] if outputs else _no_output
    try:
        twin, _ = exact_twin(routine, output)
        z = twin.point()
        after, gradient = small_step(twin, z)
        state = _moved(twin, z, after)
        found: Curvature = step_curvature(twin, state, z)
        update = update_error(twin, after, gradient, z)
    except UndifferentiableError:
        raise
    except (EngineError, RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        return None, f"The second derivative was not compared: {words[0]}"
    if found.is_wrong:
        raise WitnessError(
            f"The second derivative of the loss is off by {found.error:.1e} from finite "
            f"differences of its gradient. {culprit(twin, state, z)}."
        )
    if update.is_wrong:
        raise WitnessError(
            f"The update of optimizer {routine.optimizer.name!r} has a derivative that is off by "
            f"{update.error:.1e} from finite differences: a part of it is cut out of the graph. "
            "Look for a detach(), .data, item() or no_grad() in it."
        )
    if not found.error <= LIMIT:  # NaN too: nothing was learned of it, and the result says so
        return None, (
            "The second derivative was not compared: finite differences do not settle, as where "
            "the loss has kinks or is not finite."
        )
    return found.error, ""


def _no_output(module: nn.Module) -> Tensor:
    return torch.stack([p.sum() for p in module.parameters()]).sum()
