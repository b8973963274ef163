"""Compares a step that the user's own module takes by itself with a step of the engine.

Every reference inside the engine calls the module as the engine does, so all of them agree on a
run that is not the user's. The witness is outside of it: the module that was handed in takes a step
in place, by torch's own ``backward``, at a state that is not the first. Gradient, loss, running
statistics and output have to be the engine's, what is frozen must not move, and every tensor with a
gradient must be one that the engine knows. A finite difference stands against second derivatives
that torch itself has wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.models.attention import note_of_matrices, whole_matrices
from engine.numerics.determinism import deterministic, filling
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.shown.line import shown_fields
from engine.step.coupling import note_of_shards
from engine.step.missing_derivatives import named_refusals
from engine.step.products import entering
from engine.types import Metaparams, Output, State
from engine.witness.agreement import relative
from engine.witness.compared_point import ComparedPoint, compared_point, updated
from engine.witness.compared_steps import StepNumbers, compare_shards, compare_steps, own_step
from engine.witness.derivatives.curvature import compare_derivatives
from engine.witness.derivatives.entries import refuse_cut_entries
from engine.witness.derivatives.jumps import follows, note_of_jumps
from engine.witness.derivatives.moved_statistics import refuse_cut_statistics
from engine.witness.derivatives.own_state_reads import refuse_cut_own_state
from engine.witness.derivatives.updates import refuse_cut_start
from engine.witness.in_place import count_batches, given_module, in_place
from engine.witness.leaves import foreign_leaves, refuse_leaves
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
        """The findings in one text, for messages and reports."""
        note = "".join(f" {words}" for words in (self.shards, self.note) if words)
        if not self.was_asked:
            return (
                "There was no witness (witness=False): no step of this run was compared with one "
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
        with whole_matrices() as matrices:
            point = compared_point(routine, z)
        before = {**point.first, **point.state}
        with named_refusals(point.step):
            after, heard = _look_at_update(routine, before, point.gradient, z, point.step)
            in_jumps = ""
            if outputs and not heard and not jumps:
                in_jumps = note_of_jumps(routine, before, point.gradient, z, point.step)
        seen = _step_by_itself(point, outputs)
        refuse_cut_start(routine, z)
        error = _gradient_error(point, seen)
        refuse_another(routine, point.step, point.own.moved | after, seen.elsewhere, point.led_to)
        cut = [
            check(routine, point.state, z, point.step)
            for check in (refuse_cut_statistics, refuse_cut_own_state, refuse_cut_entries)
        ]
        answers = _answers(point, outputs, seen.values)
        moves = {name: float((row - before[name]).norm()) for name, row in after.items()}
        curvature, note = compare_derivatives(routine, point.here(after, moves))
        both = zip(outputs, answers, strict=True)
        slopes = [compare_output_slope(routine, output, point.state, each) for output, each in both]
    return Witness(
        gradient=error,
        loss=relative(point.own.losses, seen.step.losses),
        output=max((answer.error for answer in answers), default=math.nan),
        curvature=curvature,
        slope=max((error for error, _ in slopes if error is not None), default=None),
        shards=note_of_shards(routine) if routine.shards > 1 else "",
        note=_told_once(
            [in_jumps, *cut, note, *(words for _, words in slopes), note_of_matrices(matrices)]
        ),
    )


@dataclass(frozen=True)
class _ByItself:
    """What the handed-in module computes by itself at the point of the comparison.

    Attributes:
        step: Its step.
        values: Its outputs, in order.
        elsewhere: What the engine's step leads to while the handed-in module holds other numbers.
    """

    step: StepNumbers
    values: list[Tensor]
    elsewhere: State


def _step_by_itself(point: ComparedPoint, outputs: Sequence[Output]) -> _ByItself:
    """Let the handed-in module take its step and compute its outputs.

    Raises:
        WitnessError: If the step moves something that is frozen.
    """
    routine, given = point.routine, given_module(point.routine)
    with routine.reading(point.state), in_place(given, routine, point.state) as place:
        frozen = place.watch()
        count_batches(given, routine, point.calls_before)
        step = own_step(given, routine, [point.term], point.z, point.step)
        frozen.refuse_moved()
        values = [own_output(place, output) for output in outputs]
        # The engine's step is taken again while the handed-in module holds other numbers. A loss
        # that reads that module then differs in its last bits, however little it reads.
        place.put()
        return _ByItself(step, values, point.led_to())


def _gradient_error(point: ComparedPoint, seen: _ByItself) -> float:
    """Return the largest error of the engine's gradient, of the first shard and of all of them.

    Raises:
        WitnessError: If the steps differ by more than roundings do.
    """
    error = compare_steps(point.routine, point.own, seen.step, point.again)
    if point.routine.shards == 1:
        return error
    shards = compare_shards(point.routine, point.state, point.calls_before, point.z, point.step)
    return max(error, shards)


def _answers(
    point: ComparedPoint, outputs: Sequence[Output], values: Sequence[Tensor]
) -> list[Answer]:
    """Compare each output with the value that the handed-in module itself gives.

    Args:
        point: Where the outputs are compared.
        outputs: phi, one or several, or none.
        values: What ``own_output`` returned for each.
    """
    if not outputs:
        return []
    pairs = zip(outputs, values, strict=True)
    asked = [(output, value, not is_of_few(output)) for output, value in pairs]
    return compare_outputs(point.routine, (point.first, point.state), point.z, asked)


def _told_once(notes: Sequence[str]) -> str:
    """Return the notes as one text, without empty ones and repetitions."""
    return " ".join(dict.fromkeys(filter(None, notes)))


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
        with torch.enable_grad(), routine.binding.keeping():
            return updated(routine, {**state, **leaves}, given, {**z, **point}, step)

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
