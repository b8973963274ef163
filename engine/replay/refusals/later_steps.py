"""The second derivative of later steps beside a finite difference.

A loss may begin to cut something out of the graph late in a run, for example for examples that are
learned by then. No check before the training can see that. So four states of the run itself are
checked when the reverse sweep comes to them: those of the last two steps, whose batches differ, and
two between them and the start. And wherever a step that is reversed takes something out of the
graph at a line that no comparison has run through, as every tenth step may, it is compared, too.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor

from engine.errors import WitnessError
from engine.numerics.determinism import deterministic
from engine.replay.interpreter import Sweep
from engine.replay.refusals.reversed_steps import ReversedSteps
from engine.routine.diagnosis import told_by_witness
from engine.routine.loss_terms import Term
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.routine import Routine
from engine.schedules.trees import Action, Forward, Reverse, Trace
from engine.step.compiled import CompiledVjp
from engine.step.gradient import batch_in_order
from engine.torch_modes import listening, listening_throughout
from engine.types import Metaparams, State
from engine.witness.compared_point import updated
from engine.witness.cuts.asked import AskedCuts
from engine.witness.cuts.callers import Place
from engine.witness.cuts.changed import notices
from engine.witness.cuts.places import CutPlaces
from engine.witness.cuts.scripted import scripted_cuts
from engine.witness.derivatives.curvature import compare_loss, compare_step_update
from engine.witness.derivatives.few_examples import Here
from engine.witness.derivatives.moved_statistics import refuse_cut_statistics
from engine.witness.derivatives.own_state_reads import refuse_cut_own_state
from engine.witness.derivatives.updates import is_shipped
from engine.witness.memory.between_steps import BetweenSteps

_MOST = 8
"""Steps that are compared because of what they take out of the graph: what is taken out at other
lines by then, or where no comparison comes to it, is only said."""


class LaterSteps:
    """Refuses a loss whose second derivative is wrong at a later step.

    It is given every action of a schedule before the action is carried out. A schedule that
    reverses a part of the run is checked only if one of the four steps is in that part.

    Args:
        routine: The run.
        z: Metaparameters.
        refuses: Whether a wrong derivative raises an error at once. A stage only keeps it in
            ``wrong``, because the result of a stage does not depend on what is done about it.
        memory: Takes away what loss and update keep; by default, what they have not kept by now.
            Whoever calls this does so inside of its ``reversing``, which puts back what the
            training left.

    Attributes:
        unseen: Steps at which no comparison was possible, for example because finite differences of
            several distances disagreed.
        wrong: What is wrong, in words.

    Cost:
        A look at each call of torch by the user's code in a step that is reversed, some three
        microseconds; at each of four states the losses of a batch, which say what examples tell
        most, and a product and a gradient in float64: of one example, or of more where they are
        small. The same of each part of at most 8 other states, at most twice, and an update. Where
        the module moves buffers, what ``refuse_cut_statistics`` takes; with a state of the
        problem's own, that of ``refuse_cut_own_state``.
    """

    def __init__(
        self,
        routine: Routine,
        z: Metaparams,
        *,
        refuses: bool = True,
        memory: BetweenSteps | None = None,
    ) -> None:
        self._routine, self._z, self._refuses = routine, z, refuses
        self.unseen: list[int] = []
        self.wrong: list[str] = []
        self._own_update = not is_shipped(routine.optimizer) or routine.own is not None
        self._met: dict[tuple[Place, int], None] = {}
        self._compared: set[Place] = set()
        self._unanswered: set[tuple[Place, int]] = set()
        self._entering: set[Place] = set()
        self._in_backward: set[Place] = set()
        self._backward_of: set[int] = set()
        self._counted: set[Place] = set()
        self._missed: dict[Place, None] = {}
        self._scripted = scripted_cuts(routine)
        self.memory = BetweenSteps(routine, z) if memory is None else memory
        self._kept = ReversedSteps(routine, z, self.memory, self._say)
        self._more = self._more_counted = _MOST
        first, stop = routine.first_step, routine.num_steps
        middle = (first + stop) // 2
        self._steps = {
            max(step, first) for step in (middle, (middle + stop) // 2, stop - 2, stop - 1)
        }

    def __call__(self, action: Action, sweep: Sweep) -> AbstractContextManager[None] | None:
        """Compare, if the action reverses one of the steps, and return what listens to it.

        Raises:
            WitnessError: Says by how much it is off, or that the call writes into its parameters.
        """
        if isinstance(action, Reverse):
            self._kept.before(action.step, sweep)
        if isinstance(action, Reverse) and action.step in self._steps:
            state, step = sweep.before(action.step), action.step
            with sweep.unmoved.watching(state, step):
                if self._compare_or_note(lambda: self._compare_loss(state, step), step) is None:
                    self.unseen.append(step)
        if isinstance(action, Reverse | Trace) and not isinstance(sweep.vjp, CompiledVjp):
            return self._listening(action, sweep)
        # A compiled step calls no code of anybody's when it is reversed.
        if isinstance(action, Forward):
            return self._kept.running(range(action.start, action.stop), sweep.state)
        return self._kept.reversing(action.step, sweep) if isinstance(action, Reverse) else None

    @contextmanager
    def _listening(self, action: Reverse | Trace, sweep: Sweep) -> Iterator[None]:
        """Note what steps take out of the graph, and compare one that is reversed if it is new."""
        reversed_at = action.step if isinstance(action, Reverse) else None
        state = {} if reversed_at is None else sweep.before(reversed_at)

        def step() -> int:
            if isinstance(action, Reverse):
                return action.step
            return action.start + len(sweep.graphs)  # the one after those whose graphs are there

        places = AskedCuts(step, self._routine, self._asked())
        heard = (
            self._kept.reversing(action.step, sweep)
            if isinstance(action, Reverse)
            else self._kept.running(range(action.start, action.stop), sweep.state)
        )
        with listening(places, in_updates=self._own_update), heard:
            yield
        self._met |= places.found
        self._backward_of |= places.backward_of
        self._unanswered |= {
            met for met in places.found if met in places.unanswered or met[1] in self._backward_of
        }
        self._entering |= places.entering
        self._entering |= {place for place, at in places.found if at in self._backward_of}
        self._in_backward |= places.in_backward
        if reversed_at is None:
            return
        if self._more and self._unknown(reversed_at):
            self._more -= 1
            self._compare_all(state, reversed_at)
        self._look_at_idle(state, reversed_at)

    def _look_at_idle(self, state: State, step: int) -> None:
        """Compare a step in which a cut counts that counted in no comparison so far."""
        if self._scripted and not self._is_settled(state, step):
            self.unseen.append(step)
        idle = [
            place
            for place, at in self._met
            if at == step and (place, at) in self._unanswered and self._is_idle(place)
        ]
        if not idle or not self._notices(state, step, idle):
            return
        counting = [each for each in idle if len(idle) == 1 or self._notices(state, step, [each])]
        if self._more_counted and self._is_settled(state, step):
            self._counted |= {*counting}
        else:
            self._missed |= dict.fromkeys(counting)
        self._more_counted = max(0, self._more_counted - 1)

    def _is_idle(self, place: Place) -> bool:
        """Say whether a place may come to count, and has not in any comparison."""
        is_open = place in self._entering and place not in self._counted
        return is_open and self._is_known(place)

    def _asked(self) -> set[Place]:
        """Return the places that a loss can be asked about where it is called."""
        if self._routine.skip_idle:  # a call more would count as use
            return set()
        return {each for each in self._entering - self._in_backward if self._is_idle(each)}

    def _notices(self, state: State, step: int, places: list[Place]) -> bool:
        with deterministic():
            return notices(
                self._routine,
                state,
                self._z,
                step,
                places,
                in_backward=step in self._backward_of,
                in_update=self._own_update,
            )

    def _is_settled(self, state: State, step: int) -> bool:
        """Compare all of a step, and say whether each comparison told."""
        found: list[float | None] = []
        if self._own_update:
            found.append(self._compare_or_note(lambda: self._compare_update(state, step), step))
        for here, part in self._parts(state, step):
            compare = partial(self._compare_loss, here, step, part, is_whole=True)
            found.append(self._compare_or_note(compare, step))
        return None not in found

    def _compare_all(self, state: State, step: int) -> None:
        """Compare the parts of a step until nothing that it takes out of the graph is unknown."""
        if self._own_update:
            self._compare_or_note(lambda: self._compare_update(state, step), step)
        for is_whole in (False, True):
            self._compare_or_note(
                lambda w=is_whole: self._compare_parts(state, step, is_whole=w), step
            )

    def _unknown(self, step: int | None = None) -> list[Place]:
        """Return where a step, or any, cuts and no comparison has been."""
        return [
            place for place, at in self._met if step in (None, at) and not self._is_known(place)
        ]

    def _is_known(self, place: Place) -> bool:
        """Say whether a comparison ran through a place; what is computed again ends earlier."""
        return place in self._compared or any(
            each[: len(place)] == place for each in self._compared
        )

    def _compare_or_note(self, compare: Callable[[], float | None], step: int) -> float | None:
        """Carry out a comparison, and refuse what is wrong, or note it."""
        try:
            with told_by_witness(), deterministic():
                return compare()
        except WitnessError as error:
            self._say(_later(error, step))
            return 0.0

    def _say(self, words: str) -> None:
        if self._refuses:
            raise WitnessError(words) from None
        if words not in self.wrong:
            self.wrong.append(words)

    @property
    def note(self) -> str:
        """Say which steps could not be compared; empty if all were."""
        steps = ", ".join(map(str, sorted(self.unseen)))
        places = dict.fromkeys(place[0] for place in [*self._unknown(), *self._missed])
        lines = ", ".join(f"{file}:{line}" for file, line in [*places][:3])
        words = (
            steps
            and (
                f"In step {steps} no finite difference settles, so the second derivative of the "
                "loss was compared at the start only."
            ),
            lines and f"What is taken out of the graph at {lines} was met by no comparison.",
        )
        return " ".join(filter(None, words))

    def _compare_parts(self, state: State, step: int, *, is_whole: bool) -> None:
        """Compare those shards and pieces of a step's batch that cut where nobody has been.

        Args:
            state: s_t.
            step: t.
            is_whole: Whether all examples are compared, as where only many of them lead to a cut.
        """
        for here, part in self._parts(state, step):
            if not self._unknown(step):
                return
            self._compare_loss(here, step, part, is_whole=is_whole)

    def _parts(self, state: State, step: int) -> list[tuple[State, Term]]:
        """Return the shards and pieces of a step's batch, each with the state that it reads."""
        routine, z = self._routine, self._z
        rows = {name: row.detach() for name, row in state.items()}
        params = rows["params"].clone().requires_grad_()
        before = batch_in_order(routine, rows, params, z, step)[2]
        return [
            ({**rows, **before[min(number, len(before) - 1)]}, part)
            for number, term in enumerate(routine.terms(step))
            for part in (term.cut(routine.piece) if routine.piece is not None else [term])
        ]

    def _compare_loss(
        self, state: State, step: int, part: Term | None = None, *, is_whole: bool = False
    ) -> float | None:
        """Return the error of the second derivative; None if it could not be taken."""
        routine, z = self._routine, self._z
        term = routine.first_piece(next(routine.terms(step))) if part is None else part
        rows = {name: row.detach() for name, row in state.items()}
        losses = self._losses(rows, term, step)
        if not torch.isfinite(losses).all():
            return None
        if part is None or (part.purpose[0] == "batch" and part.shard == 0):
            # A later shard's state has seen the first one, whose maximum is a kink by then.
            refuse_cut_statistics(routine, rows, z, step)
            with CutPlaces() as read:
                is_told = not refuse_cut_own_state(routine, rows, z, step)
            self._compared |= {place for place, _ in read.found if is_told}
        moved = rows["params"] != routine.initial_state(z)["params"]
        here = Here(rows, term, losses, {}, torch.zeros(0), step, z, {}, True, (moved,), is_whole)
        places = CutPlaces()
        with listening_throughout(places):
            error, _ = compare_loss(routine, here)
        if error is not None:  # else nothing was learned there
            self._compared |= {place for place, _ in places.found}
        return error

    def _compare_update(self, state: State, step: int) -> float | None:
        """Compare the derivative of the update at the moments of a step; None if it was not."""
        routine, z = self._routine, self._z
        rows = {name: row.detach() for name, row in state.items()}
        params = rows["params"].clone().requires_grad_()
        gradient, _, _ = batch_in_order(routine, rows, params, z, step)
        before = {name: row for name, row in rows.items() if name != BUFFERS}
        with torch.no_grad(), routine.reading(rows), routine.binding.keeping():
            after = updated(routine, before, gradient.detach(), z, step)
        moves = {name: float((row - before[name]).norm()) for name, row in after.items()}
        term, losses = next(routine.terms(step)), torch.zeros(0)
        here = Here(rows, term, losses, before, gradient.detach(), step, z, moves, True)
        places = CutPlaces()
        with listening_throughout(places):
            is_told = not compare_step_update(routine, here)
        self._compared |= {place for place, _ in places.found if is_told}
        return 0.0 if is_told else None

    def _losses(self, state: State, term: Term, step: int) -> Tensor:
        params = state["params"].requires_grad_()
        with torch.enable_grad(), self._routine.reading(state):  # a loss may take derivatives
            losses = self._routine.term_losses(params, term, self._z, step)
        params.requires_grad_(False)
        return losses.detach()


def _later(error: WitnessError, step: int) -> str:
    return (
        f"{error} That is so in step {step}, and was not at the start, so it begins with the "
        "training, or comes only now and then: look for what depends on the step, on the size of a "
        "loss, on how sure the model is, or on how large a weight is."
    )
