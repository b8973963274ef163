"""Compares a step that the user's own module takes by itself with a step of the engine.

Every reference inside the engine calls the module as the engine does, so all of them agree on a
run that is not the user's. The witness is outside of it: the module that was handed in takes a step
in place, by torch's own ``backward``, at a state that is not the first. Gradient, loss, running
statistics and output have to be the engine's, what is frozen must not move, and every tensor with a
gradient must be one that the engine knows. A finite difference stands against second derivatives
that torch itself has wrong.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import NonFiniteError
from engine.models.attention import note_of_matrices, whole_matrices
from engine.numerics.determinism import deterministic, filling, generator
from engine.routine.layout import Layout
from engine.routine.loss_terms import Term
from engine.routine.module.batch_norm import BUFFERS
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.shown.line import shown_fields
from engine.step.coupling import note_of_shards
from engine.step.products import entering
from engine.step.step import plain_step
from engine.types import Metaparams, Output, State
from engine.witness.agreement import relative
from engine.witness.compared_steps import Seen, compare_shards, compare_steps, own_step
from engine.witness.curvature import Here, compare_derivatives
from engine.witness.entries import refuse_cut_entries
from engine.witness.finite_differences import directions
from engine.witness.in_place import Frozen, count_batches, given_module, in_place
from engine.witness.jumps import follows, note_of_jumps
from engine.witness.leaves import foreign_leaves, refuse_leaves
from engine.witness.moved_statistics import refuse_cut_statistics
from engine.witness.output_slope import compare_output_slope, is_of_few
from engine.witness.outputs import Answer, compare_outputs, own_output
from engine.witness.repeated import refuse_another


@dataclass(frozen=True, repr=False)
class Witness:
    """What a plain step of the handed-in module said of the engine's.

    Attributes:
        gradient: Largest relative difference of the gradient, over the parameter tensors.
        loss: Relative difference of the batch's loss.
        output: Relative difference of the output; NaN if there was none to compare.
        curvature: Relative error of the second derivative against a finite difference; None if it
            could not be taken.
        slope: Relative error of the output's derivative against a finite difference; None if it
            could not be taken, or there was no output.
        shards: What goes by the examples of a shard alone; empty without shards.
        note: What was not compared, and why, and what else people should know; mostly empty.
    """

    gradient: float = math.nan
    loss: float = math.nan
    output: float = math.nan
    curvature: float | None = None
    slope: float | None = None
    shards: str = ""
    note: str = ""

    def __repr__(self) -> str:
        return f"Witness({shown_fields(self) if self.was_asked else 'not asked'})"

    @property
    def was_asked(self) -> bool:
        """Say whether there was a witness."""
        return not math.isnan(self.gradient)

    @property
    def sentence(self) -> str:
        """What was seen, for people."""
        note = "".join(f" {words}" for words in (self.shards, self.note) if words)
        if not self.was_asked:
            return (
                "There was no witness (witness=False): nobody compared this run's step with one "
                f"that the module takes by itself.{note}"
            )
        curvature = (
            f"second derivative {_digit(self.curvature)} off a finite difference"
            if self.curvature is not None
            else "second derivative not compared"
        )
        output = "" if math.isnan(self.output) else f", output {_digit(self.output)}"
        if self.slope is not None:
            output += f" and its derivative {_digit(self.slope)}"
        return (
            "A step that the module took by itself agrees with the engine's: gradient "
            f"{_digit(self.gradient)}, loss {_digit(self.loss)}{output}; {curvature}."
            f"{note}"
        )


def _digit(value: float) -> str:
    """Write a relative difference in one digit; none at all is 0, and not an exponent of it."""
    return f"{value:.0e}" if value else "0"


def testify(
    routine: Routine,
    outputs: Sequence[Output],
    z: Metaparams,
    *,
    jumps: bool = False,  # noqa: PT028 (this is no test)
) -> Witness:
    """Compare the engine's step with one that the handed-in module takes by itself.

    Args:
        routine: The run.
        outputs: phi, one or several; none, where a run is only trained.
        z: Metaparameters.
        jumps: Whether the update may follow its gradient in jumps, where no metagradient is taken.

    Raises:
        WitnessError: If they differ; says what differs, where that is known, and a remedy.
        ConfigurationError: If the engine's step differs from itself.

    Cost:
        Three plain steps (one of them by the module itself, and one that the other checks then
        leave out; of shards the first alone, and two plain steps of all), a loss, two evaluations
        of each output, four gradients of a few examples in float64 and two in the run's own
        format, six updates, and what ``compare_output_slope`` takes. An output that is no mean of
        the loss is evaluated once more after the training.
        Beside the two evaluations one to three plain steps of a GPT, two of a ResNet, and eight to
        fourteen of a network that is so small that calls cost more than numbers;
        ``tests/bench/bench_witness.py`` measures it.
    """
    with filling(), deterministic():
        step, first = min(1, routine.num_steps - 1), routine.initial_state(z)
        term = routine.first_piece(next(routine.terms(step)))
        with whole_matrices() as matrices:
            state, own = _moved_step(routine, first, term, z, step)
        assert own.flat is not None
        before = {**first, **state}
        after, heard = _look_at_update(routine, before, own.flat, z, step)
        shards = note_of_shards(routine) if routine.shards > 1 else ""
        in_jumps = ""
        if outputs and not heard and not jumps:
            in_jumps = note_of_jumps(routine, before, own.flat, z, step)

        def again() -> Seen:
            return _engine_step(routine, term, z, step, state)

        def led_to() -> State:
            repeated = again()
            assert repeated.flat is not None
            with torch.no_grad():  # as in a step of training
                return repeated.moved | _updated(routine, before, repeated.flat, z, step)

        given = given_module(routine)
        before_this = {n: step * routine.shards * own.calls[n] for n in own.calls}
        with routine.reading(state), in_place(given, routine, state) as place:
            frozen = place.watch()
            count_batches(given, routine, before_this)
            theirs = own_step(given, routine, [term], z, step)
            frozen.refuse_moved()
            values = [own_output(place, output) for output in outputs]
            # Once more while the handed-in module holds other numbers: whoever reads them is seen
            # in the last bit, however little it makes of them.
            place.put()
            elsewhere = led_to()
        error = compare_steps(routine, own, theirs, again)
        if routine.shards > 1:
            error = max(error, compare_shards(routine, state, before_this, z, step))
        refuse_another(routine, step, own.moved | after, elsewhere, led_to)
        cut = [
            check(routine, state, z, step) for check in (refuse_cut_statistics, refuse_cut_entries)
        ]
        answers = _answers(routine, outputs, values, (first, state), z)
        moves = {name: float((row - before[name]).norm()) for name, row in after.items()}
        curvature, note = compare_derivatives(
            routine, Here(state, term, own.losses, after, own.flat, step, z, moves)
        )
        both = zip(outputs, answers, strict=True)
        slopes = [compare_output_slope(routine, output, state, each) for output, each in both]
    return Witness(
        gradient=error,
        loss=relative(own.losses, theirs.losses),
        output=max((answer.error for answer in answers), default=math.nan),
        curvature=curvature,
        slope=max((error for error, _ in slopes if error is not None), default=None),
        shards=shards,
        note=_told_once(
            [in_jumps, *cut, note, *(words for _, words in slopes), note_of_matrices(matrices)]
        ),
    )


def _answers(
    routine: Routine,
    outputs: Sequence[Output],
    values: Sequence[Tensor],
    states: tuple[State, State],
    z: Metaparams,
) -> list[Answer]:
    """Compare each output with what it is of the handed-in module itself.

    Args:
        routine: The run.
        outputs: phi, one or several, or none.
        values: What ``own_output`` returned of each.
        states: The first state, and the one that the handed-in module held.
        z: Metaparameters.
    """
    if not outputs:
        return []
    pairs = zip(outputs, values, strict=True)
    asked = [(output, value, not is_of_few(output)) for output, value in pairs]
    return compare_outputs(routine, states, z, asked)


def _told_once(notes: Sequence[str]) -> str:
    """Return what was seen in one text, without what is empty or said already."""
    return " ".join(dict.fromkeys(filter(None, notes)))


def _moved_step(
    routine: Routine, first: State, term: Term, z: Metaparams, step: int
) -> tuple[State, Seen]:
    """Return a state that is not the first, and the engine's step there.

    Raises:
        NonFiniteError: If its losses are not finite, also after one step of training.
    """
    state = moved_state(routine, first)
    own = _engine_step(routine, term, z, step, state)
    if not torch.isfinite(own.losses).all():  # 5 % may be too much where a logarithm is near
        state, _ = plain_step(routine, first, z, 0)
        own = _engine_step(routine, term, z, step, state)
    if not torch.isfinite(own.losses).all():
        raise NonFiniteError(
            f"The loss of step {step} is {own.total}. The first step went well, so look at the "
            "examples of this one, and for a logarithm, a root or a division by 0 in the model or "
            "the loss; if there is none, use a lower learning_rate.",
            settings=("training.learning_rate",),
        )
    return state, own


def moved_state(routine: Routine, state: State) -> State:
    """Return a state that is neither the first nor near it: each number is moved by about 5 %.

    No step is taken for it: in a warm-up, none would move anything. Every second tensor grows and
    every other one shrinks, by other shares of its numbers, so that the size of a tensor is another
    one and that of what the layers compute is not.

    Args:
        routine: The run.
        state: Its first state, or one in its place.
    """
    layout, drawn = routine.layout, generator(routine.seed, "witness")
    moved = {"params": _moved(layout, state["params"].detach(), drawn, 0.01)}
    if routine.statistics is not None:
        buffers, real = state[BUFFERS].detach(), routine.statistics.real
        other = _moved(routine.statistics.layout, buffers, drawn, 0.1)
        moved[BUFFERS] = torch.cat([other[:real], buffers[real:]])  # what counts stays whole
    return {**state, **moved}


def _moved(layout: Layout, flat: Tensor, drawn: torch.Generator, from_zero: float) -> Tensor:
    shares = directions(flat, drawn).abs().clamp(max=2)  # normal numbers: 0.8 on average
    flat = flat.clone()
    pairs = zip(flat.split(layout.sizes), shares.split(layout.sizes), strict=True)
    for i, (values, share) in enumerate(pairs):
        if values.any():
            values.mul_(share.mul_(0.06 * (-1) ** i).add_(1))
        else:
            values.add_(share, alpha=from_zero * (-1) ** i)
    return flat


def _engine_step(routine: Routine, term: Term, z: Metaparams, step: int, state: State) -> Seen:
    """Return what the engine finds, and refuse graphs that begin elsewhere."""
    # No copy: in a run, too, a step reads the same memory when it is run again.
    params = state["params"].detach().requires_grad_()
    frozen = Frozen(routine.model, routine, params)
    with routine.reading(state) as calls, torch.enable_grad(), routine.binding.kept():
        losses = routine.term_losses(params, term, z, step)
        loss = losses.sum() / routine.batch_size
        left = {name: end.detach().clone() for name, end in calls.left.items()}
        known = [params, *z.values()]
        foreign = loss.requires_grad and foreign_leaves(loss, known)
        (flat,) = torch.autograd.grad(loss, params, materialize_grads=True, allow_unused=True)
    if foreign:
        with routine.reading(state), torch.enable_grad(), routine.binding.kept():
            refuse_leaves(
                routine.given,
                "loss",
                lambda: routine.term_losses(params, term, z, step).sum(),
                known,
            )
    calls.refuse_written(left)
    frozen.refuse_moved()
    statistics: dict[str, Tensor] = {}
    moved = {n: row.detach() for n, row in routine.moved_buffers(state, calls, step).items()}
    if routine.statistics is not None:
        statistics = routine.statistics.layout.views(moved[BUFFERS])
    gradient = routine.layout.views(routine.hooked(flat, step))
    counted = Counter(call.name for call in calls)
    return Seen(losses.detach(), gradient, statistics, counted, flat, moved)


def _look_at_update(
    routine: Routine, state: State, gradient: Tensor, z: Metaparams, step: int
) -> tuple[State, bool]:
    """Return the state after an update, and whether its parameters follow gradient or moments.

    Raises:
        WitnessError: If the update reads a tensor with a foreign gradient.
    """
    leaves = {n: row.detach().requires_grad_() for n, row in state.items() if n != BUFFERS}
    given = gradient.detach().requires_grad_()
    point = entering(routine, z, step)
    known = [*leaves.values(), given, *point.values(), *z.values()]

    def following() -> State:
        with torch.enable_grad(), routine.binding.kept():
            return _updated(routine, {**state, **leaves}, given, {**z, **point}, step)

    def joined(rows: State) -> Tensor:
        return torch.stack([row.sum() for row in rows.values()]).sum()

    rows = following()
    value = joined(rows)
    if value.requires_grad and foreign_leaves(value, known):
        refuse_leaves(routine.given, "optimizer", lambda: joined(following()), known)
    moments = [row for name, row in leaves.items() if name not in ("params", OWN)]
    return (
        {name: row.detach() for name, row in rows.items()},
        follows(rows["params"], [given, *moments]),
    )


def _updated(routine: Routine, state: State, gradient: Tensor, z: Metaparams, step: int) -> State:
    """Return what the optimizer moves, and the problem's own state, after an update.

    In shards the gradient is that of one, and its hooks are a part of what is compared.
    """
    rows = routine.update(state, routine.hooked_term(gradient, step), z, step)
    return rows | routine.moved_own(state, rows["params"], z, step)
