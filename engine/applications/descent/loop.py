"""Metagradient descent in one process: train, evaluate, reverse, move, repeat; no Prefect.

The parts are those of the pipeline's stages (``engine.replay.outer_step``), so the bits are theirs:
what a flow commits to a store lies in memory here.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from engine.applications.descent.notebook_descent import NotebookDescent, notebook_descent
from engine.metaparameters.outer_updates import OuterState
from engine.numerics.determinism import deterministic
from engine.planning.expected import works_of_parts
from engine.preflight.checkup import checked
from engine.preflight.verdict import CheckReport, heed_later
from engine.progress.board import Board, Course
from engine.progress.displays import Shown, showing
from engine.progress.time_left import Work
from engine.replay.borders import present, refuse_difference
from engine.replay.final_state import FinalState
from engine.replay.outer_step import move_value, reverse_steps, train_steps
from engine.replay.refusals.later_steps import LaterSteps
from engine.replay.seeding import seed_adjoint
from engine.routine.routine import Routine
from engine.schedules.segments import Segment
from engine.shown.html import curve, pairs_html
from engine.storage.states import MemoryStates, RowStore, StateStore
from engine.types import Metaparams, Output, State
from engine.witness.memory.between_steps import BetweenSteps

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False, eq=False)
class OuterStep:
    """One point of the descent, and the model trained with it.

    Attributes:
        number: n; 0 is the set-up that the descent started from.
        value: z_n, with the shape of z.
        metagradient: d phi / d z at z_n, likewise; None at the last one, which is not left.
        scores: Scores by split and name; ``loss`` is among the names.
        losses: Batch loss of each training step.
        seconds: Time that it took.
    """

    number: int
    value: Tensor
    metagradient: Tensor | None
    scores: dict[str, dict[str, Any]]
    losses: list[float]
    seconds: float

    def __repr__(self) -> str:
        shown = ", ".join(f"{split} {scores['loss']:.4g}" for split, scores in self.scores.items())
        return f"OuterStep({self.number}: loss {shown}; {self.seconds:.1f} s)"


@dataclass(frozen=True, repr=False, eq=False)
class Descent:
    """Result of a descent.

    Attributes:
        iterates: z_0, ..., z_N with their metagradients and scores.
        chosen: The one with the lowest loss on ``judge`` (the highest, uphill), or the best by
            ``chosen_by``.
        judge: The split that chose it.
        routine: The run at the chosen z.
        state: s_T there.
        checks: What the preflight found; None if it was left out.
        chosen_by: What was measured on that split to choose it: ``loss``, or a metric
            (``outer={"choose_by": ...}``).
    """

    iterates: list[OuterStep]
    chosen: int
    judge: str
    routine: Routine
    state: State
    checks: CheckReport | None
    chosen_by: str = "loss"

    @property
    def value(self) -> Tensor:
        """The chosen z."""
        return self.iterates[self.chosen].value

    def model(self) -> nn.Module:
        """Return the model that was trained at the chosen z, in evaluation mode."""
        return self.routine.model_at(self.state)

    def __repr__(self) -> str:
        first, best = (each.scores[self.judge][self.chosen_by] for each in self._ends())
        unseen = "" if self.checks is not None else "; neither preflight nor witness ran"
        return (
            f"Descent({len(self.iterates) - 1} outer steps; chosen {self.chosen}: {self.judge} "
            f"{self.chosen_by} {first:.4g} -> {best:.4g}{unseen})"
        )

    def _repr_html_(self) -> str:
        """Return the chosen iterate and each split's loss by outer step as HTML, for a notebook."""
        losses = {
            split: [each.scores[split]["loss"] for each in self.iterates]
            for split in self.iterates[0].scores
        }
        pairs = {
            "outer steps": len(self.iterates) - 1,
            "chosen": f"outer step {self.chosen}, by its {self.judge} {self.chosen_by} "
            f"of {self.iterates[self.chosen].scores[self.judge][self.chosen_by]:.4g}",
            **{
                f"{split} loss": curve(values, f"{split} loss by outer step")
                for split, values in losses.items()
            },
        }
        notes = [_UNSEEN] if self.checks is None else self.checks.sentences()
        return pairs_html("Descent", pairs, notes)

    def _ends(self) -> tuple[OuterStep, OuterStep]:
        return self.iterates[0], self.iterates[self.chosen]


_UNSEEN = (
    "Neither preflight nor witness ran (check=False): no step of this run was compared with one "
    "that the module takes by itself."
)


@torch.inference_mode(mode=False)  # also where a notebook is in it
def descend(
    what: Any,  # noqa: ANN401 (a problem, a recipe or a routine; anything else is refused in words)
    outputs: Output | Mapping[str, Output] | None = None,
    *,
    each: Callable[[OuterStep], object] | None = None,
    check: bool = True,
    store: str | os.PathLike[str] | None = None,
    progress: Shown = False,
    **settings: Any,  # noqa: ANN401 (those of a recipe, checked by it)
) -> Descent:
    """Descend along the metagradient of a training run.

    The bits are those of ``mgd run`` with the same settings: every z_n, every metagradient, the
    scores and the choice. Baselines, reruns and reports are the pipeline's.

    Args:
        what: An ``engine.Problem``; a recipe (a ``DescentRecipe``, the name of one that ships, or
            the path of a file); or an ``engine.Routine`` with one metaparameter.
        outputs: For a routine: phi, or outputs by name: ``objective`` is differentiated,
            ``validation`` chooses the iterate (``objective`` where it is left out), any other is
            only shown. A problem and a recipe bring their own.
        each: Called with every ``OuterStep`` when it is done.
        check: Whether the preflight is asked first, and later steps are looked at, and what they
            refuse is heeded, as by ``mgd run``.
        store: fsspec URL of a folder for the states between segments; in memory by default.
        progress: True: show how far the descent is, in a notebook, a terminal or plain lines. A
            function: is called with an ``engine.progress.snapshot.Snapshot`` twice a second, from a
            thread of its own.
        **settings: Groups of a recipe by name, e.g. ``training={"num_steps": 200}``,
            ``metaparameters={"name": "counts"}``, ``outer={"num_steps": 5}``. Of a routine only
            ``outer``, ``replay`` and ``preflight``.

    Returns:
        All iterates, and the model trained at the chosen one.

    Raises:
        ConfigurationError: If settings are impossible or do not fit ``what``.
        UntrustworthyError: If the preflight, or a look at later steps, refuses the run.
        NonFiniteError: If training or the adjoint diverges.

    Cost:
        N + 1 trainings and N reverse sweeps, and the preflight. In memory are the states between
        segments of ``replay.steps_per_segment`` steps, and two more.

    References:
        Engstrom et al. 2025, arXiv:2503.13751, metagradient descent.
    """
    place = None if store is None else os.fspath(store)
    with showing(progress) as meter:
        descent = notebook_descent(what, outputs, settings)
        with deterministic(descent.threads, tf32=descent.tf32):
            works = [] if progress is False else _works(descent, with_preflight=check)
            course = Course("descent", works, False, descent.judge, descent.outer)
            board = Board(course, meter)
            checks = _run_preflight(descent, board) if check else None
            return _Loop(descent, place, each, board, check=check).run(checks)


def _works(descent: NotebookDescent, *, with_preflight: bool) -> list[Work]:
    """Return the stages that the descent will carry out."""
    lengths = [
        (part.stop - part.start, part.start >= descent.routine.first_step) for part in descent.parts
    ]
    num_outer = descent.outer.num_steps
    return works_of_parts(lengths, descent.maker, num_outer, with_preflight=with_preflight)


def _run_preflight(descent: NotebookDescent, board: Board) -> CheckReport:
    """Run the preflight and stop a run that it refuses, unless told not to."""
    with board.at_work("preflight", "preflight"):
        found = checked(descent.routine, descent.output, descent.replay)
    for sentence in found.gate(descent.preflight):
        logger.warning("preflight, %s", sentence)
    return found


class _Loop:
    """The state of a descent between its parts."""

    def __init__(
        self,
        descent: NotebookDescent,
        store: str | None,
        each: Callable[[OuterStep], object] | None,
        board: Board,
        *,
        check: bool,
    ) -> None:
        self._descent, self._each, self._board, self._check = descent, each, board, check
        self._store = _store(descent, store)
        self._borders: StateStore = MemoryStates()
        self._best: tuple[Routine, State] | None = None

    def run(self, checks: CheckReport | None) -> Descent:
        """Take all outer steps."""
        descent, iterates = self._descent, list[OuterStep]()
        kind, memory = descent.routine.metaparameter, OuterState()
        value = kind.value.reshape(-1)
        for number in range(descent.outer.num_steps + 1):
            started = time.perf_counter()
            routine = descent.routine.at(value)
            kept = BetweenSteps(routine, routine.point()) if self._check else None
            with nullcontext() if kept is None else kept.training():
                final, losses = self._train(routine, number)
            with self._board.at_work(f"evaluate[{number}]", "evaluate"):
                scores = descent.score(routine, final)
            self._board.scored(number, scores)
            gradient = None
            if number < descent.outer.num_steps:
                with nullcontext() if kept is None else kept.reversing():
                    gradient = self._reverse(routine, final, number, kept)
            iterates.append(
                OuterStep(
                    number,
                    value.reshape(kind.value.shape),
                    gradient,
                    scores,
                    losses,
                    time.perf_counter() - started,
                )
            )
            self._keep_best(iterates, routine, final)
            logger.info("%s", iterates[-1])
            if self._each is not None:
                self._each(iterates[-1])
            if gradient is not None:
                with self._board.at_work(f"update[{number}]", "update"):
                    value, memory = move_value(
                        descent.outer, kind, value, gradient.reshape(-1), memory, number
                    )
        self._board.finish()
        assert self._best is not None  # there is at least one iterate
        chosen = self._chosen(iterates)
        routine, state = self._best
        return Descent(
            iterates,
            chosen,
            descent.judge,
            routine,
            FinalState(state),
            checks,
            descent.outer.choose_by,
        )

    def _chosen(self, iterates: list[OuterStep]) -> int:
        outer, judge = self._descent.outer, self._descent.judge
        return outer.best([each.scores[judge][outer.choose_by] for each in iterates])

    def _keep_best(self, iterates: list[OuterStep], routine: Routine, final: State) -> None:
        if self._chosen(iterates) == len(iterates) - 1:
            self._best = (routine, final)

    def _train(self, routine: Routine, number: int) -> tuple[State, list[float]]:
        """Train all segments and keep the states at their borders."""
        state, losses = routine.initial_state(), list[float]()
        self._borders = _emptied(self._store)
        for part in self._descent.parts:
            if part.start >= routine.first_step:
                self._borders.save(part.start, state)
            with self._board.at_work(f"train[{number}] {part.start}-{part.stop}", "train"):
                state, more = train_steps(routine, range(part.start, part.stop), state)
            losses += more
        self._borders.save(routine.num_steps, state)
        return state, losses

    def _reverse(
        self, routine: Routine, final: State, number: int, kept: BetweenSteps | None
    ) -> Tensor:
        """Reverse the segments that z has a part in, last first."""
        descent = self._descent
        with self._board.at_work(f"seed[{number}]", "seed"):
            _, adjoint = seed_adjoint(routine, final, descent.output)
        after: tuple[State, Metaparams] = (adjoint, {})
        made_in = present(routine)
        for part in reversed([each for each in descent.parts if each.start >= routine.first_step]):
            later = None
            if kept is not None:
                later = LaterSteps(routine, routine.point(), refuses=False, memory=kept)
            work = f"reverse[{number}] {part.start}-{part.stop}"
            with self._board.at_work(work, "reverse"):
                sweep = reverse_steps(
                    routine,
                    range(part.start, part.stop),
                    after,
                    first=partial(self._load, routine, part.start),
                    meet=partial(self._meet, routine, part, made_in),
                    vjp=descent.vjp,
                    maker=descent.maker,
                    later=later,
                )
            for sentence in heed_later(later.wrong if later else [], descent.preflight):
                logger.warning("%s", sentence)
            after = sweep.adjoint, sweep.metagradient
        (gradient,) = after[1].values()
        return gradient.detach().cpu()

    def _load(self, routine: Routine, step: int) -> State:
        rows = self._borders.load(step)
        return {name: row.to(routine.device) for name, row in rows.items()}

    def _meet(
        self, routine: Routine, part: Segment, made_in: dict[str, object], again: State
    ) -> None:
        """Compare the end of a segment's replay with the state that the training reached."""
        refuse_difference(routine, part.stop, self._load(routine, part.stop), again, made_in)


def _store(descent: NotebookDescent, url: str | None) -> RowStore | None:
    """Return the store of the states between segments; None if they stay in memory."""
    if url is None:
        return None
    start = descent.routine.initial_state()
    layout = {name: (len(row), row.dtype) for name, row in start.items()}
    return RowStore.create(url, layout, descent.routine.num_steps + 1, attributes={})


def _emptied(store: RowStore | None) -> StateStore:
    """Return a place for the states of another z."""
    if store is None:
        return MemoryStates(torch.device("cpu"))
    for step in store.steps():
        store.delete(step)
    return store
