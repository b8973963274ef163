"""Self-verifying replay: replayed states are compared, bit by bit, with those of the first pass.

A schedule replays up to the step before a saved state, never to that state itself. At these places,
which are called borders, one more step is taken (or the graph that was kept of it is used), and its
result is compared with the saved state. So a replay that differs from the training is found at the
next border at the latest. With store-all nothing is replayed and nothing compared.
"""

from collections.abc import Callable, Iterable, Mapping

from engine.errors import ReplayMismatchError
from engine.numerics.environment import environment, likely_cause, machine
from engine.numerics.fingerprint import difference, state_fingerprint
from engine.replay.interpreter import Sweep
from engine.replay.written_parameters import refuse_written
from engine.routine.routine import Routine
from engine.schedules.trees import Action, Load, Reverse, Save, Trace
from engine.types import Metaparams, State

Fingerprints = dict[str, str]


class _Meetings:
    """Finds the steps whose end is a saved state that a replay leads to, on step numbers alone.

    The states considered are those that the first pass saves, and the one that it starts from. The
    first pass ends where the first step is reversed.
    """

    def __init__(self) -> None:
        self._saved: set[int] = set()
        self._traced: set[int] = set()
        self._is_reversing = False
        self._loaded: int | None = None

    def is_saved(self, step: int) -> bool:
        """Say whether the first pass saves s_step."""
        return step in self._saved

    def has_graph(self, step: int) -> bool:
        """Say whether the graph of a step was kept, at its last replay so far."""
        return step in self._traced

    def meets(self, action: Action) -> bool:
        """Say whether ``action``, which comes next, reverses a step that ends at such a state."""
        match action:
            case Load(step, _):
                self._loaded = step
                if not self._is_reversing:
                    self._saved.add(step)
            case Save(step, _) if not self._is_reversing:
                self._saved.add(step)
            case Reverse(step):
                is_replayed = step != self._loaded or step not in self._saved
                is_border = self._is_reversing and step + 1 in self._saved
                self._is_reversing = True
                return is_replayed and is_border
            case Trace(start, stop):
                self._traced.update(range(start, stop))
            case _:
                pass
        return False


def count_borders(actions: Iterable[Action], stop: int | None = None) -> int:
    """Count the plain steps that comparing replayed with stored states adds to a schedule.

    It is one step for each saved state that a replay leads to, unless the graph of the step before
    that state was kept.

    Args:
        actions: The schedule.
        stop: The end of a segment, which ``SegmentBorders`` compares too.
    """
    meetings, count = _Meetings(), 0
    for action in actions:
        meets = meetings.meets(action)
        if isinstance(action, Reverse) and not meetings.has_graph(action.step):
            count += meets or action.step + 1 == stop
    return count


class Borders:
    """Compares each state that the first pass saves with what the replay makes there.

    It is given every action of a schedule before the action is carried out.

    Args:
        routine: The run.
        z: Metaparameters.

    Cost:
        One plain step for each state that the first pass saves and a replay leads to without
        graphs, see ``count_borders``, and one state kept.
    """

    def __init__(self, routine: Routine, z: Metaparams) -> None:
        self._routine, self._z = routine, z
        self._made_in = present(routine)
        self._meetings = _Meetings()
        self._stored: State = {}

    def __call__(self, action: Action, sweep: Sweep) -> None:
        """Compare, if the action reverses the step before a saved state.

        Raises:
            ReplayMismatchError: If the state comes out otherwise; names step, element and cause.
        """
        meets = self._meetings.meets(action)
        if not isinstance(action, Reverse):
            return
        if meets:
            again = sweep.after(self._routine, self._z, action.step)
            end = action.step + 1
            try:
                refuse_difference(self._routine, end, self._stored, again, self._made_in)
            except ReplayMismatchError:  # perhaps the step after it wrote into what was stored
                refuse_written(self._routine, again, self._z, end)
                raise
        is_saved = self._meetings.is_saved(action.step)
        self._stored = sweep.before(action.step) if is_saved else {}


class SegmentBorders:
    """Compares the borders inside a segment, and hands the state at its end to a comparison.

    The state at the end comes from another stage, perhaps from another machine.

    Args:
        routine: The run.
        z: Metaparameters.
        stop: Step after the segment's last one.
        compare: Called with s_stop of the replay, when the step before it is reversed.

    Cost:
        That of ``Borders``, likewise for the end, and of ``compare``.
    """

    def __init__(
        self, routine: Routine, z: Metaparams, stop: int, compare: Callable[[State], None]
    ) -> None:
        self._routine, self._z = routine, z
        self._inside = Borders(routine, z)
        self._last, self._compare = stop - 1, compare

    def __call__(self, action: Action, sweep: Sweep) -> None:
        """Compare, if the action reverses the last step or one before a saved state."""
        if isinstance(action, Reverse) and action.step == self._last:
            self._compare(sweep.after(self._routine, self._z, self._last))
        self._inside(action, sweep)


def refuse_difference(
    routine: Routine, step: int, stored: State, again: State, made_in: Mapping[str, object]
) -> None:
    """Refuse a replayed state that differs from the stored one.

    Args:
        routine: Routine whose layout names the parameters.
        step: t, whose state it is.
        stored: s_t of the forward sweep.
        again: s_t of the replay.
        made_in: ``engine.numerics.environment.environment`` of the forward sweep.
    """
    for name, row in stored.items():
        found = difference(row, again[name])
        if found is None:
            continue
        index, before, after = found
        raise ReplayMismatchError(
            f"Step {step - 1}, replayed, made another state {step} than the forward sweep: "
            f"{routine.place(name, index)} of {name} was {before} and is {after} now. "
            f"{likely_cause(made_in, present(routine))}"
        )


def present(routine: Routine) -> dict[str, object]:
    """Describe the environment in which the routine runs now."""
    return {**environment(str(routine.device)), **machine()}


def differs(state: State, fingerprints: Fingerprints) -> bool:
    """Say whether the bits of a state differ from fingerprints; only fingerprints leave a GPU."""
    return state_fingerprint(state) != fingerprints
